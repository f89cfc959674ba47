"""Write one shard of samples: the columns beside the last row of each window, and a summary of what is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from ...storage.blocks.reader import BlockReader, window_reader
from ...storage.blocks.windows import WindowReader
from ...storage.blocks.writer import write_shard
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import ConflictError
from ...storage.format.layout import Layout
from ...storage.format.manifest import WORK
from ...storage.format.schema import Schema
from ...storage.format.windows import ROWS, RUNS, WINDOWED, Windows
from ...storage.places.json_files import content_hash, write_json
from ...storage.places.locate import locate
from ..target.plan import StoredPlan
from ..target.receipts import receipt_path, summarize


@dataclass(frozen=True)
class SamplesPlan:
    """What all tasks need. The runs of the windows are a file with the hash `runs`."""

    layout: Layout
    schema: Schema
    windows: Mapping[str, Any]
    runs: str

    def to_json(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        layout, schema = Layout.from_json(value["layout"]), Schema.from_json(value["schema"])
        return cls(**{**value, "layout": layout, "schema": schema})


@dataclass(frozen=True)
class SamplesTask:
    """Write one shard."""

    plan: StoredPlan[SamplesPlan]
    shard: int


def write_samples(task: SamplesTask) -> None:
    """Run a task: write the shard, then its receipt."""
    root, plan = locate(task.plan.root), task.plan.load()
    start, stop = plan.layout.shard_range(task.shard)
    windows, reader, rows = _opened(task.plan)
    arrays = {spec.name: spec.empty(stop - start) for spec in plan.schema.arrays() if spec.name in WINDOWED}
    for name, values in arrays.items():
        reader.read(name, start, stop, values)
    arrays["id"] = np.arange(start, stop)
    names = [column.array for column in plan.schema.named]
    arrays |= read_rows(rows, names, windows.first_rows(start, stop) + windows.form.length - 1)
    x = arrays["x"]
    missing = np.isnan(x).sum(axis=(0, 2)) if x.dtype.kind == "f" else np.zeros(x.shape[1], np.int64)
    stored = tuple(spec for spec in plan.schema.arrays() if spec.name not in WINDOWED)
    written = write_shard(root, plan.layout, stored, task.shard, arrays)
    write_json(receipt_path(root, task.shard), {**vars(written), **summarize(plan, arrays, missing)})


def read_rows(rows: Dataset, names: list[str], wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of the `wanted` rows, in increasing order."""
    if not names:
        return {}
    blocks, places = rows.layout.blocks_at(wanted)
    needed = np.unique(blocks)
    starts = np.concatenate([[0], np.cumsum(rows.layout.block_sizes()[needed])])
    at = starts[np.searchsorted(needed, blocks)] + places
    return {name: values[at] for name, values in BlockReader(rows, names).read(needed.tolist()).items()}


@lru_cache(2)
def _opened(stored: StoredPlan[SamplesPlan]) -> tuple[Windows, WindowReader, Dataset]:
    plan, root = stored.load(), locate(stored.root)
    place = root / WORK / RUNS
    data = place.read_bytes()
    if content_hash(data) != plan.runs:
        raise ConflictError(
            f"{place} was changed, possibly by another process that converts the same sources; run the command again"
        )
    rows = open_dataset(root / ROWS)
    assert plan.schema.windows
    windows = Windows.of(plan.schema.windows, plan.windows, data)
    return windows, window_reader(windows, rows), rows
