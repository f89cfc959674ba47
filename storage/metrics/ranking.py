"""ROC AUC and average precision, one class or label against the rest, from bounded memory.

Rows are counted by their probability, in float32. As long as there are few enough different ones, this is exact. From
then on the last bits of float32 are ignored, as many as it takes, and rows that differ in these alone share a bin: the
error is at most that of any order of the rows in a bin, which is computed along with the metrics. Counts are integers,
so the result does not depend on the order in which rows and sums are added.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..compiled import compiled

MOST_BINS = 1 << 20  # of all classes together
MOST_PENDING = 1 << 20  # values that wait to be counted
HALF = 0x3F000000  # the bits of 0.5
UNITS = 2.0**24  # of integer weights in one mean weight
MOST_CURVES, MOST_POINTS = 10, 100  # curves, and points of each


@dataclass
class Bins:
    """Bins of probabilities in ascending order, (bins,): the class or label, and in bits 1 to 32 the probability, in
    `keys`; and the weights of the rows that do not have it and of those that do, (bins, 2) int64."""

    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))


class RankSums:
    """Counts rows by their probability of each of `outputs` classes or labels."""

    def __init__(self, outputs: int, most: int = MOST_BINS) -> None:
        self.outputs, self.most = outputs, most
        self.level, self.bins = 0, Bins()
        """Bits that the probabilities in a bin may differ in."""
        self.pending: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def add(self, probability: np.ndarray, has: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Count rows by their probabilities, (rows, outputs) float32, and what they have, (rows, outputs) bool.
        Weights, (rows,), are multiples of the mean weight, and rounded to units; without any, each row counts 1."""
        keys = order_key(probability) | (np.arange(self.outputs, dtype=np.uint64) << np.uint64(32))
        every = None if weight is None else np.repeat(np.rint(weight * UNITS).astype(np.int64), self.outputs)
        self.pending.append((keys.ravel(), has.ravel(), every))
        if sum(len(keys) for keys, _, _ in self.pending) >= MOST_PENDING:
            self._count()

    def merge(self, keys: np.ndarray, counts: np.ndarray, level: int) -> None:
        """Add bins of another one; see `parts`."""
        self._count()
        self._set_level(max(self.level, level))
        self._join(
            np.concatenate([self.bins.keys, _shared(keys, self.level)]), np.concatenate([self.bins.counts, counts])
        )

    def parts(self) -> tuple[np.ndarray, np.ndarray, int]:
        """The keys and counts of the bins, and their level, as `merge` takes them."""
        self._count()
        return self.bins.keys, self.bins.counts, self.level

    def _count(self) -> None:
        if not self.pending:
            return
        pending, self.pending = self.pending, []
        keys = _shared(np.concatenate([keys for keys, _, _ in pending]), self.level)
        has = np.concatenate([has for _, has, _ in pending])
        if pending[0][2] is None:  # sorting alone is several times as fast as finding the order
            both = np.sort(keys << np.uint64(1) | has)
            starts = np.flatnonzero(np.diff(both, prepend=~both[:1]))
            lengths, has = np.diff(starts, append=len(both)), (both[starts] & np.uint64(1)).astype(bool)
            keys = both[starts] >> np.uint64(1)
        else:
            lengths = np.concatenate([weight for _, _, weight in pending if weight is not None])
        counts = np.zeros((len(keys), 2), np.int64)
        counts[np.arange(len(keys)), has.astype(np.int64)] = lengths
        self._join(np.concatenate([self.bins.keys, keys]), np.concatenate([self.bins.counts, counts]))

    def _join(self, keys: np.ndarray, counts: np.ndarray) -> None:
        """Have one bin for each key, and no more of them than are allowed."""
        order = np.argsort(keys, kind="stable")
        self.bins = _summed(keys[order], counts[order])
        while len(self.bins.keys) > self.most:
            self._set_level(self.level + 1)

    def _set_level(self, level: int) -> None:
        if level > self.level:
            self.level = level
            self.bins = _summed(_shared(self.bins.keys, level), self.bins.counts)

    def metrics(self) -> tuple[dict[str, float], dict[str, float]]:
        """The mean `auc` and `average_precision` of the classes or labels that some rows have and others have not, and
        the most by which each may be wrong. NaN if there is none."""
        self._count()
        found = [(*rank_metrics(counts, tied=self.level > 0),) for _, counts in self._by_output()]
        means = np.mean(found, axis=0).tolist() if found else [np.nan, np.nan, 0.0, 0.0]
        return {"auc": means[0], "average_precision": means[1]}, {"auc": means[2], "average_precision": means[3]}

    def curves(self) -> dict[int, dict[str, Any]]:
        """`auc`, `average_precision` and `points` (see `curve_points`) of the classes or labels that most rows have, by
        their numbers."""
        self._count()
        every = dict(self._by_output())
        most = sorted(every, key=lambda output: -every[output][:, 1].sum())[:MOST_CURVES]
        found = {output: rank_metrics(every[output], tied=False) for output in sorted(most)}
        return {
            output: {"auc": metrics[0], "average_precision": metrics[1], "points": curve_points(every[output]).tolist()}
            for output, metrics in found.items()
        }

    def _by_output(self) -> Iterator[tuple[int, np.ndarray]]:
        """The numbers of the outputs that have both kinds of rows, and their counts, (bins, 2) float64."""
        ends = np.searchsorted(self.bins.keys, np.arange(self.outputs + 1, dtype=np.uint64) << np.uint64(32))
        for output, (start, stop) in enumerate(pairwise(ends)):
            counts = self.bins.counts[start:stop].astype(np.float64)
            if (counts.sum(axis=0) > 0).all():
                yield output, counts


