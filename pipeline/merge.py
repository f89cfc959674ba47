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
from ..storage.format import MANIFEST, ArraySpec, Manifest, Schema
from ..storage.parts import read_part
from ..storage.progress import Progress, silent
from ..storage.reader import BlockReader
from ..storage.writer import WrittenShard, commit, create_arrays, write_shard
from .executor import Executor

SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class MergeTask:
    """Merge one shard: `parts` are the folds' folders of parts."""

    dataset: str
    root: str
    parts: tuple[str, ...]
    shard: int


@dataclass(frozen=True)
class MergedShard:
    """One shard as it was written, its rows without a prediction, and sums of scores over the others."""

    written: WrittenShard
    uncovered: int
    sums: dict[str, float]


def merge_predictions(
    dataset: Dataset, parts: tuple[Path, ...], root: Path, executor: Executor, progress: Progress = silent
) -> dict[str, float]:
    """Merge the folds' parts into arrays at `root`: `prediction` (N, outputs) float32 and `count` (N,) uint8.

    Returns the out-of-fold scores. Raises RunError if a row is predicted twice or by no fold. What is merged already
    is opened.
    """
    if not (root / MANIFEST).exists():
        _merge(dataset, parts, root, executor, progress)
    scores: dict[str, float] = open_arrays(root, "predictions").manifest.details["scores"]
    return scores


def _merge(dataset: Dataset, parts: tuple[Path, ...], root: Path, executor: Executor, progress: Progress) -> None:
    layout, specs = dataset.layout, prediction_arrays(dataset.schema)
    create_arrays(root, layout, specs, {"foldstream": {"dataset": str(dataset.place)}})
    tasks = [MergeTask(str(dataset.place), str(root), tuple(map(str, parts)), s) for s in range(layout.shards)]
    merged: dict[int, MergedShard] = {}
    progress("merge", 0, layout.shards, "shards")
    for shard, result in executor.map(merge_shard, tasks):
        merged[shard] = result
        progress("merge", len(merged), layout.shards, "shards")
    ordered = [merged[shard] for shard in range(layout.shards)]
    uncovered = sum(item.uncovered for item in ordered)
    if uncovered:
        raise RunError(f"{uncovered:,} of {layout.rows:,} rows have no out-of-fold prediction; train the missing folds")
    details = {"dataset": dataset.identity, "scores": finish_scores(ordered, layout.rows), "uncovered": uncovered}
    checksums = {spec.name: [c for item in ordered for c in item.written.checksums[spec.name]] for spec in specs}
    shards = tuple(item.written.entry for item in ordered)
    commit(root, Manifest("predictions", layout, specs, shards, details), checksums)


def prediction_arrays(schema: Schema) -> tuple[ArraySpec, ...]:
    """The arrays of merged predictions: NaN and a count of 0 stand where no fold predicted."""
    return ArraySpec("prediction", "float32", (schema.outputs,)), ArraySpec("count", "uint8")


def merge_shard(task: MergeTask) -> MergedShard:
    """Gather one shard's parts from all folds, prove coverage, score, write."""
    dataset = open_dataset(task.dataset)
    layout, specs = dataset.layout, prediction_arrays(dataset.schema)
    start, stop = layout.shard_range(task.shard)
    prediction = np.full((stop - start, dataset.schema.outputs), np.nan, np.float32)
    count = np.zeros(stop - start, np.uint8)
    for folder in task.parts:
        part = read_part(Path(folder), task.shard)
        if part is not None:
            place_part(prediction, count, part[0] - start, part[1], folder)
    covered = count == 1
    reader = BlockReader(dataset, ("y",))
    y = reader.read(layout.blocks_of(task.shard))["y"]
    sums = score(dataset.schema, prediction[covered], y[covered])
    arrays: dict[str, np.ndarray] = {"prediction": prediction, "count": count}
    written = write_shard(Path(task.root), layout, specs, task.shard, arrays)
    return MergedShard(written, int((~covered).sum()), sums)


def place_part(prediction: np.ndarray, count: np.ndarray, rows: np.ndarray, values: np.ndarray, folder: str) -> None:
    """Put a fold's predictions at their rows. Raises RunError for a row outside the shard or predicted before."""
    if len(rows) and (rows.min() < 0 or rows.max() >= len(count)):
        raise RunError(f"{folder} predicts rows of another shard; remove the fold's folder and train it again")
    np.add.at(count, rows, 1)
    twice = np.flatnonzero(count > 1)
    if len(twice):
        raise RunError(
            f"{len(twice):,} rows are predicted twice (the first is row {twice[0]} of its shard), last by {folder}; "
            "remove the fold's folder and train it again"
        )
    prediction[rows] = values


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
