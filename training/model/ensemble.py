"""Ensembles: combine the predictions of several models."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ...storage.format.schema import THRESHOLD, Schema

SMALLEST_ERROR = 1e-12  # so that a perfect model has a finite weight


def combine(predictions: Tensor, kind: str, weights: Sequence[float], schema: Schema) -> Tensor:
    """Combine the predictions of all models, (models, rows, outputs), into one, (rows, outputs).

    For classes and labels, predictions are probabilities and the result is float32; otherwise they are values in
    float64. Of masks they are probabilities of each pixel, with two more axes, and the result are codes; of images it
    is float32; see `as_stored`. The kinds:

    - mean, and refit, which has one model: the mean.
    - median: the median; probabilities of classes are rescaled to sum to 1.
    - vote: for each class, the fraction of models that find it the most probable; for each label, of those that say a
      row has it. The mean probability breaks ties.
    - weighted: the mean with the `weights` of the models, (models,), which sum to 1.
    """
    exact = _combined(predictions.double(), kind, weights, schema)
    return exact.float() if schema.probabilities else as_stored(exact, schema)


def as_stored(prediction: Tensor, schema: Schema) -> Tensor:
    """Predictions as they are stored: of the probabilities of a mask's classes, (rows, classes, height, width), the
    codes of the most probable ones, (rows, height, width) uint8; images as float32; all others unchanged."""
    if schema.task == "segmentation":
        return prediction.argmax(dim=1).to(torch.uint8)
    return prediction.float() if schema.target_name else prediction


def _combined(exact: Tensor, kind: str, weights: Sequence[float], schema: Schema) -> Tensor:
    match kind:
        case "mean" | "refit":
            return exact.mean(dim=0)
        case "median":
            middle = exact.quantile(0.5, dim=0)
            return middle / middle.sum(dim=1, keepdim=True) if schema.classes else middle
        case "vote":
            own = exact >= THRESHOLD
            if schema.task in ("classification", "segmentation"):
                own = functional.one_hot(exact.argmax(dim=2), exact.shape[2]).movedim(-1, 2)
            votes = own.double().mean(dim=0)
            # The mean counts for less than half a vote, so it only breaks ties.
            mixed: Tensor = (votes + exact.mean(dim=0) / (2 * len(exact))) / (1 + 1 / (2 * len(exact)))
            return mixed
        case _:
            weighted: Tensor = torch.einsum("m,mr...->r...", torch.tensor(weights, dtype=torch.float64), exact)
            return weighted


def ensemble_weights(scores: Sequence[float], higher_is_better: bool) -> list[float]:
    """Weights that sum to 1, by each model's held-out metric: the inverse of a loss or error, and for a metric whose
    best value is 1 the inverse of the distance to it. Equal ones for models that have no held-out rows."""
    values = torch.tensor(scores, dtype=torch.float64)
    if torch.isnan(values).any():
        return [1 / len(scores)] * len(scores)
    inverse = 1 / (1 - values if higher_is_better else values).clamp_min(SMALLEST_ERROR)
    weights: list[float] = (inverse / inverse.sum()).tolist()
    return weights
