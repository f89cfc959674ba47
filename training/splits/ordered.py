"""Folds along an order such as time: each model is evaluated on an interval and trains on all earlier rows.

This follows scikit-learn's TimeSeriesSplit, except that rows are distinguished only by their values. Equal values are
never separated, so a model never trains on values of its interval, and the gap is in the units of the column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...storage.errors import UsageError
from ...storage.fold_plan import ModelRows, code_array
from .split import Split

MOST_POINTS = 1 << 24  # in the sketches of all shards together
SHARD_POINTS = 4096


@dataclass(frozen=True)
class Sketch:
    """A shard's sorted values, or evenly spaced quantiles of them. Each value stands for `weight` rows."""

    values: np.ndarray
    weight: float


@dataclass(frozen=True)
class TimeCut:
    """The values at which codes change, and the meaning of the codes. Code c starts at the value `edges[c - 1]`."""

    edges: tuple[float, ...]
    models: tuple[ModelRows, ...]
    holdout: tuple[int, ...]

    def codes(self, values: np.ndarray) -> np.ndarray:
        """The code of each row, (rows,) uint8."""
        return np.searchsorted(np.array(self.edges), values.astype(np.float64), side="right").astype(np.uint8)


def sketch(values: np.ndarray, shards: int) -> Sketch:
    """Summarize a shard's values, (rows,), to find cuts. Small shards are represented exactly."""
    ordered = np.sort(values.astype(np.float64))
    points = min(len(ordered), SHARD_POINTS, max(64, MOST_POINTS // shards))
    at = ((np.arange(points) + 0.5) * len(ordered) / points).astype(np.int64)
    return Sketch(ordered[at], len(ordered) / points)


def value_at(sketches: Sequence[Sketch], ranks: Sequence[int]) -> list[float]:
    """The values at some ranks of all rows in order. For large shards, ranks are exact to 1/4096 of the rows."""
    values = np.concatenate([part.values for part in sketches])
    weights = np.concatenate([np.full(len(part.values), part.weight) for part in sketches])
    order = np.argsort(values, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    at = np.minimum(np.searchsorted(before, np.asarray(ranks) - 1e-6 * weights.min()), len(order) - 1)
    return [float(value) for value in values[order][at]]


def cut_points(sketches: Sequence[Sketch], rows: int, split: Split, apart: int = 0) -> list[float]:
    """The values at which the folds begin, and the holdout if there is one. The rows before the first fold are as many
    as in a fold, and `apart` more.

    Raises UsageError if there are too few distinct values.
    """
    inside = rows - round(rows * split.holdout)
    interval = (inside - apart) // (split.folds + 1)
    ranks = [inside - (split.folds - fold) * interval for fold in range(split.folds)]
    starts = value_at(sketches, [*ranks, inside] if split.holdout else ranks)
    if any(later <= earlier for earlier, later in pairwise(starts)):
        raise UsageError(
            f"--split time: column '{split.column}' has too few distinct values for {split.folds} folds; "
            "use fewer folds"
        )
    return starts


def cut_time(sketches: Sequence[Sketch], rows: int, split: Split) -> TimeCut:
    """Cut the order into one more interval than folds, and the holdout at the end.

    Raises UsageError if there are too few distinct values.
    """
    starts = cut_points(sketches, rows, split)
    ends = [start - split.gap for start in starts[: split.folds]]
    edges = sorted({*starts, *ends})
    bounds = [edges.index(start) + 1 for start in starts] + ([] if split.holdout else [len(edges) + 1])
    models = tuple(
        ModelRows(code_array(0), tuple(range(edges.index(end) + 1)), tuple(range(bounds[fold], bounds[fold + 1])))
        for fold, end in enumerate(ends)
    )
    return TimeCut(tuple(edges), models, tuple(range(bounds[-1], len(edges) + 1)) if split.holdout else ())
