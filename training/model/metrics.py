"""Metrics on held-out rows, made of sums over the rows."""

import torch
from torch import Tensor

from ...storage.format import SMALLEST_PROBABILITY, THRESHOLD, Schema

TOP = 3


def count_sums(schema: Schema) -> int:
    """How many sums the metrics are made of."""
    return {"classification": 2, "multilabel": 2 * schema.outputs + 1}.get(str(schema.task), 2 * schema.outputs)


def sum_scores(schema: Schema, predicted: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """What a batch adds to the sums, (sums,) float64: for a classification the rows whose class is the most probable
    one, and those where it is among the three most probable; for labels that are 0 or 1 the rows where each is right,
    its log losses, and the rows where all are right; for a regression the squared and then the absolute errors of each
    label.

    `predicted` are probabilities, (rows, classes) or (rows, labels), or values, (rows, labels). Rows count by their
    weights, (rows,) float64.
    """
    if schema.classes:
        chosen = predicted.topk(min(TOP, schema.outputs), dim=1).indices == y.long()[:, None]
        return torch.stack([weight @ chosen[:, 0].double(), weight @ chosen.sum(1).double()])
    if schema.task == "multilabel":
        right = (predicted >= THRESHOLD) == (y != 0)
        losses = -torch.where(y != 0, predicted, 1 - predicted).double().clamp_min(SMALLEST_PROBABILITY).log()
        return torch.cat([weight @ right.double(), weight @ losses, (weight @ right.all(dim=1).double())[None]])
    errors = (predicted - y.reshape(predicted.shape)).double()
    return torch.cat([weight @ errors.square(), weight @ errors.abs()])


def name_scores(schema: Schema, means: list[float]) -> dict[str, float]:
    """The metrics by name, from the sums over all rows divided by their number: accuracy and, for more than four
    classes, top-3 accuracy; of labels that are 0 or 1 the accuracy and log loss of each, the mean accuracy, and how
    often all are right; or RMSE and MAE, of each label where there are several."""
    if schema.classes:
        return dict(zip(schema.hits, means, strict=False))
    if schema.task == "multilabel":
        right, losses = means[: schema.outputs], means[schema.outputs : -1]
        return {
            "accuracy": sum(right) / len(right),
            "subset_accuracy": means[-1],
            **schema.by_label("loss", losses),
            **schema.by_label("accuracy", right),
        }
    squared, absolute = means[: schema.outputs], means[schema.outputs :]
    return {
        **schema.by_label("rmse", [mean**0.5 for mean in squared]),
        **schema.by_label("mae", absolute),
    }
