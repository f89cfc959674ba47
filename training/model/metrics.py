"""Metrics on held-out rows, computed with torchmetrics, which combines their states across ranks."""

from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from ...storage.format import Schema


def make_metrics(schema: Schema) -> MetricCollection:
    """Accuracy and top-3 accuracy for a classification, RMSE and MAE for a regression."""
    if schema.task == "classification":
        classes = schema.outputs
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "top3": MulticlassAccuracy(classes, average="micro", top_k=min(3, classes)),
            }
        )
    labels = schema.outputs
    return MetricCollection(
        {"rmse": MeanSquaredError(squared=False, num_outputs=labels), "mae": MeanAbsoluteError(num_outputs=labels)}
    )


def name_metrics(schema: Schema, computed: dict[str, Tensor]) -> dict[str, float]:
    """The values that a collection's `compute` returned, as floats by name: for a regression, one per target."""
    if schema.task == "classification":
        return {name: float(value) for name, value in computed.items()}
    by_target = (schema.by_label(name, value.reshape(-1).tolist()) for name, value in computed.items())
    return {name: value for scores in by_target for name, value in scores.items()}


def make_loss_metric() -> MeanMetric:
    """The mean loss over rows."""
    return MeanMetric(nan_strategy="disable")  # so that a loss that is not finite is reported as such
