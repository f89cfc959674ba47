"""The merged predictions of several runs, shard by shard, next to the truth and the fold of each row."""

from dataclasses import dataclass

import numpy as np

from ...storage.blocks.reader import BlockReader
from ...storage.dataset import Dataset, open_arrays, open_dataset
from ...storage.errors import RunError
from ...storage.fold_plan import FoldPlan, among, open_plan
from ...storage.format.schema import Schema

NO_FOLD = -1


@dataclass(frozen=True)
class MemberRows:
    """The covered rows of a shard: their numbers `rows` (n,) int64, their places `at` (n,) in the shard, their
    `folds` (n,) int16, the `predictions` (members, n, outputs), and the arrays of the
    dataset `truth`. `count` (rows of the shard,) uint8 is the number of models that predicted each row."""

    rows: np.ndarray
    at: np.ndarray
    folds: np.ndarray
    predictions: np.ndarray
    truth: dict[str, np.ndarray]
    count: np.ndarray

    def weights(self, schema: Schema) -> np.ndarray:
        """The sample weights, (n,) float64; 1 each without any."""
        given = self.truth.get(schema.weights or "")
        return np.ones(len(self.rows)) if given is None else given.astype(np.float64)


@dataclass(frozen=True)
class MemberSource:
    """Where the rows of an ensemble are: a `dataset`, a fold `plan` of it, and the arrays of predictions of each of the
    `members`. Cheap to pickle."""

    dataset: str
    plan: str
    members: tuple[str, ...]

    def open_dataset(self) -> Dataset:
        return open_dataset(self.dataset)

    def read(self, shard: int) -> MemberRows:
        """Read a shard.

        Raises RunError if the members do not cover the same rows.
        """
        dataset, plan = self.open_dataset(), open_plan(self.plan)
        layout, names = dataset.layout, [spec.name for spec in dataset.manifest.arrays if spec.name != "x"]
        blocks, start = layout.blocks_of(shard), layout.shard_range(shard)[0]
        codes = BlockReader(plan, [spec.name for spec in plan.manifest.arrays]).read(blocks)
        truth = BlockReader(dataset, names).read(blocks)
        stored = [
            BlockReader(open_arrays(place, "predictions"), ("prediction", "count")).read(blocks)
            for place in self.members
        ]
        count = stored[0]["count"]
        for place, one in zip(self.members, stored, strict=True):
            if not np.array_equal(one["count"], count):
                raise RunError(
                    f"{place} does not cover the rows that {self.members[0]} covers, although the fold plans agree; "
                    "remove it, and run the 'foldstream train' command of its run again"
                )
        at = np.flatnonzero(count)
        predictions = np.stack([one["prediction"][at] for one in stored])
        folds, covered = folds_of(plan, codes)[at], {name: values[at] for name, values in truth.items()}
        return MemberRows(start + at, at, folds, predictions, covered, count)


def folds_of(plan: FoldPlan, codes: dict[str, np.ndarray]) -> np.ndarray:
    """The fold of each row, (rows,) int16: the first of the models that it is held out from, which is one of the first
    repeat; NO_FOLD for the holdout and for other rows that are held out from none."""
    folds = np.full(len(next(iter(codes.values()))), NO_FOLD, np.int16)
    for number, model in reversed([*enumerate(plan.models)]):
        folds[among(codes[model.array], model.held_out)] = number
    return folds


def targets_of(schema: Schema, y: np.ndarray) -> np.ndarray:
    """What predictions should have been: one-hot classes, labels or values, (rows, outputs) float64."""
    if schema.classes:
        hot = np.zeros((len(y), len(schema.classes)))
        hot[np.arange(len(y)), y.astype(np.int64)] = 1.0
        return hot
    return y.reshape(len(y), -1).astype(np.float64)
