"""How each kind of split assigns a code to every row. `survey.py` creates the assignment for a dataset."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ...storage.blocks.reader import BlockReader
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.fold_plan import ModelRows, among, code_array
from .columns import find_column, read_column
from .folds import Rest, contiguous, kfold, stratified
from .groups.grouped import are_present, buckets_of
from .ordered import TimeCut
from .split import Split
from .strata import Strata

UNUSED, TRAIN, HELD_OUT, HOLDOUT, PURGED, PURGED_HELD_OUT = range(6)
"""The codes if each model has its own array. Purged rows share some of their data with the holdout, whether they are
held out or not."""


class Assignment(ABC):
    """Assigns a code to every row, and to every model the codes that it trains on and holds out."""

    largest_group: float = 0.0
    """The share of the rows in the largest bucket of groups, for a group split."""

    @property
    @abstractmethod
    def models(self) -> tuple[ModelRows, ...]:
        """The codes that each model trains on and holds out."""

    @property
    @abstractmethod
    def holdout(self) -> tuple[int, ...]:
        """The codes of the rows that no model trains on."""

    @property
    def purged(self) -> tuple[int, ...]:
        """The codes of further rows that no model trains on, also not the refit."""
        return ()

    @abstractmethod
    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        """The codes of a shard's rows, (rows,) uint8 for each array of codes."""

    def of_shard(self, shard: int) -> "Assignment":
        """The part of this assignment that a task needs for one shard."""
        return self


@dataclass(frozen=True)
class Folds(Assignment):
    """Codes that are fold indices, in one array per repeat. The code of the holdout is the number of folds.

    With one fold, the holdout serves as the held-out rows of its model.
    """

    split: Split

    @property
    def models(self) -> tuple[ModelRows, ...]:
        folds = range(self.split.folds)
        if len(folds) == 1:
            return (ModelRows(code_array(0), (0,), (1,)),)
        return tuple(
            ModelRows(code_array(repeat), tuple(other for other in folds if other != fold), (fold,))
            for repeat in range(self.split.repeats)
            for fold in folds
        )

    @property
    def holdout(self) -> tuple[int, ...]:
        return (self.split.folds,) if self.split.holdout and self.split.folds > 1 else ()


@dataclass(frozen=True)
class ByPosition(Folds):
    """kfold, contiguous: a function of the row's position only; no data is read."""

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        start, stop = dataset.layout.shard_range(shard)
        if self.split.kind == "contiguous":
            return [contiguous(start, stop, len(dataset), self.split)]
        return [kfold(start, stop, len(dataset), self.split, repeat) for repeat in range(self.split.repeats)]


@dataclass(frozen=True)
class ByClass(Folds):
    """stratified: assigned by position within each class."""

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        y, counts = read_labels(dataset, shard), dataset.class_counts
        before = counts[: dataset.layout.blocks_of(shard).start].sum(axis=0)
        totals = counts.sum(axis=0)
        return [stratified(y, before, totals, self.split, repeat) for repeat in range(self.split.repeats)]


@dataclass(frozen=True, eq=False)
class ByStratum(Folds):
    """stratified, without classes: assigned by position within strata of the targets.

    Attributes: strata: The strata. totals: The rows of each stratum, (strata,) int64. rests: The assignment of the
    incomplete last groups, for each repeat. before: The rows of each stratum that precede each shard, starting with the
    shard `first`, (shards, strata) int64.
    """

    strata: Strata
    totals: np.ndarray
    rests: tuple[Rest, ...]
    before: np.ndarray
    first: int = 0

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        strata, before = self.strata.of(read_labels(dataset, shard)), self.before[shard - self.first]
        return [
            stratified(strata, before, self.totals, self.split, repeat, rest) for repeat, rest in enumerate(self.rests)
        ]

    def of_shard(self, shard: int) -> Self:
        return replace(self, before=self.before[shard - self.first, None], first=shard)


