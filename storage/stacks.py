"""Datasets whose features are the out-of-fold predictions of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from .format import Schema

SMALLEST = 1e-7  # of a probability, whose log-odds are then finite
PLAN = "runs"  # the name of the fold plan that such a dataset has: that of the runs


@dataclass(frozen=True)
class StackForm:
    """Where the last features of rows come from: `columns` are the predictions of `runs`, whose results have the hashes
    `stamps`, for rows with the schema `base`. If they are the `only` features, the others were left out."""

    runs: tuple[str, ...]
    stamps: tuple[str, ...]
    columns: tuple[str, ...]
    only: bool
    base: Schema

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        from .format import Schema

        lists = {name: tuple(value[name]) for name in ("runs", "stamps", "columns")}
        return cls(**lists, only=value["only"], base=Schema.from_json(value["base"]))


def as_features(predictions: np.ndarray, base: Schema) -> np.ndarray:
    """The predictions of a run as features, (rows, outputs): probabilities as log-odds, which a linear model can weigh,
    and values as they are. NaN stays NaN."""
    flat = predictions.reshape(len(predictions), -1)
    if not base.probabilities:
        return flat
    clipped = np.clip(flat.astype(np.float64), SMALLEST, 1 - SMALLEST)
    odds: np.ndarray = (np.log(clipped) - np.log1p(-clipped)).astype(flat.dtype)
    return odds
