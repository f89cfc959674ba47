"""How the predictions of several models become one."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ...storage.errors import UsageError, check_choice

ENSEMBLES = ("mean", "vote", "median", "weighted", "refit")


def check_ensemble(kind: str, classes: bool, refit: bool) -> None:
    """Raise UsageError for an ensemble that is not known, or that there is not: of quantities, or without `refit`."""
    check_choice("--ensemble", kind, ENSEMBLES)
    if kind == "vote" and not classes:
        raise UsageError("--ensemble vote: models vote for classes; of quantities take mean, median or weighted")
    if kind == "refit" and not refit:
        raise UsageError("--ensemble refit: the run has no model of all rows; train one with --refit")


def combine(predictions: Tensor, kind: str, losses: Sequence[float], classes: bool) -> Tensor:
    """One prediction, (rows, outputs) float32, from those of all models, `predictions` (models, rows, outputs), which
    are probabilities where there are `classes`.

    mean, also of the one model of a refit; median, of probabilities scaled to a sum of 1; vote: the share of models for
    which a class is the most probable, where the mean probability decides between equals; weighted: a mean in which a
    model counts by the inverse of its held-out loss, `losses` (models,).
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
            # Less than half a vote, so that it decides between equals only.
            return ((votes + exact.mean(dim=0) / (2 * len(exact))) / (1 + 1 / (2 * len(exact)))).float()
        case _:
            weights = 1 / torch.tensor(losses, dtype=torch.float64).clamp_min(1e-12)
            return torch.einsum("m,mro->ro", weights / weights.sum(), exact).float()
