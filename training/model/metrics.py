"""What is measured on held-out rows, by torchmetrics; over several ranks it adds up their states itself."""

from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from ...storage.format import Schema


def make_metrics(schema: Schema) -> MetricCollection:
    """Accuracy and top-3 accuracy for classes, root mean squared and mean absolute error for quantities."""
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
    """What a collection's `compute` gave as numbers, one for each label of a regression."""
    if schema.task == "classification":
        return {name: float(value) for name, value in computed.items()}
    of_labels = (schema.by_label(name, value.reshape(-1).tolist()) for name, value in computed.items())
    return {name: value for scores in of_labels for name, value in scores.items()}


def make_loss_metric() -> MeanMetric:
    """The mean loss over rows."""
    return MeanMetric(nan_strategy="disable")  # one that is not finite is to be seen
