"""Metrics on held-out rows, made of sums over the rows."""

import torch
from torch import Tensor

from ...storage.format import Schema

TOP = 3


def sum_scores(schema: Schema, predicted: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """What a batch adds to the sums, (sums,) float64: for a classification the rows whose class is the most probable
    one, and those where it is among the three most probable; for a regression the squared and then the absolute errors
    of each label.

    `predicted` are probabilities, (rows, classes), or values, (rows, labels). Rows count by their weights, (rows,).
    """
    if schema.classes:
        chosen = predicted.topk(min(TOP, schema.outputs), dim=1).indices == y.long()[:, None]
        return torch.stack([weight @ chosen[:, 0].double(), weight @ chosen.sum(1).double()])
    errors = (predicted - y.reshape(predicted.shape)).double()
    return torch.cat([weight @ errors.square(), weight @ errors.abs()])


def name_scores(schema: Schema, means: list[float]) -> dict[str, float]:
    """The metrics by name, from the sums over all rows divided by their number: accuracy and, for more than four
    classes, top-3 accuracy; or RMSE and MAE, of each label where there are several."""
    if schema.classes:
        return dict(zip(schema.hits, means, strict=False))
    squared, absolute = means[: schema.outputs], means[schema.outputs :]
    return {
        **schema.by_label("rmse", [mean**0.5 for mean in squared]),
        **schema.by_label("mae", absolute),
    }
