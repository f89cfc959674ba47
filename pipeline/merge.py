"""Out-of-fold predictions: the parts of all folds put together, shard by shard, with the proof of coverage.

Each task writes one shard of the result and adds up the scores of its rows; memory is bounded by a shard.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.dataset import Dataset, open_arrays, open_dataset
from ..storage.errors import RunError
from ..storage.fold_plan import FoldPlan, among, open_plan
from ..storage.format import MANIFEST, ArraySpec, Manifest, Schema
from ..storage.parts import read_part
from ..storage.progress import Progress, silent
from ..storage.reader import BlockReader
from ..storage.writer import WrittenShard, commit, create_arrays, write_shard
from .executor import Executor

SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class MergeTask:
    """Merge one shard: `parts` are the folders of the parts of the models of the fold `plan`, in their order."""

    dataset: str
    plan: str
    root: str
    parts: tuple[str, ...]
    shard: int


@dataclass(frozen=True)
class MergedShard:
    """One shard as it was written, its rows that have a prediction, and sums of scores over them."""

    written: WrittenShard
    covered: int
    sums: dict[str, float]


def merge_predictions(
    dataset: Dataset,
    plan: FoldPlan,
    parts: tuple[Path, ...],
    root: Path,
    executor: Executor,
    progress: Progress = silent,
) -> dict[str, float]:
    """Merge the parts of a plan's models into arrays at `root`: `prediction` (N, outputs) float32, the mean over the
    repeats, and `count` (N,) uint8.

    Returns the out-of-fold scores. Raises RunError unless each model has predicted each of its held-out rows once, and
    no others. What is merged already is opened.
    """
    if not (root / MANIFEST).exists():
        _merge(dataset, plan, parts, root, executor, progress)
    scores: dict[str, float] = open_arrays(root, "predictions").manifest.details["scores"]
    return scores


def _merge(
    dataset: Dataset, plan: FoldPlan, parts: tuple[Path, ...], root: Path, executor: Executor, progress: Progress
) -> None:
    layout, specs = dataset.layout, prediction_arrays(dataset.schema)
    create_arrays(root, layout, specs, {"foldstream": {"dataset": str(dataset.place)}})
    folders = tuple(map(str, parts))
    tasks = [MergeTask(str(dataset.place), str(plan.place), str(root), folders, s) for s in range(layout.shards)]
    merged: dict[int, MergedShard] = {}
    progress("merge", 0, layout.shards, "shards")
    for shard, result in executor.map(merge_shard, tasks):
        merged[shard] = result
        progress("merge", len(merged), layout.shards, "shards")
    ordered = [merged[shard] for shard in range(layout.shards)]
    covered = sum(item.covered for item in ordered)
    details = {"dataset": dataset.identity, "scores": finish_scores(ordered, covered), "covered": covered}
    checksums = {spec.name: [c for item in ordered for c in item.written.checksums[spec.name]] for spec in specs}
    shards = tuple(item.written.entry for item in ordered)
    commit(root, Manifest("predictions", layout, specs, shards, details), checksums)


def prediction_arrays(schema: Schema) -> tuple[ArraySpec, ...]:
    """The arrays of merged predictions: NaN and a count of 0 stand where no fold predicted."""
    return ArraySpec("prediction", "float32", (schema.outputs,)), ArraySpec("count", "uint8")


def merge_shard(task: MergeTask) -> MergedShard:
    """Gather one shard's parts from all models, prove coverage, score, write."""
    dataset, plan = open_dataset(task.dataset), open_plan(task.plan)
    layout, specs = dataset.layout, prediction_arrays(dataset.schema)
    start, stop = layout.shard_range(task.shard)
    blocks = layout.blocks_of(task.shard)
    codes = BlockReader(plan, [spec.name for spec in plan.manifest.arrays]).read(blocks)
    total = np.zeros((stop - start, dataset.schema.outputs), np.float64)
    count = np.zeros(stop - start, np.uint8)
    for folder, model in zip(task.parts, plan.models, strict=True):
        expected = np.flatnonzero(among(codes[model.array], model.held_out))
        rows, values = read_part(Path(folder), task.shard) or (np.empty(0, np.int64), total[:0])
        check_coverage(expected, rows - start, folder)
        total[rows - start] += values
        count[rows - start] += 1
    covered = count > 0
    prediction = np.full(total.shape, np.nan, np.float32)
    prediction[covered] = total[covered] / count[covered, None]
    y = BlockReader(dataset, ("y",)).read(blocks)["y"]
    sums = score(dataset.schema, prediction[covered], y[covered])
    written = write_shard(Path(task.root), layout, specs, task.shard, {"prediction": prediction, "count": count})
    return MergedShard(written, int(covered.sum()), sums)


def check_coverage(expected: np.ndarray, rows: np.ndarray, folder: str) -> None:
    """Raise RunError unless the `rows` of a shard that a model has predicted are those that are held out from it, each
    once; both count from the shard's first row."""
    if np.array_equal(expected, rows):
        return
    found, times = np.unique(rows, return_counts=True)
    faults = {
        "are predicted twice": found[times > 1],
        "have no prediction": np.setdiff1d(expected, found),
        "are predicted and should not be": np.setdiff1d(found, expected),
    }
    told = "; ".join(f"{len(at):,} rows {what} (the first is row {at[0]})" for what, at in faults.items() if len(at))
    told = told or "the rows are not in order"
    raise RunError(f"{folder}, of one shard: {told}; remove the fold's folder and train it again")


def score(schema: Schema, prediction: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Sums over rows: of hits and losses for classes, of squared and absolute errors for quantities."""
    if schema.task == "classification":
        own = prediction[np.arange(len(y)), y.astype(np.int64)]
        rank = (prediction > own[:, None]).sum(axis=1)
        losses = -np.log(np.maximum(own.astype(np.float64), SMALLEST_PROBABILITY))
        return {"loss": float(losses.sum()), "accuracy": float((rank < 1).sum()), "top3": float((rank < 3).sum())}
    error = prediction.astype(np.float64) - y.reshape(prediction.shape)
    return {
        **schema.by_label("rmse", np.square(error).sum(axis=0)),  # the root is drawn at the end
        **schema.by_label("mae", np.abs(error).sum(axis=0)),
    }


def finish_scores(shards: list[MergedShard], rows: int) -> dict[str, Any]:
    """Means over all rows, added up in the order of the shards."""
    scores = {name: sum(shard.sums[name] for shard in shards) / rows for name in shards[0].sums}
    return {name: math.sqrt(score) if name.startswith("rmse") else score for name, score in scores.items()}
