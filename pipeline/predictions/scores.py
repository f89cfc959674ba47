"""The evaluation of predictions: scores with bootstrap intervals, confusion, calibration, and the worst rows.

Everything is computed from sums that are accumulated shard by shard, so memory does not depend on the number of rows.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import numpy as np

from ...storage.compiled import compiled
from ...storage.metrics.own import OwnMetric
from ...storage.metrics.ranking import RankSums
from ...storage.metrics.sample import RowSample
from ...storage.metrics.scoring import Scoring
from ...storage.random import GOLDEN, mix64

REPLICATES = 500
INTERVAL = (2.5, 97.5)  # percentiles of the 95 % bootstrap confidence interval
BINS = 15
WORST = 100
_POISSON = np.repeat(
    np.arange(9, dtype=np.uint8),
    np.diff(np.rint(65536 * np.cumsum([0.0, *(math.exp(-1) / math.factorial(k) for k in range(9))])).astype(int)),
)
"""How often a row is drawn into a replicate, indexed by 16 random bits: a Poisson distribution with mean 1."""


mixed = compiled(mix64)


@compiled
def draw_row(row: int, out: np.ndarray, poisson: np.ndarray) -> None:
    """How often a row is drawn into each replicate of a Poisson bootstrap (Hanley and MacGibbon 2006), (replicates,)
    uint8. It depends only on the row's index, by SplitMix64, so shards can be resampled independently."""
    state, number = np.uint64(row + 1) * np.uint64(0xD1342543DE82EF95), np.uint64(0)
    for replicate in range(len(out)):
        if replicate % 4 == 0:
            state += GOLDEN
            number = mixed(state)
        out[replicate] = poisson[number & np.uint64(0xFFFF)]
        number >>= np.uint64(16)


@compiled
def draw_rows(rows: np.ndarray, poisson: np.ndarray, out: np.ndarray) -> None:
    """How often rows with these indices are drawn into each replicate, (replicates, rows) uint8."""
    drawn = np.empty(len(out), np.uint8)
    for i in range(len(rows)):
        draw_row(rows[i], drawn, poisson)
        out[:, i] = drawn


@compiled
def resample(values: np.ndarray, rows: np.ndarray, poisson: np.ndarray, out: np.ndarray) -> None:
    """Add `values` of rows, (rows, columns), to `out`, (replicates, columns), each row as often as it is drawn."""
    drawn = np.empty(len(out), np.uint8)
    for i in range(len(rows)):
        draw_row(rows[i], drawn, poisson)
        for replicate in range(len(out)):
            if drawn[replicate]:
                for j in range(values.shape[1]):
                    out[replicate, j] += drawn[replicate] * values[i, j]


