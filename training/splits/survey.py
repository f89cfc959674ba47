"""Surveys of a dataset before its rows are assigned: one task per shard, with results merged as they arrive."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError
from ...storage.fold_plan import MOST_CODES
from ...storage.tasks import Executor, Progress, Result, ordered_results
from .assignments import (
    Assignment,
    ByClass,
    ByColumn,
    ByGroup,
    ByPosition,
    ByStratum,
    ByTime,
    ByTimeAndGroup,
    read_buckets,
    read_labels,
    read_order,
)
from .columns import find_column, read_column
from .folds import in_turn
from .groups.grouped import assign_buckets, bucket_count, count_buckets, mark_buckets, marked_buckets
from .ordered import Sketch, TimeCut, cut_points, cut_time, sketch
from .split import Split
from .strata import LabelCounts, Strata, by_labels, count_labels, label_sets, merge_labels, quantile_bins
from .windows import ByWindow, read_spans, rows_apart

NEVER_HELD_OUT = -1  # the same value as in scikit-learn's PredefinedSplit


@dataclass(frozen=True)
class SurveyTask:
    """Survey one shard, given the results of an earlier survey."""

    dataset: str
    shard: int
    split: Split
    found: Any = None


@dataclass(frozen=True)
class Surveyor:
    """Surveys all shards of a dataset."""

    dataset: Dataset
    split: Split
    executor: Executor
    progress: Progress

    def each(
        self,
        function: Callable[[SurveyTask], Result],
        found: Any = None,
        shards: Sequence[int] | None = None,
        own: Sequence[Any] | None = None,
    ) -> Iterator[Result]:
        """The result of a function for each shard, or each of `shards`, in order, given `found`, or for each shard
        what `own` has for it."""
        place, shards = self.dataset.reference, range(self.dataset.layout.shards) if shards is None else shards
        given = [found] * len(shards) if own is None else own
        tasks = [SurveyTask(place, shard, self.split, one) for shard, one in zip(shards, given, strict=True)]
        return ordered_results(self.executor, function, tasks, "survey", self.progress)


def survey(dataset: Dataset, split: Split, executor: Executor, progress: Progress) -> Assignment:
    """Decide how to assign rows, after a survey of the columns that the kind of split uses, if any.

    Raises UsageError if a column has too few or too many distinct values, or values that the split cannot use.
    """
    surveyor = Surveyor(dataset, split, executor, progress)
    match split.kind, split.column:
        case "kfold" | "contiguous", _:
            return ByPosition(split)
        case "stratified", _:
            return ByClass(split) if dataset.schema.classes else survey_strata(surveyor)
        case "time", _ if dataset.windows:
            sketches = list(surveyor.each(survey_windows))
            starts = cut_points(sketches, len(dataset), split, rows_apart(dataset))
            end = starts.pop() if split.holdout else np.inf
            return ByWindow(tuple(starts), end, split.gap)
        case "time", str(column):
            cut = cut_time(list(surveyor.each(survey_order)), len(dataset), split)
            return survey_periods(surveyor, cut) if split.group_column else ByTime(column, cut)
        case "column", str(column):
            return ByColumn(column, check_folds(set().union(*surveyor.each(survey_folds)), column))
    table = np.zeros(table_shape(dataset, split), np.int64)
    for positions, counts in surveyor.each(survey_groups):
        table.reshape(-1)[positions] += counts
    tables = tuple(assign_buckets(table, split, repeat) for repeat in range(split.repeats))
    return ByGroup(split, tables, float(table.sum(axis=1).max() / len(dataset)))


def survey_strata(surveyor: Surveyor) -> ByStratum:
    """Stratify rows by ranges of a target, or by several 0/1 targets."""
    dataset, split = surveyor.dataset, surveyor.split
    strata: Strata
    if len(dataset.schema.labels) > 1:
        strata = label_sets(reduce(merge_labels, surveyor.each(survey_labels)), dataset.layout.shards)
        counts, having = count_strata(surveyor, strata)
        totals = counts.sum(axis=0)
        rests = tuple(by_labels(totals, having, split, repeat) for repeat in range(split.repeats))
    else:
        bins = quantile_bins(list(surveyor.each(survey_target)), len(dataset), split.folds)
        counts, _ = count_strata(surveyor, bins)
        strata = bins.joined(counts.sum(axis=0), split.folds)
        counts = np.add.reduceat(counts, [0, *(bins.edges.index(edge) + 1 for edge in strata.edges)], axis=1)
        totals = counts.sum(axis=0)
        rests = (in_turn(totals, split),) * split.repeats
    return ByStratum(split, strata, totals, rests, np.cumsum(counts, axis=0) - counts)


def count_strata(surveyor: Surveyor, strata: Strata) -> tuple[np.ndarray, np.ndarray]:
    """The rows of each stratum in every shard, (shards, strata) int64, and the rows of each stratum with each label,
    (strata, labels) int64."""
    counts, having = [], np.zeros((strata.count, len(surveyor.dataset.schema.labels)), np.int64)
    for of_shard, positions, rows in surveyor.each(survey_counts, strata):
        counts.append(of_shard)
        having.reshape(-1)[positions] += rows
    return np.stack(counts), having


def survey_periods(surveyor: Surveyor, cut: TimeCut) -> ByTimeAndGroup:
    """Find the groups that occur in the held-out rows of each model, and in the holdout."""
    marked = reduce(np.bitwise_or, surveyor.each(survey_marks, cut))
    return ByTimeAndGroup(surveyor.split, cut, marked)


def survey_order(task: SurveyTask) -> Sketch:
    """A sketch of one shard's values in order."""
    dataset = open_dataset(task.dataset)
    return sketch(read_order(dataset, str(task.split.column), task.shard), dataset.layout.shards)