@dataclass(frozen=True, eq=False)
class ByGroup(Folds):
    """group, stratified-group: `tables` contain the code of each bucket of groups, (buckets,) for each repeat."""

    tables: tuple[np.ndarray, ...]
    largest_group: float = 0.0

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        buckets = read_buckets(dataset, str(self.split.column), shard, len(self.tables[0]), self.split.seed)
        return [table[buckets] for table in self.tables]


@dataclass(frozen=True)
class ByTime(Assignment):
    """time: assigned by the value of a column."""

    column: str
    cut: TimeCut

    @property
    def models(self) -> tuple[ModelRows, ...]:
        return self.cut.models

    @property
    def holdout(self) -> tuple[int, ...]:
        return self.cut.holdout

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        return [self.cut.codes(read_order(dataset, self.column, shard))]


@dataclass(frozen=True, eq=False)
class ByTimeAndGroup(Assignment):
    """time with groups: one array of codes per model, which does not train on the groups of its held-out rows or of the
    holdout.

    Attributes:
        split: The split.
        cut: The codes of the order, the same for all models.
        present: For each model, followed by the holdout if there is one, the buckets of groups that occur in its
            held-out rows, as packed bits, (parts, buckets / 8) uint8.
    """

    split: Split
    cut: TimeCut
    present: np.ndarray

    @property
    def models(self) -> tuple[ModelRows, ...]:
        return tuple(ModelRows(code_array(model), (TRAIN,), (HELD_OUT,)) for model in range(len(self.cut.models)))

    @property
    def holdout(self) -> tuple[int, ...]:
        return (HOLDOUT,) if self.cut.holdout else ()

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        times = self.cut.codes(read_order(dataset, str(self.split.column), shard))
        buckets = read_buckets(dataset, str(self.split.group_column), shard, 8 * self.present.shape[1], self.split.seed)
        of_holdout = among(times, self.cut.holdout)
        free = np.ones(len(times), bool)
        if self.cut.holdout:
            free = ~are_present(self.present[-1], buckets)
        arrays = []
        for model, present in zip(self.cut.models, self.present, strict=False):
            codes = np.full(len(times), UNUSED, np.uint8)
            codes[among(times, model.train) & free & ~are_present(present, buckets)] = TRAIN
            codes[among(times, model.held_out)] = HELD_OUT
            codes[of_holdout] = HOLDOUT
            arrays.append(codes)
        return arrays


@dataclass(frozen=True)
class ByColumn(Assignment):
    """column: the user's own folds. Their positions in `folds` are the codes; one more code means never held out."""

    column: str
    folds: tuple[Any, ...]

    @property
    def models(self) -> tuple[ModelRows, ...]:
        codes = range(len(self.folds) + 1)
        return tuple(
            ModelRows(code_array(0), tuple(code for code in codes if code != fold), (fold,)) for fold in codes[:-1]
        )

    @property
    def holdout(self) -> tuple[int, ...]:
        return ()

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        values = read_column(dataset, find_column(dataset.schema, self.column), shard)
        codes = np.full(len(values), len(self.folds), np.uint8)
        for code, fold in enumerate(self.folds):
            codes[values == fold] = code
        return [codes]


def read_labels(dataset: Dataset, shard: int) -> np.ndarray:
    """A shard's class codes, (rows,), or its targets, (rows,) or (rows, labels)."""
    return BlockReader(dataset, ("y",)).read(dataset.layout.blocks_of(shard))["y"]


def read_buckets(dataset: Dataset, column: str, shard: int, buckets: int, seed: int) -> np.ndarray:
    """The bucket of each of a shard's rows by its group, the value of a column, (rows,) int64."""
    found = find_column(dataset.schema, column)
    usual = dataset.versions[0].widths.get(found.array)
    return buckets_of(read_column(dataset, found, shard), buckets, seed, usual)


def read_order(dataset: Dataset, column: str, shard: int) -> np.ndarray:
    """A shard's values of the order column, (rows,). Raises UsageError for text."""
    values = read_column(dataset, find_column(dataset.schema, column), shard)
    if values.dtype.kind == "S" or column in dataset.schema.categories:
        raise UsageError(
            f"--order-column {column}: the column is text, which has no time order; use a column of numbers or dates"
        )
    return values
