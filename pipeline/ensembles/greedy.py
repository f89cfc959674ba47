"""Greedy ensemble selection with replacement (Caruana et al. 2004), over all rows or a uniform sample of bounded
size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import gcd

import numpy as np

from ...storage.metrics.ranking import RankSums
from ...storage.metrics.scoring import Scoring
from ...storage.random import hash64
from .least_squares import sum_of
from .member_rows import MemberSource

ROUNDS = 50
SALT = 11  # keeps the choice of rows apart from other uses of their numbers
MOST = float(1 << 64)


@dataclass(frozen=True)
class SampleTask:
    """Choose the `share` of the rows of a shard that have the smallest hashes of their numbers and the `seed`."""

    source: MemberSource
    share: float
    seed: int
    shard: int


@dataclass(frozen=True)
class SampledRows:
    """Rows with their folds (n,), the members' predictions (members, n, outputs), the truth and the sample
    weights (n,) float64."""

    folds: np.ndarray
    predictions: np.ndarray
    y: np.ndarray
    weight: np.ndarray

    @classmethod
    def union(cls, parts: Sequence["SampledRows"]) -> "SampledRows":
        """All rows of several parts."""
        return cls(
            np.concatenate([one.folds for one in parts]),
            np.concatenate([one.predictions for one in parts], axis=1),
            np.concatenate([one.y for one in parts]),
            np.concatenate([one.weight for one in parts]),
        )


def sample_shard(task: SampleTask) -> SampledRows:
    """Run a task."""
    schema, shard = task.source.open_dataset().schema, task.source.read(task.shard)
    chosen = np.arange(len(shard.rows))
    if task.share < 1:
        chosen = np.flatnonzero(hash64(SALT, task.seed, shard.rows) < np.uint64(task.share * MOST))
    y, weight = shard.truth["y"][chosen], shard.weights(schema)[chosen]
    return SampledRows(shard.folds[chosen], shard.predictions[:, chosen], y, weight)


@dataclass(frozen=True)
class PartSums:
    """The sums from which the metrics of some rows follow."""

    sums: np.ndarray
    classes: np.ndarray
    ranks: RankSums | None


@dataclass
class Selection:
    """Selects members by `metrics`, names and whether higher values are better; those after the first break ties. What
    is summed for one combination is used for all folds that are left out."""

    rows: SampledRows
    scoring: Scoring
    metrics: dict[str, bool]
    _parts: dict[tuple[int, ...], dict[int, PartSums]] = field(default_factory=dict)
    _names: tuple[str, ...] = ()

    def select(self, left_out: int | None = None) -> np.ndarray:
        """The weights of the members, (members,), that sum to 1, by all rows except those of a fold.

        The best member starts. The others join in the order of their metrics as long as each makes the ensemble better.
        Then the member that makes the ensemble best joins, again and again, for `ROUNDS` rounds in all; the best of the
        ensembles along the way is chosen, the first one of those that are equal."""
        members = len(self.rows.predictions)
        single = [one_of(member, members) for member in range(members)]
        order = sorted(range(members), key=lambda member: self._score(single[member], left_out), reverse=True)
        counts = single[order[0]]
        for member in order[1:]:
            more = add(counts, single[member])
            if self._score(more, left_out) <= self._score(counts, left_out):
                break
            counts = more
        best = counts
        while sum(counts) < ROUNDS:
            counts = max((add(counts, one) for one in single), key=lambda one: self._score(one, left_out))
            if self._score(counts, left_out) > self._score(best, left_out):
                best = counts
        return np.array(best) / sum(best)

    def _score(self, counts: tuple[int, ...], left_out: int | None) -> tuple[float, ...]:
        """The metrics of the mean with these counts, higher ones are better; an undefined one is the worst."""
        divisor = gcd(*counts)
        counts = tuple(count // divisor for count in counts)
        if counts not in self._parts:
            self._parts[counts] = self._sum(counts)
        parts = [one for fold, one in self._parts[counts].items() if fold != left_out]
        total = sum_of(one.sums for one in parts)
        means = dict(zip(self._names, total[1:] / (total[0] or 1), strict=True))
        found = self.scoring.of_means(means) | self.scoring.of_classes(sum_of(one.classes for one in parts))
        if any(metric in self.scoring.ranked() for metric in self.metrics):
            found |= self._ranked(one.ranks for one in parts if one.ranks)
        signed = ((found.get(name, np.nan), higher) for name, higher in self.metrics.items())
        return tuple(-np.inf if np.isnan(value) else float(value if higher else -value) for value, higher in signed)

    def _ranked(self, parts: Iterable[RankSums]) -> dict[str, float]:
        total = RankSums(self.scoring.ranked_outputs)
        for part in parts:
            total.merge(*part.parts())
        return total.metrics()[0]

    def _sum(self, counts: tuple[int, ...]) -> dict[int, PartSums]:
        rows, scoring = self.rows, self.scoring
        weights = np.array(counts) / sum(counts)
        found = dict[int, PartSums]()
        for fold in np.unique(rows.folds).tolist():
            at = np.flatnonzero(rows.folds == fold)
            prediction, y, weight = mix(weights, rows.predictions[:, at]), rows.y[at], rows.weight[at]
            columns = scoring.of_rows(prediction, y)
            self._names = tuple(columns)
            sums = np.array([weight.sum(), *(column @ weight for column in columns.values())])
            ranks = None
            if any(metric in scoring.ranked() for metric in self.metrics):
                ranks = RankSums(scoring.ranked_outputs)
                ranks.add(*scoring.ranked_rows(prediction, y), weight / (rows.weight.mean() or 1.0))
            found[fold] = PartSums(sums, scoring.class_sums(prediction, y, weight), ranks)
        return found


def mix(weights: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The weighted sum of predictions (members, rows, outputs), (rows, outputs) in their own dtype."""
    mixed: np.ndarray = np.einsum("m,mro->ro", weights, predictions.astype(np.float64))
    return mixed.astype(predictions.dtype)


def one_of(member: int, members: int) -> tuple[int, ...]:
    """The counts of an ensemble of one member."""
    return tuple(int(other == member) for other in range(members))


def add(counts: tuple[int, ...], more: tuple[int, ...]) -> tuple[int, ...]:
    """The sum of two counts of members."""
    return tuple(one + other for one, other in zip(counts, more, strict=True))
