"""The folds of a dataset to which rows were appended: earlier rows keep theirs, and new rows are added evenly.

The folds of version 1 are those of a dataset that never grows. Each further version continues with the counts of the
folds so far, in every stratum, and its rows go where there are fewest. Groups that are known stay in their fold, and
new ones go to the fold with the greatest need. The cuts of a time split, the ranges of a regression target and the
frequent sets of labels remain those of version 1. All of this is a pure function of the versions and the split, so that
the folds can be computed at any time, also those of earlier versions.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ...storage.dataset import Dataset, open_dataset
from ...storage.random import shuffled_places
from ...storage.tasks import Executor, Progress
from ..seeding import permutation, seed_of
from .assignments import (
    Assignment,
    ByClass,
    ByColumn,
    ByGroup,
    ByStratum,
    ByTimeAndGroup,
    Folds,
    read_labels,
)
from .folds import HOLDOUT_KEY, repeat_seed, rows_left
from .groups.balance import place, weighted_parts
from .groups.grouped import assign_buckets
from .split import Split
from .strata import Strata
from .survey import (
    NEVER_HELD_OUT,
    Surveyor,
    SurveyTask,
    check_folds,
    survey,
    survey_folds,
    survey_groups,
    survey_periods,
    table_shape,
)


def assign(dataset: Dataset, split: Split, executor: Executor, progress: Progress) -> Assignment:
    """Decide how to assign the rows of a dataset, so that those of its earlier versions are assigned as they were.

    Raises UsageError like `survey`.
    """
    if dataset.version == 1:
        return survey(dataset, split, executor, progress)
    surveyor, first = Surveyor(dataset, split, executor, progress), dataset.at(1)
    match split.kind, split.column:
        case "group" | "stratified-group", _:
            return _by_group(surveyor)
        case "column", str(column):
            return ByColumn(column, _known_folds(surveyor, column))
    assigned = survey(first, split, executor, progress)
    if isinstance(assigned, Folds):
        return _continued(surveyor, assigned, first.reference)
    return survey_periods(surveyor, assigned.cut) if isinstance(assigned, ByTimeAndGroup) else assigned


@dataclass(frozen=True)
class Classes:
    """Strata that are classes."""

    count: int

    def of(self, y: np.ndarray) -> np.ndarray:
        return y.astype(np.int64)


def strata_of(strata: Strata | None, dataset: Dataset, shard: int) -> np.ndarray:
    """The stratum of each row of a shard, (rows,) int64: all the same without strata."""
    if strata is not None:
        return strata.of(read_labels(dataset, shard))
    start, stop = dataset.layout.shard_range(shard)
    return np.zeros(stop - start, np.int64)


@dataclass(frozen=True)
class FirstRows(Folds):
    """The rows of version 1, which keep the folds that they have in it. `reference` opens that version."""

    assignment: Assignment
    reference: str

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        return self.assignment.codes(open_dataset(self.reference), shard)

    def of_shard(self, shard: int) -> Self:
        return replace(self, assignment=self.assignment.of_shard(shard))


@dataclass(frozen=True, eq=False)
class NewRows(Folds):
    """The rows that a version has added.

    Attributes:
        version: The number of the version.
        strata: The strata; None if all rows are one.
        held: The new rows of each stratum in the holdout, (strata,) int64.
        shares: Those in each fold, for each repeat, (strata, folds) int64.
        before: The new rows of each stratum that precede each shard, starting with the shard `first`,
            (shards, strata) int64.
    """

    version: int
    strata: Strata | None
    held: np.ndarray
    shares: tuple[np.ndarray, ...]
    before: np.ndarray
    first: int

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        strata, before = strata_of(self.strata, dataset, shard), self.before[shard - self.first]
        found = [np.full(len(strata), self.split.folds, np.uint8) for _ in self.shares]
        for stratum in np.unique(strata).tolist():
            rows = np.flatnonzero(strata == stratum)
            ranks = before[stratum] + np.arange(len(rows))
            for repeat, codes in enumerate(found):
                codes[rows] = self._codes(ranks, stratum, repeat)
        return found

    def _codes(self, ranks: np.ndarray, stratum: int, repeat: int) -> np.ndarray:
        """The codes of the new rows of a stratum with these ranks among them, (rows,): a random permutation of as many
        of each code as the quotas say; in order if the split is contiguous."""
        held, shares = int(self.held[stratum]), self.shares[repeat][stratum]
        left, keys = int(shares.sum()), (stratum, self.version)
        if self.split.kind == "contiguous":
            return np.searchsorted(np.cumsum(shares), ranks, side="right")  # the holdout is last
        places = shuffled_places(ranks, held + left, seed_of(self.split.seed, HOLDOUT_KEY, *keys))
        codes, inside = np.full(len(ranks), self.split.folds), places >= held
        if left:
            again = shuffled_places(places[inside] - held, left, seed_of(repeat_seed(self.split, repeat), *keys))
            codes[inside] = np.searchsorted(np.cumsum(shares), again, side="right")
        return codes

    def of_shard(self, shard: int) -> Self:
        return replace(self, before=self.before[shard - self.first, None], first=shard)


@dataclass(frozen=True)
class GrownFolds(Folds):
    """The rows of all versions, by the shards at which each ends."""

    parts: tuple[Assignment, ...]
    ends: tuple[int, ...]

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        return self._part(shard).codes(dataset, shard)

    def of_shard(self, shard: int) -> Assignment:
        return self._part(shard).of_shard(shard)

    def _part(self, shard: int) -> Assignment:
        return self.parts[bisect_right(self.ends, shard)]


def _continued(surveyor: Surveyor, first: Folds, reference: str) -> GrownFolds:
    """The assignment of all versions, given that of the first."""
    dataset, split = surveyor.dataset, surveyor.split
    strata = _strata_in(first, dataset)
    ranges = [shards for _, shards in dataset.version_shards()]
    parts = list[Assignment]([FirstRows(split, first, reference)])
    count = strata.count if strata else 1
    counts = np.zeros((split.repeats, count, split.folds + 1), np.int64)
    for version, shards in enumerate(ranges[1:], 2):
        done = ranges[version - 2]
        tasks = [(strata, parts[-1].of_shard(shard)) for shard in done]
        counts += sum(surveyor.each(count_codes, shards=done, own=tasks))
        rows = np.stack([*surveyor.each(count_rows, strata, shards)])
        totals = rows.sum(axis=0)
        held = held_of(counts[0], totals, split)
        shares = tuple(
            shares_of(counts[repeat, :, :-1], totals - held, repeat_seed(split, repeat), version)
            for repeat in range(split.repeats)
        )
        before = np.cumsum(rows, axis=0) - rows
        parts.append(NewRows(split, version, strata, held, shares, before, shards.start))
    return GrownFolds(split, tuple(parts), tuple(shards.stop for shards in ranges))


def _strata_in(first: Folds, dataset: Dataset) -> Strata | None:
    if isinstance(first, ByStratum):
        return first.strata
    return Classes(len(dataset.schema.classes)) if isinstance(first, ByClass) else None


def count_rows(task: SurveyTask) -> np.ndarray:
    """The rows of each stratum in one shard, (strata,) int64."""
    strata: Strata | None = task.found
    of_rows = strata_of(strata, open_dataset(task.dataset), task.shard)
    counts: np.ndarray = np.bincount(of_rows, minlength=strata.count if strata else 1)
    return counts


def count_codes(task: SurveyTask) -> np.ndarray:
    """The rows of each code in the strata of one shard, (repeats, strata, codes) int64."""
    dataset, (strata, assignment) = open_dataset(task.dataset), task.found
    of_rows, codes = strata_of(strata, dataset, task.shard), task.split.folds + 1
    count = strata.count if strata else 1
    found = assignment.codes(dataset, task.shard)
    tables = [np.bincount(of_rows * codes + one, minlength=count * codes).reshape(count, codes) for one in found]
    repeats = [tables[repeat % len(tables)] for repeat in range(task.split.repeats)]
    return np.stack(repeats)


def held_of(counts: np.ndarray, rows: np.ndarray, split: Split) -> np.ndarray:
    """How many of the new `rows` of each stratum go to the holdout, (strata,) int64, given the rows of each code so
    far, (strata, codes): as many as it lacks of its fraction of all rows."""
    totals = counts.sum(axis=1) + rows
    wanted = totals - rows_left(totals, split.holdout)
    held: np.ndarray = np.clip(wanted - counts[:, -1], 0, rows)
    return held


def shares_of(counts: np.ndarray, rows: np.ndarray, seed: int, version: int) -> np.ndarray:
    """How many of the new `rows` of each stratum, (strata,), go to each fold, (strata, folds) int64, given the rows in
    each fold so far, (strata, folds).

    The rows fill up the folds that have fewest of the stratum. What is left over goes to the folds that have fewest of
    all rows, then by a random order.
    """
    folds, totals = counts.shape[1], counts.sum(axis=0)
    shares = np.zeros_like(counts)
    for stratum in np.flatnonzero(rows).tolist():
        there, draws = counts[stratum], permutation(folds, seed, stratum, version)
        order = np.lexsort((draws, there))
        needed = np.arange(folds) * there[order] - (np.cumsum(there[order]) - there[order])
        raised = order[: int(np.searchsorted(needed, rows[stratum], side="right"))]
        level, rest = divmod(int(rows[stratum] + there[raised].sum()), len(raised))
        shares[stratum, raised] = level - there[raised]
        fewest = raised[np.lexsort((draws[raised], (totals + shares[stratum])[raised]))]
        shares[stratum, fewest[:rest]] += 1
        totals = totals + shares[stratum]
    return shares


def _by_group(surveyor: Surveyor) -> ByGroup:
    """Assign the groups of each version in turn."""
    dataset, split = surveyor.dataset, surveyor.split
    counts, tables = np.zeros(table_shape(dataset, split), np.int64), list[np.ndarray]()
    for version, (_, shards) in enumerate(dataset.version_shards(), 1):
        known = counts.sum(axis=1) > 0
        for positions, rows in surveyor.each(survey_groups, shards=shards):
            counts.reshape(-1)[positions] += rows
        if version == 1:
            tables = [assign_buckets(counts, split, repeat) for repeat in range(split.repeats)]
        else:
            new = np.flatnonzero((counts.sum(axis=1) > 0) & ~known)
            tables = extend_buckets(tables, counts, known, new, split, version)
    return ByGroup(split, tuple(tables), float(counts.sum(axis=1).max() / len(dataset)))


def extend_buckets(
    tables: list[np.ndarray], counts: np.ndarray, known: np.ndarray, new: np.ndarray, split: Split, version: int
) -> list[np.ndarray]:
    """The codes of all buckets for each repeat, (buckets,) uint8: those in `tables` for the `known` buckets, (buckets,)
    bool, and balanced ones for the `new` buckets, (new,), from the rows of all buckets, (buckets, classes)."""
    held = new[:0]
    if split.holdout:
        in_holdout = (tables[0] == split.folds).astype(np.int64)
        shares = np.array([1 - split.holdout, split.holdout])
        bins = _fill_up(counts, shares, in_holdout, known, new, HOLDOUT_KEY, split.seed, version)
        held = new[bins == 1]
    free, found = np.setdiff1d(new, held), list[np.ndarray]()
    for repeat, table in enumerate(tables):
        codes = table.copy()
        inside = known & (codes < split.folds)
        codes[held] = split.folds
        left = np.where((inside | np.isin(np.arange(len(codes)), free))[:, None], counts, 0)
        shares, seed = np.full(split.folds, 1 / split.folds), repeat_seed(split, repeat)
        codes[free] = _fill_up(left, shares, codes.astype(np.int64), inside, free, seed, version)
        found.append(codes)
    return found


def _fill_up(
    counts: np.ndarray, shares: np.ndarray, bins: np.ndarray, known: np.ndarray, new: np.ndarray, *seeds: int
) -> np.ndarray:
    """The bins of the `new` buckets, (new,), which should give each bin its share of all rows, given those of the
    `known` ones. Large buckets come first; see `balance.place`."""
    if not len(new):
        return new
    parts, sizes = weighted_parts(counts), counts.sum(axis=1)
    missing = np.outer(shares, parts.sum(axis=0))
    np.subtract.at(missing, bins[known], parts[known])
    order = permutation(len(new), *seeds)
    order = order[np.argsort(-np.frexp(sizes[new[order]])[1], kind="stable")]
    found = np.empty(len(new), np.int64)
    found[order] = place(parts[new[order]], missing)
    return found


def _known_folds(surveyor: Surveyor, column: str) -> tuple[Any, ...]:
    """The user's folds: those of version 1 in order, then those that each version has added."""
    folds = list[Any]()
    for _, shards in surveyor.dataset.version_shards():
        found = set().union(*surveyor.each(survey_folds, shards=shards))
        folds += sorted(found - {NEVER_HELD_OUT, *folds})
    check_folds({*folds}, column)
    return tuple(folds)