def survey_windows(task: SurveyTask) -> Sketch:
    """A sketch of the times at which one shard's windows begin."""
    dataset = open_dataset(task.dataset)
    return sketch(read_spans(dataset, task.shard)[0], dataset.layout.shards)


def survey_target(task: SurveyTask) -> Sketch:
    """A sketch of one shard's targets."""
    dataset = open_dataset(task.dataset)
    return sketch(read_labels(dataset, task.shard), dataset.layout.shards)


def survey_labels(task: SurveyTask) -> LabelCounts:
    """The sets of labels in one shard."""
    dataset = open_dataset(task.dataset)
    start, _ = dataset.layout.shard_range(task.shard)
    return count_labels(read_labels(dataset, task.shard), dataset.schema.labels, start)


def survey_counts(task: SurveyTask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of each stratum in one shard, (strata,), and the rows with each label, as in `count_buckets`."""
    y, strata = read_labels(open_dataset(task.dataset), task.shard), task.found
    of_rows = strata.of(y)
    rows, labels = np.nonzero(y.reshape(len(y), -1))
    shape = strata.count, y.reshape(len(y), -1).shape[1]
    return np.bincount(of_rows, minlength=strata.count), *count_buckets(of_rows[rows], labels, shape)


def survey_groups(task: SurveyTask) -> tuple[np.ndarray, np.ndarray]:
    """The nonzero entries of one shard's table of buckets and classes; see `count_buckets`."""
    dataset, split = open_dataset(task.dataset), task.split
    shape = table_shape(dataset, split)
    buckets = read_buckets(dataset, str(split.column), task.shard, shape[0], split.seed)
    y = read_labels(dataset, task.shard) if shape[1] > 1 else np.zeros(len(buckets), np.int64)
    return count_buckets(buckets, y, shape)


def survey_marks(task: SurveyTask) -> np.ndarray:
    """The buckets of groups in one shard's held-out rows; see `mark_buckets`."""
    dataset, split, cut = open_dataset(task.dataset), task.split, task.found
    periods = [model.held_out for model in cut.models] + ([cut.holdout] if cut.holdout else [])
    times = cut.codes(read_order(dataset, str(split.column), task.shard))
    buckets = marked_buckets(len(periods))
    return mark_buckets(read_buckets(dataset, str(split.group_column), task.shard, buckets, split.seed), times, periods)


def survey_folds(task: SurveyTask) -> set[Any]:
    """The distinct folds in one shard, up to one more than the number of codes."""
    dataset = open_dataset(task.dataset)
    values = read_column(dataset, find_column(dataset.schema, str(task.split.column)), task.shard)
    return set(np.unique(values)[: MOST_CODES + 1].tolist())


def check_folds(found: set[Any], column: str) -> tuple[Any, ...]:
    """The user's folds, sorted. Raises UsageError if there are none, too many, or no training rows."""
    folds = sorted(found - {NEVER_HELD_OUT})
    if not folds or len(folds) >= MOST_CODES:
        many = f"more than {MOST_CODES - 1} folds" if folds else "no folds"
        raise UsageError(
            f"--fold-column {column}: the column has {many}; use a column with 1 to {MOST_CODES - 1} folds"
        )
    if len(found) == 1:
        raise UsageError(
            f"--fold-column {column}: all rows are in one fold, so there are no training rows; use at least two folds"
        )
    return tuple(folds)


def table_shape(dataset: Dataset, split: Split) -> tuple[int, int]:
    """The number of buckets, and of classes that are counted separately in each."""
    classes = len(dataset.schema.classes) if split.kind == "stratified-group" else 1
    return bucket_count(classes), classes