@dataclass
class ScoreTotals:
    """The sums over some rows, (1 + columns,), and over each bootstrap replicate of them, (replicates, 1 + columns):
    first of their weights, 1 each without any, then of what `scoring` averages times their weights; and the sums by
    class, (3, classes)."""

    scoring: Scoring
    names: tuple[str, ...]
    rows: int
    sums: np.ndarray
    resampled: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(
        cls,
        scoring: Scoring,
        prediction: np.ndarray,
        y: np.ndarray,
        rows: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> "ScoreTotals":
        """The totals of rows, given by their indices, (rows,) int64, their predictions, truth and weights, (rows,)."""
        given = np.ones(len(rows)) if weights is None else weights.astype(np.float64)
        columns = scoring.of_rows(prediction, y)
        values = np.stack([given, *(column * given for column in columns.values())], axis=1)
        resampled = np.zeros((REPLICATES, values.shape[1]))
        resample(values, rows, _POISSON, resampled)
        classes = scoring.class_sums(prediction, y, given)
        return cls(scoring, tuple(columns), len(rows), values.sum(axis=0), resampled, classes)

    def add(self, other: "ScoreTotals") -> None:
        self.rows += other.rows
        self.sums = self.sums + other.sums
        self.resampled = self.resampled + other.resampled
        self.classes = self.classes + other.classes

    def scores(self) -> dict[str, float]:
        """The metrics over all rows."""
        means = dict(zip(self.names, self.sums[1:] / (self.sums[0] or 1), strict=True))
        return self.scoring.in_order(self.scoring.of_means(means) | self.scoring.of_classes(self.classes))

    def intervals(self) -> dict[str, list[float]]:
        """The 95 % bootstrap confidence interval of each metric that follows from means over rows."""
        weights = self.resampled[:, :1]
        means = self.resampled[:, 1:] / np.where(weights > 0, weights, 1)
        every = self.scoring.of_means(dict(zip(self.names, means.T, strict=True)))
        return {name: percentiles(values) for name, values in every.items()}

    def to_json(self) -> dict[str, Any]:
        scores, intervals = self.scores(), self.intervals()
        return {"rows": self.rows, "scores": scores, "intervals": {n: intervals[n] for n in scores if n in intervals}}


def percentiles(values: np.ndarray) -> list[float]:
    """The interval of a metric from those of the replicates for which it is defined."""
    defined = values[~np.isnan(values)]
    bounds: list[float] = np.percentile(defined, INTERVAL).tolist() if len(defined) else [np.nan, np.nan]
    return bounds


@dataclass(frozen=True)
class Scorer:
    """How merged predictions are scored, and the user's metrics, which only the process that merges them computes."""

    scoring: Scoring
    own: Sequence[OwnMetric] = ()


@dataclass
class MergedScores:
    """The metrics of merged predictions: those of sums, and those of the order of rows; a sample of the rows gives the
    intervals of metrics that are no means."""

    totals: ScoreTotals
    ranks: RankSums
    sample: RowSample

    @classmethod
    def of(
        cls, scoring: Scoring, prediction: np.ndarray, truth: dict[str, np.ndarray], rows: np.ndarray, unit: float
    ) -> "MergedScores":
        """The metrics of `rows`, given by their indices, (rows,) int64. `unit` is the mean weight of all rows."""
        y, weights = truth["y"], truth.get(scoring.schema.weights or "")
        ranks = RankSums(scoring.ranked_outputs)
        if scoring.ranked():
            ranks.add(*scoring.ranked_rows(prediction, y), None if weights is None else weights / unit)
        sample = RowSample.of(rows, prediction, y, np.ones(len(rows)) if weights is None else weights)
        return cls(ScoreTotals.of(scoring, prediction, y, rows, weights), ranks, sample)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As arrays, from which `from_arrays` makes the same."""
        totals, sample, (keys, counts, level) = self.totals, self.sample, self.ranks.parts()
        return {
            "numbers": np.array([totals.rows, level, sample.total]),
            "names": np.array(totals.names),
            **{name: getattr(totals, name) for name in ("sums", "resampled", "classes")},
            **{"keys": keys, "counts": counts},
            **{f"sample_{name}": getattr(sample, name) for name in ("rows", "prediction", "y", "weight")},
        }

    @classmethod
    def from_arrays(cls, scoring: Scoring, arrays: Mapping[str, np.ndarray]) -> "MergedScores":
        """The metrics that `to_arrays` has stored; `scoring` is that of the rows."""
        rows, level, total = arrays["numbers"].tolist()
        sums = (arrays[name] for name in ("sums", "resampled", "classes"))
        ranks = RankSums(scoring.ranked_outputs)
        ranks.merge(arrays["keys"], arrays["counts"], level)
        sample = RowSample(total, *(arrays[f"sample_{name}"] for name in ("rows", "prediction", "y", "weight")))
        return cls(ScoreTotals(scoring, tuple(arrays["names"].tolist()), rows, *sums), ranks, sample)

    def add(self, other: "MergedScores") -> None:
        self.totals.add(other.totals)
        self.ranks.merge(*other.ranks.parts())
        self.sample = RowSample.union([self.sample, other.sample])

    def to_json(self, own: Sequence[OwnMetric] = ()) -> dict[str, Any]:
        """`rows`, `scores` and `intervals`, with those of the user's metrics; `errors`, the most by which metrics may
        be wrong that are not exact; and `curves`, one class or label against the rest, by its name."""
        scoring, (ranked, errors) = self.totals.scoring, self.ranks.metrics()
        found = self.totals.scores() | (ranked if scoring.ranked() else {})
        scores = scoring.in_order(found | {metric.name: metric(self.sample) for metric in own})
        intervals = self.totals.intervals() | self._sampled_intervals(scores, own)
        curves = self.ranks.curves() if scoring.ranked() else {}
        return {
            "rows": self.totals.rows,
            "scores": scores,
            "intervals": {name: intervals[name] for name in scores},
            "errors": {name: error for name, error in errors.items() if error and name in scores},
            "curves": {scoring.ranked_names[output]: curve for output, curve in curves.items()},
        }

    def _sampled_intervals(self, scores: dict[str, float], own: Sequence[OwnMetric]) -> dict[str, list[float]]:
        """Intervals from the sample. If it has not all rows, replicates differ more from its own metrics than those of
        all rows would: by the root of the ratio of rows (an m out of n bootstrap)."""
        sample, scoring = self.sample, self.totals.scoring
        if not (scoring.schema.probabilities or own):
            return {}  # all metrics of a regression follow from means
        draws = np.empty((REPLICATES, len(sample.rows)), np.uint8)
        draw_rows(sample.rows, _POISSON, draws)
        of_sample = sample.resampled(scoring, np.ones((1, len(sample.rows)), np.uint8))
        resampled, rows = sample.resampled(scoring, draws), len(sample.rows)
        replicates = {name: (values, of_sample[name][0], rows) for name, values in resampled.items()}
        replicates |= {metric.name: metric.resampled(sample, draws) for metric in own}
        found = {}
        for name, (values, whole, count) in replicates.items():
            if name in scores:
                limit = 1.0 if name in of_sample else np.inf
                away = scores[name] + (values - whole) * math.sqrt(count / sample.total)
                found[name] = percentiles(np.clip(away, -limit, limit))
        return found


@dataclass
class ClassTotals:
    """Totals for confusion and calibration: the number of rows per (true class, predicted class), and for equal bins of
    the highest probability the rows, the hits and the sum of that probability, (bins, 3)."""

    confusion: Counter[tuple[int, int]]
    calibration: np.ndarray

    @classmethod
    def of(cls, prediction: np.ndarray, y: np.ndarray) -> "ClassTotals":
        """The totals of rows with probabilities `prediction` (rows, classes) and class codes `y` (rows,)."""
        chosen, truth = prediction.argmax(axis=1), y.astype(np.int64)
        pairs, counts = np.unique(np.stack([truth, chosen], axis=1), axis=0, return_counts=True)
        confusion = Counter({(int(t), int(c)): int(n) for (t, c), n in zip(pairs, counts, strict=True)})
        highest = prediction.max(axis=1).astype(np.float64) if len(y) else np.zeros(0)
        bins = np.minimum((highest * BINS).astype(int), BINS - 1)
        columns = (None, (chosen == truth).astype(np.float64), highest)
        return cls(confusion, np.stack([np.bincount(bins, column, BINS) for column in columns], axis=1))

    def add(self, other: "ClassTotals") -> None:
        self.confusion.update(other.confusion)
        self.calibration = self.calibration + other.calibration

    def to_json(self) -> dict[str, Any]:
        """`confusion`: (true class, predicted class, rows); `calibration`: for equal bins of the probability (rows,
        hits, sum of probabilities); `calibration_error`: the expected calibration error."""
        _, hits, highest = self.calibration.T
        error = np.abs(hits - highest).sum() / max(self.calibration[:, 0].sum(), 1)
        return {
            "confusion": [[*pair, count] for pair, count in sorted(self.confusion.items())],
            "calibration": self.calibration.tolist(),
            "calibration_error": float(error),
        }


@dataclass(frozen=True, order=True)
class WorstRow:
    """A row with a large loss or squared error. `name` is the user's key, or the row's position in the source. `truth`
    and `prediction` are empty for vectors and masks."""

    loss: float
    row: int
    name: str
    truth: tuple[float, ...]
    prediction: tuple[float, ...]


def worst_of(*groups: Sequence[WorstRow]) -> list[WorstRow]:
    """The worst rows of several groups, worst first."""
    return nlargest(WORST, (row for group in groups for row in group))
