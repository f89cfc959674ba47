"""How each kind of split assigns a fold code to every row, after a survey of the data if the kind needs one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError
from ...storage.fold_plan import MOST_CODES, ModelRows, code_array
from ...storage.reader import BlockReader
from ...storage.tasks import Executor, Progress, Result, run_tasks
from .columns import find_column, read_column
from .folds import kfold, stratified
from .grouped import assign_buckets, bucket_count, buckets_of, count_buckets
from .ordered import Sketch, TimeCut, cut_time, sketch
from .split import Split

NEVER_HELD_OUT = -1  # the same value as in scikit-learn's PredefinedSplit


class Assignment(Protocol):
    """Assigns a code to every row, and to every model the codes that it trains on and holds out."""

    @property
    def models(self) -> tuple[ModelRows, ...]:
        """The codes that each model trains on and holds out."""
        ...

    @property
    def holdout(self) -> tuple[int, ...]:
        """The codes of the rows that no model trains on."""
        ...

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        """The codes of a shard's rows, (rows,) uint8 for each repeat."""
        ...


@dataclass(frozen=True)
class Folds:
    """Codes that are fold indices. The code of the holdout is the number of folds.

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
    """kfold: assigned by position; no data are read."""

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        start, stop = dataset.layout.shard_range(shard)
        return [kfold(start, stop, dataset.rows, self.split, repeat) for repeat in range(self.split.repeats)]


@dataclass(frozen=True)
class ByClass(Folds):
    """stratified: assigned by position within each class."""

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        y, counts = read_classes(dataset, shard), dataset.class_counts
        before = counts[: dataset.layout.blocks_of(shard).start].sum(axis=0)
        totals = counts.sum(axis=0)
        return [stratified(y, before, totals, self.split, repeat) for repeat in range(self.split.repeats)]


@dataclass(frozen=True, eq=False)
class ByGroup(Folds):
    """group, stratified-group: `tables` hold the code of each bucket of groups, (buckets,) for each repeat."""

    tables: tuple[np.ndarray, ...]

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        buckets = read_buckets(dataset, self.split, shard, len(self.tables[0]))
        return [table[buckets] for table in self.tables]


@dataclass(frozen=True)
class ByTime:
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


@dataclass(frozen=True)
class ByColumn:
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


@dataclass(frozen=True)
class SurveyTask:
    """Survey one shard."""

    dataset: str
    shard: int
    split: Split


def survey(dataset: Dataset, split: Split, executor: Executor, progress: Progress) -> Assignment:
    """Decide how rows are assigned, after a survey of the column that the kind of split uses, if any.

    Raises UsageError if the column has too few or too many distinct values.
    """
    tasks = [SurveyTask(str(dataset.place), shard, split) for shard in range(dataset.layout.shards)]

    def survey_shards(function: Callable[[SurveyTask], Result]) -> list[Result]:
        return run_tasks(executor, function, tasks, "survey", progress)

    match split.kind, split.column:
        case "kfold", _:
            return ByPosition(split)
        case "stratified", _:
            return ByClass(split)
        case "time", str(column):
            return ByTime(column, cut_time(survey_shards(survey_order), dataset.rows, split))
        case "column", str(column):
            return ByColumn(column, check_folds(set().union(*survey_shards(survey_folds)), column))
    table = np.zeros(table_shape(dataset, split), np.int64)
    for positions, counts in survey_shards(survey_groups):
        table.reshape(-1)[positions] += counts
    return ByGroup(split, tuple(assign_buckets(table, split, repeat) for repeat in range(split.repeats)))


def survey_order(task: SurveyTask) -> Sketch:
    """A sketch of one shard's values in order."""
    dataset = open_dataset(task.dataset)
    return sketch(read_order(dataset, str(task.split.column), task.shard), dataset.layout.shards)


def survey_groups(task: SurveyTask) -> tuple[np.ndarray, np.ndarray]:
    """The nonzero entries of one shard's table of buckets and classes; see `count_buckets`."""
    dataset = open_dataset(task.dataset)
    shape = table_shape(dataset, task.split)
    buckets = read_buckets(dataset, task.split, task.shard, shape[0])
    y = read_classes(dataset, task.shard) if shape[1] > 1 else np.zeros(len(buckets), np.int64)
    return count_buckets(buckets, y, shape)


def survey_folds(task: SurveyTask) -> set[Any]:
    """The distinct folds in one shard, up to one more than the codes that exist."""
    dataset = open_dataset(task.dataset)
    values = read_column(dataset, find_column(dataset.schema, str(task.split.column)), task.shard)
    return set(np.unique(values)[: MOST_CODES + 1].tolist())


def check_folds(found: set[Any], column: str) -> tuple[Any, ...]:
    """The user's folds, sorted. Raises UsageError if there are none, too many, or no rows to train on."""
    folds = sorted(found - {NEVER_HELD_OUT})
    if not folds or len(folds) >= MOST_CODES:
        many = f"more than {MOST_CODES - 1} folds" if folds else "no folds"
        raise UsageError(f"--fold-column {column}: the column has {many}; use a column with 1 to {MOST_CODES - 1}")
    if len(found) == 1:
        raise UsageError(
            f"--fold-column {column}: all rows are in one fold, which leaves none to train on; use at least two folds"
        )
    return tuple(folds)


def table_shape(dataset: Dataset, split: Split) -> tuple[int, int]:
    """The number of buckets, and of classes that are counted separately in each."""
    classes = len(dataset.schema.classes) if split.kind == "stratified-group" else 1
    return bucket_count(classes), classes


def read_classes(dataset: Dataset, shard: int) -> np.ndarray:
    """A shard's class codes, (rows,)."""
    return BlockReader(dataset, ("y",)).read(dataset.layout.blocks_of(shard))["y"]


def read_buckets(dataset: Dataset, split: Split, shard: int, buckets: int) -> np.ndarray:
    """The bucket of each of a shard's rows, (rows,) int64."""
    values = read_column(dataset, find_column(dataset.schema, str(split.column)), shard)
    return buckets_of(values, buckets, split.seed)


def read_order(dataset: Dataset, column: str, shard: int) -> np.ndarray:
    """A shard's values of the order column, (rows,). Raises UsageError for text."""
    values = read_column(dataset, find_column(dataset.schema, column), shard)
    if values.dtype.kind == "S" or column in dataset.schema.categories:
        raise UsageError(
            f"--order-column {column}: the column is text, which has no order in time; use a column of numbers or dates"
        )
    return values
