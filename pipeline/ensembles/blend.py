"""Weights of an ensemble, and its predictions for the rows of the dataset.

The weights of a row's prediction are found without the rows of its fold, so that its score is as honest as that of a
run. Each task reads and writes one shard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...storage.blocks.writer import write_shard
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.metrics.scoring import Scoring
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress, ordered_results, silent
from ..predictions.merge import MergedShard, evaluate_rows, prediction_arrays, write_predictions
from ..predictions.scores import MergedScores, Scorer, ScoreTotals
from .greedy import SampledRows, SampleTask, Selection, mix, sample_shard
from .least_squares import GramSums, GramTask, gram_of_shard, solve_nnls
from .member_rows import MemberSource

Method = Literal["greedy", "nnls", "mean"]
SAMPLE_BYTES = 256 << 20
"""Of the predictions that greedy selection has in memory."""


@dataclass(frozen=True)
class Weighting:
    """How weights are found. Greedy selection maximizes or minimizes `metrics`; they say whether higher is better."""

    method: Method
    metrics: dict[str, bool]
    seed: int = 0
    sample_bytes: int = SAMPLE_BYTES


@dataclass(frozen=True)
class FoundWeights:
    """The `final` weights of the members, (members,), from all rows; those that are found without the rows of a fold,
    by its number; and the facts of the report."""

    final: tuple[float, ...]
    by_fold: dict[int, tuple[float, ...]]
    rows: int
    uncovered: int
    sampled: int
    correlation: list[list[float]]


def find_weights(
    source: MemberSource,
    weighting: Weighting,
    scoring: Scoring,
    executor: Executor,
    progress: Progress = silent,
) -> FoundWeights:
    """Find the weights of the members by their out-of-fold predictions.

    Raises UsageError if all held-out rows are in one fold, so that none are left to find weights without it.
    """
    dataset = source.open_dataset()
    shards = range(dataset.layout.shards)
    scale = scale_of(dataset)
    tasks = [GramTask(source, scale, shard) for shard in shards]
    sums = GramSums()
    for found in ordered_results(executor, gram_of_shard, tasks, "weights", progress):
        sums.add(found)
    members, rows = len(source.members), sum(sums.rows.values())
    if weighting.method != "mean" and len(sums.folds) < 2:
        raise UsageError(
            "--method: the runs hold out one fold, so weights cannot be found without the rows that they are scored "
            "by; use --method mean, or train runs with several folds"
        )
    sampled = rows
    if weighting.method == "mean":
        weights = {fold: np.full(members, 1 / members) for fold in (None, *sums.folds)}
    elif weighting.method == "nnls":
        weights = {fold: fitted(sums, fold, dataset.schema.probabilities) for fold in (None, *sums.folds)}
    else:
        sample = read_sample(source, weighting, executor, progress)
        selection, sampled = Selection(sample, scoring, weighting.metrics), len(sample.folds)
        weights = {fold: selection.select(fold) for fold in (None, *sums.folds)}
    lists = {fold: tuple(map(float, found)) for fold, found in weights.items()}
    by_fold = {fold: found for fold, found in lists.items() if fold is not None}
    return FoundWeights(lists[None], by_fold, rows, sums.uncovered, sampled, sums.correlation())


def scale_of(dataset: Dataset) -> tuple[float, ...]:
    """The unit of each output in a least squares fit: that of several regression targets is their spread."""
    schema, spread = dataset.schema, dataset.statistics.y_std
    if schema.probabilities or len(spread) != schema.outputs or schema.outputs == 1:
        return ()
    return tuple(one or 1.0 for one in spread)


def fitted(sums: GramSums, left_out: int | None, probabilities: bool) -> np.ndarray:
    """The least squares weights without the rows of a fold. Those of probabilities sum to 1; equal ones if no member
    says anything about the truth."""
    found = solve_nnls(*sums.without(left_out))
    if not found.any():
        return np.full(len(found), 1 / len(found))
    return found / found.sum() if probabilities else found


def read_sample(source: MemberSource, weighting: Weighting, executor: Executor, progress: Progress) -> SampledRows:
    """The rows over which members are selected: all of them if they fit into `sample_bytes`, else about as many of a
    uniform sample as fit."""
    dataset = source.open_dataset()
    spec = prediction_arrays(dataset.schema)[0]
    share = weighting.sample_bytes / max(1, len(dataset) * spec.row_bytes * len(source.members))
    tasks = [SampleTask(source, share, weighting.seed, shard) for shard in range(dataset.layout.shards)]
    return SampledRows.union([*ordered_results(executor, sample_shard, tasks, "sample", progress)])


@dataclass(frozen=True)
class BlendTask:
    """Write the weighted predictions of a shard. `by_fold` has the weights of rows by their fold."""

    source: MemberSource
    root: str
    scoring: Scoring
    by_fold: Mapping[int, Sequence[float]]
    shard: int


def blend_shard(task: BlendTask) -> MergedShard:
    """Run a task: combine, score, write."""
    dataset, shard = task.source.open_dataset(), task.source.read(task.shard)
    layout, schema, specs = dataset.layout, dataset.schema, prediction_arrays(dataset.schema)
    covered = np.empty((len(shard.rows), *specs[0].row_shape), specs[0].dtype)
    for fold in np.unique(shard.folds).tolist():
        at = np.flatnonzero(shard.folds == fold)
        covered[at] = mix(np.array(task.by_fold[fold]), shard.predictions[:, at])
    prediction = np.full((len(shard.count), *specs[0].row_shape), np.nan, specs[0].dtype)
    prediction[shard.at] = covered
    written = write_shard(
        locate(task.root), layout, specs, task.shard, {"prediction": prediction, "count": shard.count}
    )
    y, weight = shard.truth["y"], shard.truth.get(schema.weights or "")
    members = [ScoreTotals.of(task.scoring, one, y, shard.rows, weight) for one in shard.predictions]
    merged = MergedScores.of(task.scoring, covered, shard.truth, shard.rows, dataset.statistics.weight)
    return MergedShard(written, evaluate_rows(schema, covered, shard.truth, shard.rows, merged, members))


def blend_predictions(
    source: MemberSource,
    by_fold: Mapping[int, Sequence[float]],
    root: Place,
    scorer: Scorer,
    executor: Executor,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the weighted predictions of all rows to `root`, in the form of a run's, and return their report, in which
    `models` are the members. An existing result is opened."""
    dataset = source.open_dataset()
    tasks = [BlendTask(source, str(root), scorer.scoring, by_fold, shard) for shard in range(dataset.layout.shards)]
    return write_predictions(dataset, root, blend_shard, tasks, scorer, executor, progress)
