"""Merging predictions: the parts of all models are combined shard by shard, with a proof of coverage and a report.

Each task writes one shard of the result and evaluates its predictions; memory is bounded by a shard.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from ...storage.blocks.reader import BlockReader
from ...storage.blocks.writer import WrittenShard, blocks_of, commit, create_arrays, write_shard
from ...storage.dataset import Dataset, open_arrays, open_dataset
from ...storage.errors import RunError
from ...storage.fold_plan import FoldPlan, ModelRows, among, open_plan
from ...storage.format.arrays import ArraySpec, keys_of
from ...storage.format.dense import IGNORED
from ...storage.format.manifest import MANIFEST, Manifest
from ...storage.format.schema import Schema
from ...storage.metrics.scoring import Scoring, log_losses, own_probabilities
from ...storage.parts import read_part
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress, silent
from .scores import WORST, ClassTotals, MergedScores, Scorer, ScoreTotals, WorstRow, worst_of

Task = TypeVar("Task")


@dataclass(frozen=True)
class MergeTask:
    """Merge one shard: `parts` are the folders of the models' parts, and `models` the rows that each model should have
    predicted according to the fold `plan`."""

    dataset: str
    plan: str
    root: str
    scoring: Scoring
    models: tuple[ModelRows, ...]
    parts: tuple[str, ...]
    shard: int


@dataclass
class Evaluation:
    """The evaluation of the predictions of some rows: merged, and of each model separately."""

    merged: MergedScores
    models: list[ScoreTotals]
    classes: ClassTotals | None
    worst: list[WorstRow]

    def add(self, other: "Evaluation") -> None:
        self.merged.add(other.merged)
        for model, of_model in zip(self.models, other.models, strict=True):
            model.add(of_model)
        if self.classes and other.classes:
            self.classes.add(other.classes)
        self.worst = worst_of(self.worst, other.worst)

    def to_json(self, scorer: Scorer) -> dict[str, Any]:
        return {
            **self.merged.to_json(scorer.own),
            "models": [model.to_json() for model in self.models],
            **(self.classes.to_json() if self.classes else {}),
            "worst": [asdict(row) for row in self.worst],
        }


@dataclass(frozen=True)
class MergedShard:
    """A shard that was written, and the evaluation of its rows that have a prediction."""

    written: WrittenShard
    evaluation: Evaluation


def merge_predictions(
    dataset: Dataset,
    plan: FoldPlan,
    models: Sequence[ModelRows],
    parts: Sequence[Place],
    root: Place,
    scorer: Scorer,
    executor: Executor,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Merge the parts of some models, each of which predicted its held-out rows of a plan, into arrays at `root`:
    `prediction` (N, outputs), the mean over the models of a row, and `count` (N,) uint8, their number; of masks the
    class that most models predict, (N, height, width) uint8.

    Returns the report: rows, scores with intervals, those of each model, confusion and calibration, the worst rows.
    Raises RunError unless each model has predicted each of its rows once, and no others. An existing result is opened.
    """
    places = dataset.reference, str(plan.place), str(root), scorer.scoring, tuple(models), tuple(map(str, parts))
    tasks = [MergeTask(*places, shard) for shard in range(dataset.layout.shards)]
    return write_predictions(dataset, root, merge_shard, tasks, scorer, executor, progress)