def _shared(keys: np.ndarray, level: int) -> np.ndarray:
    """The keys of the bins that keys share, whose last `level` bits are ignored."""
    return keys & ~np.uint64((1 << level) - 1)


def _summed(keys: np.ndarray, counts: np.ndarray) -> Bins:
    """Bins with the counts of equal keys, which are sorted, added up."""
    if not len(keys):
        return Bins()
    starts = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
    return Bins(keys[starts], np.add.reduceat(counts, starts, axis=0))


def order_key(probability: np.ndarray) -> np.ndarray:
    """Numbers in the order of probabilities from 0 to 1, uint64 below 2^31: float32's bits up to 0.5, and above it
    those of the distance to 1, which float32 has exactly, so that both ends are resolved alike."""
    p = np.ascontiguousarray(probability, np.float32)
    low = p <= np.float32(0.5)
    bits = np.where(low, p, np.float32(1) - p).view(np.uint32).astype(np.uint64)
    keys: np.ndarray = np.where(low, bits, np.uint64(2 * HALF) - bits)
    return keys


def curve_points(counts: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Points of the ROC and the precision-recall curve, (points, 3): false positive rate, recall, precision, each for a
    threshold, the highest first. Of more than `most` thresholds, those that lie evenly along the ROC curve.

    `counts` are the weights of rows without and with a label, (bins, 2) float64, in ascending order of probability.
    """
    negative, positive = np.cumsum(counts[::-1], axis=0).T
    rates = np.stack([negative / negative[-1], positive / positive[-1], positive / (negative + positive)], axis=1)
    if len(rates) <= most:
        return rates
    along = rates[:, 0] + rates[:, 1]  # from almost 0 to 2
    chosen: np.ndarray = rates[np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], most)))]
    return chosen


@compiled
def rank_metrics(counts: np.ndarray, tied: bool) -> tuple[float, float, float, float]:
    """ROC AUC and average precision from the weights of rows without and with a label, (bins, 2) float64, in ascending
    order of their probability; and if rows in a bin are `tied` by the bins alone, the most by which each may be wrong.
    Rows of a bin count as ties, as in scikit-learn. NaN unless there are rows of both kinds."""
    without, having = 0.0, 0.0
    for i in range(len(counts)):
        without += counts[i, 0]
        having += counts[i, 1]
    if without <= 0 or having <= 0:
        return np.nan, np.nan, 0.0, 0.0
    without, having = 0.0, 0.0
    area, precision, area_error, precision_error = 0.0, 0.0, 0.0, 0.0
    for i in range(len(counts) - 1, -1, -1):
        negative, positive = counts[i, 0], counts[i, 1]
        area += negative * (having + positive / 2)
        if positive > 0:
            precision += positive * (having + positive) / (having + positive + without + negative)
            if tied:
                area_error += negative * positive / 2
                best = (having + positive) / (having + positive + without)
                worst = having / (having + without + negative) if having > 0 else 0.0
                precision_error += positive * (best - worst)
        having += positive
        without += negative
    return area / (having * without), precision / having, area_error / (having * without), precision_error / having
