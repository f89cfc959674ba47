"""The evaluation of predictions: scores with bootstrap intervals, confusion, calibration, and the worst rows.

Everything is computed from sums that are accumulated shard by shard, so memory does not depend on the number of rows.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

import numpy as np

from ...storage.compiled import compiled
from ...storage.format import SMALLEST_PROBABILITY, THRESHOLD, Schema
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


def row_scores(schema: Schema, prediction: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of each row, (rows,) float64: loss and hits for classes and labels, squared and absolute errors for
    regression.

    `prediction` (rows, outputs) are probabilities or values, `y` (rows,) or (rows, labels) the truth. The mean over
    rows is the score; of `rmse` its root.
    """
    if schema.task == "classification":
        own = prediction[np.arange(len(y)), y.astype(np.int64)]
        rank = (prediction > own[:, None]).sum(axis=1)
        losses = -np.log(np.maximum(own.astype(np.float64), SMALLEST_PROBABILITY))
        return {"loss": losses} | {name: (rank < most).astype(np.float64) for name, most in schema.hits.items()}
    if schema.task == "multilabel":
        return label_scores(schema, prediction, y)
    error = prediction.astype(np.float64) - y.reshape(prediction.shape)
    return {**schema.by_label("rmse", np.square(error).T), **schema.by_label("mae", np.abs(error).T)}


def label_scores(schema: Schema, prediction: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of rows with several labels that are 0 or 1: log loss and accuracy, of each label and as their mean,
    and whether all labels are right. A label is predicted from a probability of 0.5 on."""
    right = (prediction >= THRESHOLD) == (y != 0)
    own = np.where(y != 0, prediction, 1 - prediction).astype(np.float64)
    losses = -np.log(np.maximum(own, SMALLEST_PROBABILITY))
    return {
        "loss": losses.mean(axis=1),
        "accuracy": right.mean(axis=1),
        "subset_accuracy": right.all(axis=1).astype(np.float64),
        **schema.by_label("loss", losses.T),
        **schema.by_label("accuracy", right.T.astype(np.float64)),
    }


mixed = compiled(mix64)


@compiled
def resample(values: np.ndarray, rows: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Add `values` of rows, (rows, columns), to `out`, (replicates, columns), each row as often as it is drawn.

    This is a Poisson bootstrap (Hanley and MacGibbon 2006): how often a row is drawn depends only on its index
    `rows[i]`, by SplitMix64, so shards can be resampled independently.
    """
    for i in range(len(rows)):
        state = np.uint64(rows[i] + 1) * np.uint64(0xD1342543DE82EF95)
        number = np.uint64(0)
        for replicate in range(len(out)):
            if replicate % 4 == 0:
                state += GOLDEN
                number = mixed(state)
            draws = weights[number & np.uint64(0xFFFF)]
            number >>= np.uint64(16)
            if draws:
                for j in range(values.shape[1]):
                    out[replicate, j] += draws * values[i, j]


@dataclass
class ScoreTotals:
    """The sums over some rows, (1 + scores,), and over each bootstrap replicate of them, (replicates, 1 + scores):
    first of their weights, 1 each without any, then of their scores times their weights."""

    names: tuple[str, ...]
    rows: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    resampled: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @classmethod
    def of(cls, scores: dict[str, np.ndarray], rows: np.ndarray, weights: np.ndarray | None = None) -> "ScoreTotals":
        """The totals of rows, given by their indices, (rows,) int64, their scores and their weights, (rows,)."""
        given = np.ones(len(rows)) if weights is None else weights.astype(np.float64)
        values = np.stack([given, *(score * given for score in scores.values())], axis=1)
        resampled = np.zeros((REPLICATES, values.shape[1]))
        resample(values, rows, _POISSON, resampled)
        return cls(tuple(scores), len(rows), values.sum(axis=0), resampled)

    def add(self, other: "ScoreTotals") -> None:
        self.rows += other.rows
        self.sums = self.sums + other.sums
        self.resampled = self.resampled + other.resampled

    def scores(self) -> dict[str, float]:
        """The mean scores over all rows."""
        means = self.sums[1:] / (self.sums[0] or 1)
        return {name: _finished(name, mean) for name, mean in zip(self.names, means, strict=True)}

    def intervals(self) -> dict[str, list[float]]:
        """The 95 % bootstrap confidence interval of each score."""
        weights = self.resampled[:, :1]
        means = self.resampled[:, 1:] / np.where(weights > 0, weights, 1)
        bounds = np.percentile(means, INTERVAL, axis=0)
        return {name: [_finished(name, v) for v in bounds[:, i]] for i, name in enumerate(self.names)}

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "scores": self.scores(), "intervals": self.intervals()}


def _finished(name: str, mean: float) -> float:
    return math.sqrt(mean) if name.startswith("rmse") else float(mean)


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
    """A row with a large loss or squared error. `name` is the user's key, or the row's position in the source."""

    loss: float
    row: int
    name: str
    truth: tuple[float, ...]
    prediction: tuple[float, ...]


def worst_of(*groups: Sequence[WorstRow]) -> list[WorstRow]:
    """The worst rows of several groups, worst first."""
    return nlargest(WORST, (row for group in groups for row in group))
