"""What is measured on held-out rows, by torchmetrics; over several ranks it adds up their states itself."""

from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from ..storage.format import Schema


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
    return MetricCollection({"rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError()})


def make_loss_metric() -> MeanMetric:
    """The mean loss over rows."""
    return MeanMetric()