def write_predictions(
    dataset: Dataset,
    root: Place,
    write: Callable[[Task], MergedShard],
    tasks: Sequence[Task],
    scorer: Scorer,
    executor: Executor,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write predictions of a dataset's rows to `root` and commit them with their report, which is returned. Each task
    writes a shard. An existing result is opened."""
    if not (root / MANIFEST).exists():
        layout, specs = dataset.layout, prediction_arrays(dataset.schema)
        create_arrays(root, layout, specs, {"foldstream": {"dataset": str(dataset.place)}})
        written, evaluation = [], None
        for shard in in_order(executor.map(write, tasks)):
            written.append(shard.written)
            if evaluation is None:
                evaluation = shard.evaluation
            else:
                evaluation.add(shard.evaluation)
            progress("merge", len(written), layout.shards, "shards")
        details = {"dataset": dataset.identity, "report": evaluation.to_json(scorer) if evaluation else {}}
        entries = tuple(item.entry for item in written)
        commit(root, Manifest("predictions", layout, specs, entries, details), blocks_of(written, specs))
    report: dict[str, Any] = open_arrays(root, "predictions").manifest.details["report"]
    return report


def in_order(results: Iterator[tuple[int, MergedShard]]) -> Iterator[MergedShard]:
    """Yield results in the order of their tasks, so that sums do not depend on which task ends first."""
    early: dict[int, MergedShard] = {}
    wanted = 0
    for position, result in results:
        early[position] = result
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1


def prediction_arrays(schema: Schema) -> tuple[ArraySpec, ...]:
    """The arrays of merged predictions, probabilities in float32 or values in float64: rows that no model predicted
    have NaN and a count of 0. Masks are codes of classes, IGNORED where there is no prediction; images float32."""
    count = ArraySpec("count", "uint8")
    if schema.task == "segmentation":
        return ArraySpec("prediction", "uint8", schema.target_shape), count
    rounded = schema.probabilities or schema.target_name
    return ArraySpec("prediction", "float32" if rounded else "float64", schema.output_shape), count


def merge_shard(task: MergeTask) -> MergedShard:
    """Combine the parts of one shard from all models, check coverage, score, write."""
    dataset, plan = open_dataset(task.dataset), open_plan(task.plan)
    layout, specs, schema = dataset.layout, prediction_arrays(dataset.schema), dataset.schema
    start, stop = layout.shard_range(task.shard)
    blocks = layout.blocks_of(task.shard)
    codes = BlockReader(plan, [spec.name for spec in plan.manifest.arrays]).read(blocks)
    truth = BlockReader(dataset, [spec.name for spec in dataset.manifest.arrays if spec.name != "x"]).read(blocks)
    shape = specs[0].row_shape
    votes = schema.task == "segmentation"
    mean: MeanOfModels | MajorityOfModels = (MajorityOfModels if votes else MeanOfModels)(stop - start, specs[0])
    totals = []
    for folder, model in zip(task.parts, task.models, strict=True):
        expected = np.flatnonzero(among(codes[model.array], model.held_out))
        rows, values = read_part(locate(folder), task.shard) or (
            np.empty(0, np.int64),
            np.empty((0, *shape), specs[0].dtype),
        )
        check_coverage(expected, rows - start, folder)
        mean.add(rows - start, values)
        own = {name: column[rows - start] for name, column in truth.items()}
        totals.append(ScoreTotals.of(task.scoring, values, own["y"], rows, own.get(schema.weights or "")))
    covered, prediction = np.flatnonzero(mean.count), mean.result()
    merged_arrays = {"prediction": prediction, "count": mean.count}
    written = write_shard(locate(task.root), layout, specs, task.shard, merged_arrays)
    covering = {name: column[covered] for name, column in truth.items()}
    merged = MergedScores.of(task.scoring, prediction[covered], covering, start + covered, dataset.statistics.weight)
    return MergedShard(written, evaluate_rows(schema, prediction[covered], covering, start + covered, merged, totals))


class MeanOfModels:
    """The mean of what models predict of rows, in float64."""

    def __init__(self, rows: int, spec: ArraySpec) -> None:
        self.total, self.count, self.dtype = np.zeros((rows, *spec.row_shape)), np.zeros(rows, np.uint8), spec.dtype

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Add a model's predictions of rows, given by their places, (n,) int64."""
        self.total[rows] += values
        self.count[rows] += 1

    def result(self) -> np.ndarray:
        """The mean of each row, NaN without predictions."""
        prediction, covered = np.full(self.total.shape, np.nan, self.dtype), np.flatnonzero(self.count)
        counts = self.count[covered].reshape(-1, *[1] * (self.total.ndim - 1))
        prediction[covered] = self.total[covered] / counts
        return prediction


class MajorityOfModels:
    """The class that most models predict of each pixel, the first of those that are predicted equally often."""

    def __init__(self, rows: int, spec: ArraySpec) -> None:
        self.layers: list[np.ndarray] = []
        """The first prediction of each row, the second one, …, IGNORED where there is none."""
        self.count, self.spec = np.zeros(rows, np.uint8), spec

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Add a model's predictions of rows, given by their places, (n,) int64."""
        for layer in np.unique(self.count[rows]).tolist():
            if layer == len(self.layers):
                self.layers.append(np.full((len(self.count), *self.spec.row_shape), IGNORED, self.spec.dtype))
            chosen = self.count[rows] == layer
            self.layers[layer][rows[chosen]] = values[chosen]
        self.count[rows] += 1

    def result(self) -> np.ndarray:
        """The class of each pixel, IGNORED without predictions."""
        if len(self.layers) <= 1:
            return self.layers[0] if self.layers else self._none()
        codes = {int(code) for layer in self.layers for code in np.unique(layer)} - {IGNORED}
        most, best = np.zeros(self.layers[0].shape, np.uint8), self._none()
        for code in sorted(codes):
            votes = np.sum([layer == code for layer in self.layers], axis=0, dtype=np.uint8)
            best[votes > most] = code
            np.maximum(most, votes, out=most)
        return best

    def _none(self) -> np.ndarray:
        return np.full((len(self.count), *self.spec.row_shape), IGNORED, self.spec.dtype)


def evaluate_rows(
    schema: Schema,
    prediction: np.ndarray,
    truth: dict[str, np.ndarray],
    rows: np.ndarray,
    merged: MergedScores,
    models: list[ScoreTotals],
) -> Evaluation:
    """Evaluate `rows` (rows,), given by their indices, with their merged `prediction` (rows, outputs) and their arrays
    `truth` in the dataset. The loss of a mask is the share of its pixels that are wrong."""
    y, of_row = truth["y"], tuple(range(1, prediction.ndim))
    if schema.task == "segmentation":
        known = y != IGNORED
        losses = ((prediction != y) & known).sum(axis=of_row) / np.maximum(known.sum(axis=of_row), 1)
    elif schema.probabilities:
        losses = log_losses(own_probabilities(schema, prediction, y))
        losses = losses if losses.ndim == 1 else losses.mean(axis=1)
    else:
        losses = np.square(prediction - y.reshape(prediction.shape)).sum(axis=of_row)
    worst = [
        WorstRow(
            float(losses[i]),
            int(rows[i]),
            row_name(truth, i),
            () if schema.dense else tuple(np.atleast_1d(y[i]).astype(float).tolist()),
            () if schema.dense else tuple(prediction[i].tolist()),
        )
        for i in np.argsort(-losses, kind="stable")[:WORST]
    ]
    classes = ClassTotals.of(prediction, y) if schema.classes else None
    return Evaluation(merged, models, classes, worst)


def row_name(truth: dict[str, np.ndarray], at: int) -> str:
    """The user's name for a row: its key, or its position in the source."""
    return str(keys_of(truth["key"][[at]])[0] if "key" in truth else truth["id"][at])


def check_coverage(expected: np.ndarray, rows: np.ndarray, folder: str) -> None:
    """Raise RunError unless the `rows` of a shard that a model predicted are exactly the `expected` held-out rows, each
    once. Both are counted from the shard's first row."""
    if np.array_equal(expected, rows):
        return
    found, times = np.unique(rows, return_counts=True)
    problems = {
        "are predicted twice": found[times > 1],
        "have no prediction": np.setdiff1d(expected, found),
        "are predicted but should not be": np.setdiff1d(found, expected),
    }
    details = "; ".join(f"{len(at):,} rows {what} (first: row {at[0]})" for what, at in problems.items() if len(at))
    details = details or "the rows are out of order"
    raise RunError(f"{folder}: in one shard, {details}; remove the fold's folder and train the fold again")
