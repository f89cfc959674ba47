"""Folds along an order, such as time: each is tried on a stretch of it, and trains on what lies before.

As scikit-learn's TimeSeriesSplit, but rows are told apart by their value alone: equal values are never cut apart, so
that nothing of the stretch is seen in training, and the gap is in the values' own units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...storage.errors import UsageError
from ...storage.fold_plan import ModelRows, code_array
from .split import Split

MOST_POINTS = 1 << 24  # of all shards' sketches together
SHARD_POINTS = 4096


@dataclass(frozen=True)
class Sketch:
    """A shard's values in order, or as many evenly spaced ones of them as are wanted, each for `weight` rows."""

    values: np.ndarray
    weight: float


@dataclass(frozen=True)
class TimeCut:
    """The values at which the codes change, and what each code means: code c has the values from edge c - 1 on."""

    edges: tuple[float, ...]
    models: tuple[ModelRows, ...]
    holdout: tuple[int, ...]

    def codes(self, values: np.ndarray) -> np.ndarray:
        """The code of each row, (rows,) uint8."""
        return np.searchsorted(np.array(self.edges), values.astype(np.float64), side="right").astype(np.uint8)


def sketch(values: np.ndarray, shards: int) -> Sketch:
    """What is kept of a shard's values, (rows,), to find cuts: exact where all shards are small."""
    ordered = np.sort(values.astype(np.float64))
    points = min(len(ordered), SHARD_POINTS, max(64, MOST_POINTS // shards))
    at = ((np.arange(points) + 0.5) * len(ordered) / points).astype(np.int64)
    return Sketch(ordered[at], len(ordered) / points)


def value_at(sketches: Sequence[Sketch], ranks: Sequence[int]) -> list[float]:
    """The values at some ranks among all rows in order; where shards are large, within a 4096th of the rows."""
    values = np.concatenate([one.values for one in sketches])
    weights = np.concatenate([np.full(len(one.values), one.weight) for one in sketches])
    order = np.argsort(values, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    at = np.minimum(np.searchsorted(before, np.asarray(ranks) - 1e-6 * weights.min()), len(order) - 1)
    return [float(value) for value in values[order][at]]


def cut_time(sketches: Sequence[Sketch], rows: int, split: Split) -> TimeCut:
    """Cut the order into one stretch more than there are folds, and the holdout at its end. Raises UsageError where
    too few values differ."""
    inside = rows - round(rows * split.holdout)
    stretch = inside // (split.folds + 1)
    ranks = [inside - (split.folds - fold) * stretch for fold in range(split.folds)]
    starts = value_at(sketches, [*ranks, inside] if split.holdout else ranks)
    if any(later <= earlier for earlier, later in pairwise(starts)):
        raise UsageError(
            f"--split time: column «{split.column}» has too few different values for {split.folds} folds; use fewer"
        )
    ends = [start - split.gap for start in starts[: split.folds]]
    edges = sorted({*starts, *ends})
    bounds = [edges.index(start) + 1 for start in starts] + ([] if split.holdout else [len(edges) + 1])
    models = tuple(
        ModelRows(code_array(0), tuple(range(edges.index(end) + 1)), tuple(range(bounds[fold], bounds[fold + 1])))
        for fold, end in enumerate(ends)
    )
    return TimeCut(tuple(edges), models, tuple(range(bounds[-1], len(edges) + 1)) if split.holdout else ())
