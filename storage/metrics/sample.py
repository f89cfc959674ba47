"""A uniform sample of rows of bounded size, for metrics that cannot be resampled by sums."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..compiled import compiled
from ..random import hash64
from .classes import class_metrics, marginals
from .ranking import rank_metrics
from .scoring import MOST_NAMED, Scoring

MOST_ROWS = 50_000
MOST_VALUES = 1 << 20  # of the predictions of all rows
SALT = 7  # keeps the choice of rows apart from other uses of their numbers


@dataclass
class RowSample:
    """The rows whose numbers have the smallest hashes, of `total`: their numbers (rows,) int64, in ascending order,
    predictions (rows, outputs), truth (rows,) or (rows, labels), and weights (rows,) float64."""

    total: int
    rows: np.ndarray
    prediction: np.ndarray
    y: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, prediction: np.ndarray, y: np.ndarray, weight: np.ndarray) -> "RowSample":
        """A sample of rows, given by their numbers."""
        return cls(len(rows), rows, prediction, y, weight.astype(np.float64))._bounded()

    @classmethod
    def union(cls, samples: "Sequence[RowSample]") -> "RowSample":
        """A sample of the rows of several samples, which are different ones."""
        columns = zip(*((one.rows, one.prediction, one.y, one.weight) for one in samples), strict=True)
        return cls(sum(one.total for one in samples), *map(np.concatenate, columns))._bounded()

    @property
    def most(self) -> int:
        """The maximum number of rows of a sample with predictions of this width."""
        outputs = math.prod(self.prediction.shape[1:])
        return max(1, min(MOST_ROWS, MOST_VALUES // max(1, outputs)))

    def _bounded(self) -> "RowSample":
        return self.take(self.chosen(self.most))

    def chosen(self, most: int) -> np.ndarray:
        """The positions of at most so many rows, a uniform sample, in the order of their numbers, (n,) int64."""
        at = np.arange(len(self.rows))
        if len(at) > most:
            at = np.argsort(hash64(SALT, self.rows), kind="stable")[:most]
        ordered: np.ndarray = at[np.argsort(self.rows[at], kind="stable")]
        return ordered

    def take(self, at: np.ndarray) -> "RowSample":
        """Rows by their positions in the sample, (n,) int64, which may repeat."""
        return RowSample(self.total, self.rows[at], self.prediction[at], self.y[at], self.weight[at])

    def resampled(self, scoring: Scoring, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of the sample, each row as often as it is drawn, `draws` (replicates, rows): (replicates,) each."""
        found = dict(self._classes(scoring, draws)) if scoring.schema.task == "classification" else {}
        if scoring.ranked():
            found |= dict(zip(scoring.ranked(), self._ranks(scoring, draws), strict=True))
        return found

    def _classes(self, scoring: Scoring, draws: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        classes, chosen, y = scoring.schema.classes, self.prediction.argmax(axis=1), self.y.astype(np.int64)
        sums = (marginals(chosen, y, drawn * self.weight, len(classes)) for drawn in draws)
        every = [class_metrics(classes, one, MOST_NAMED) for one in sums]
        yield from ((name, np.array([one[name] for one in every])) for name in every[0])

    def _ranks(self, scoring: Scoring, draws: np.ndarray) -> np.ndarray:
        """The mean ROC AUC and average precision over classes or labels, (2, replicates)."""
        probability, has = scoring.ranked_rows(self.prediction, self.y)
        of_output = []
        for p, own in zip(probability.T, has.T, strict=True):
            values, groups = np.unique(p, return_inverse=True)
            if 0 < own.sum() < len(own):
                of_output.append(resampled_ranks(groups, own.astype(np.int64), draws, self.weight, len(values)))
        if not of_output:
            return np.full((2, len(draws)), np.nan)
        stacked = np.stack(of_output)
        defined = ~np.isnan(stacked)
        mean: np.ndarray = np.where(defined, stacked, 0).sum(axis=0) / np.maximum(defined.sum(axis=0), 1)
        return mean


@compiled
def resampled_ranks(
    groups: np.ndarray, has: np.ndarray, draws: np.ndarray, weight: np.ndarray, count: int
) -> np.ndarray:
    """ROC AUC and average precision, (2, replicates), of rows with a `weight` (rows,) that are drawn so often, `draws`
    (replicates, rows). `groups` (rows,) int64 ranks the probabilities of the rows, from 0 to `count` - 1; `has` (rows,)
    int64 is 1 for those of the class."""
    found = np.empty((2, len(draws)))
    counts = np.empty((count, 2))
    for replicate in range(len(draws)):
        counts[:] = 0
        for row in range(len(groups)):
            counts[groups[row], has[row]] += draws[replicate, row] * weight[row]
        area, precision, _, _ = rank_metrics(counts, False)
        found[0, replicate], found[1, replicate] = area, precision
    return found
