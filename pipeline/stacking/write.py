"""Write one shard: the arrays of the dataset, and the predictions as further features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ...storage.blocks.reader import BlockReader
from ...storage.dataset import open_arrays, open_dataset
from ...storage.format.arrays import TABLE
from ...storage.format.layout import Layout
from ...storage.format.schema import Schema
from ...storage.places.locate import locate
from ..target.plan import StoredPlan
from ..target.receipts import finish_shard, with_gaps


@dataclass(frozen=True)
class StackPlan:
    """What all tasks need: the dataset, and for each run the places of its predictions, out of fold and of the
    holdout."""

    layout: Layout
    schema: Schema
    dataset: str
    predictions: tuple[tuple[str, str | None], ...]

    def to_json(self) -> Mapping[str, Any]:
        return vars(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        places = tuple((oof, holdout) for oof, holdout in value["predictions"])
        return cls(Layout.from_json(value["layout"]), Schema.from_json(value["schema"]), value["dataset"], places)


@dataclass(frozen=True)
class StackTask:
    """Write one shard."""

    plan: StoredPlan[StackPlan]
    shard: int


def write_stacked(task: StackTask) -> None:
    """Run a task."""
    root, plan = locate(task.plan.root), task.plan.load()
    schema, blocks = plan.schema, plan.layout.blocks_of(task.shard)
    dataset = open_dataset(plan.dataset)
    own = {spec.name for spec in dataset.manifest.arrays} | {"x"}
    names = [spec.name for spec in schema.arrays() if spec.name in own]
    reader = BlockReader(dataset, names)
    arrays = reader.read(blocks)
    every = (read_predictions(*places, list(blocks)) for places in plan.predictions)
    assert schema.stacked
    added = np.concatenate([schema.stacked.features_of(one) for one in every], axis=1)
    missing = np.zeros(schema.channels, np.int64)
    if schema.table:
        beside = [arrays[TABLE]] if TABLE in arrays else []
        arrays[TABLE] = np.concatenate([*beside, added], axis=1).astype(schema.table.x_dtype)
    else:
        before = [] if schema.stacked.only else [arrays["x"]]
        arrays["x"] = np.concatenate([*before, added], axis=1).astype(schema.x_dtype)
        missing = np.isnan(with_gaps(arrays["x"], schema)).sum(axis=0)
    files = [file for block in blocks for file in reader.files(block)] if schema.encoded else ()
    finish_shard(root, plan, task.shard, arrays, missing, files)


def read_predictions(oof: str, holdout: str | None, blocks: list[int]) -> np.ndarray:
    """The predictions of a run for the rows of blocks, (rows, outputs): each by models that have not seen the row. NaN
    where there is none."""
    found = BlockReader(open_arrays(oof, "predictions"), ("prediction",)).read(blocks)["prediction"]
    found = found.reshape(len(found), -1)
    if holdout is None:
        return found
    unseen = BlockReader(open_arrays(holdout, "predictions"), ("prediction",)).read(blocks)["prediction"]
    return np.where(np.isnan(found), unseen.reshape(found.shape), found)
