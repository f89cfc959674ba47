"""Ensembles: combine the predictions of several models."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ...storage.format import THRESHOLD, Schema


def combine(predictions: Tensor, kind: str, losses: Sequence[float], schema: Schema) -> Tensor:
    """Combine the predictions of all models, (models, rows, outputs), into one, (rows, outputs).

    For classes and labels, predictions are probabilities and the result is float32; otherwise they are values in
    float64. The kinds:

    - mean, and refit, which has a single model: the mean.
    - median: the median; class probabilities are rescaled to sum to 1.
    - vote: for each class, the fraction of models for which it is the most probable class; for each label, the fraction
      of models that predict it. Ties are broken by the mean probability.
    - weighted: the mean weighted by the inverse of each model's held-out loss, `losses` (models,).
    """
    exact = _combined(predictions.double(), kind, losses, schema)
    return exact.float() if schema.probabilities else exact


def _combined(exact: Tensor, kind: str, losses: Sequence[float], schema: Schema) -> Tensor:
    match kind:
        case "mean" | "refit":
            return exact.mean(dim=0)
        case "median":
            middle = exact.quantile(0.5, dim=0)
            return middle / middle.sum(dim=1, keepdim=True) if schema.classes else middle
        case "vote":
            of_classes = schema.task == "classification"
            own = functional.one_hot(exact.argmax(dim=2), exact.shape[2]) if of_classes else exact >= THRESHOLD
            votes = own.double().mean(dim=0)
            # The mean counts for less than half a vote, so it only breaks ties.
            mixed: Tensor = (votes + exact.mean(dim=0) / (2 * len(exact))) / (1 + 1 / (2 * len(exact)))
            return mixed
        case _:
            weights = 1 / torch.tensor(losses, dtype=torch.float64).clamp_min(1e-12)
            weighted: Tensor = torch.einsum("m,mro->ro", weights / weights.sum(), exact)
            return weighted
