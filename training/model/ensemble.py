"""Ensembles: how the predictions of several models are combined."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def combine(predictions: Tensor, kind: str, losses: Sequence[float], classes: bool) -> Tensor:
    """Combine the predictions of all models, (models, rows, outputs), into one, (rows, outputs) float32.

    With `classes`, predictions are probabilities. The kinds:

    - mean, and refit, which has one model: the mean.
    - median: the median; probabilities are rescaled to sum to 1.
    - vote: for each class, the fraction of models that find it the most probable. The mean probability breaks ties.
    - weighted: the mean weighted by the inverse of each model's held-out loss, `losses` (models,).
    """
    exact = predictions.double()
    match kind:
        case "mean" | "refit":
            return exact.mean(dim=0).float()
        case "median":
            middle = exact.quantile(0.5, dim=0)
            return (middle / middle.sum(dim=1, keepdim=True) if classes else middle).float()
        case "vote":
            votes = functional.one_hot(exact.argmax(dim=2), exact.shape[2]).double().mean(dim=0)
            # The mean counts for less than half a vote, so it only breaks ties.
            return ((votes + exact.mean(dim=0) / (2 * len(exact))) / (1 + 1 / (2 * len(exact)))).float()
        case _:
            weights = 1 / torch.tensor(losses, dtype=torch.float64).clamp_min(1e-12)
            return torch.einsum("m,mro->ro", weights / weights.sum(), exact).float()
