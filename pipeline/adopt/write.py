"""Write one shard of an adopted dataset: its labels and other columns, its statistics, and with --copy its features.

A worker loads this module alone, and what explores sources only for features that nothing else can read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from ...storage.blocks.writer import write_shard
from ...storage.errors import ConflictError
from ...storage.foreign.format import TABLE, Foreign
from ...storage.foreign.reader import ForeignReader
from ...storage.format.arrays import ArraySpec
from ...storage.format.layout import Layout
from ...storage.format.manifest import WORK
from ...storage.format.schema import Schema
from ...storage.places.json_files import content_hash, parse_json, to_json, write_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ..target.plan import StoredPlan
from ..target.receipts import receipt_path, summarize

COLUMNS = "columns"


@dataclass(frozen=True)
class AdoptPlan:
    """What all tasks need. `arrays` and `table` describe the foreign features; without them, the library of the source
    reads the array `x` of the `place`."""

    layout: Layout
    schema: Schema
    inside: bool
    arrays: Mapping[str, Any]
    table: str
    place: str
    x: tuple[str, ...]
    sample_dim: str | None

    def to_json(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        layout, schema = Layout.from_json(value["layout"]), Schema.from_json(value["schema"])
        return cls(**{**value, "layout": layout, "schema": schema, "x": tuple(value["x"])})

    @property
    def stored(self) -> tuple[ArraySpec, ...]:
        """The arrays that are stored in the dataset."""
        return tuple(spec for spec in self.schema.arrays() if self.inside or spec.name != "x")


@dataclass(frozen=True)
class AdoptTask:
    """Write one shard. The columns of the shard are in a file with this digest."""

    plan: StoredPlan[AdoptPlan]
    shard: int
    digest: str


def columns_path(root: Place, shard: int) -> Place:
    return root / WORK / COLUMNS / f"{shard:08d}.safetensors"


def write_adopted_shard(task: AdoptTask) -> None:
    """Run a task. Raises DamagedError for features that have changed since they were explored."""
    from safetensors.numpy import load

    root, plan = locate(task.plan.root), task.plan.load()
    start, stop = plan.layout.shard_range(task.shard)
    arrays: dict[str, np.ndarray] = {"id": np.arange(start, stop)}
    arrays |= load(_intact(columns_path(root, task.shard), task.digest)) if task.digest else {}
    arrays["x"] = x = _features(root, plan, start, stop)
    gaps = np.isnan(x) if x.dtype.kind == "f" else np.zeros((len(x), x.shape[1], 0), bool)
    missing = gaps.reshape(len(x), x.shape[1], -1).sum(axis=(0, 2))
    behind = plan.schema.behind if plan.inside else ()
    written = write_shard(root, plan.layout, plan.stored, task.shard, arrays, behind)
    write_json(receipt_path(root, task.shard), {**vars(written), **summarize(plan, arrays, missing)})


def _features(root: Place, plan: AdoptPlan, start: int, stop: int) -> np.ndarray:
    out = plan.schema.arrays()[0].empty(stop - start)
    if not plan.arrays:
        from .sources.find import open_source

        out[...] = open_source(locate(plan.place)).read(plan.x, plan.sample_dim, start, stop).reshape(out.shape)
        return out
    _reader(str(root), plan.table, to_json(plan.arrays)).read("x", start, stop, out)
    return out


def forget_readers() -> None:
    """Close the files that tasks have read in this process, and free their decoded chunks."""
    _reader.cache_clear()


@lru_cache(1)
def _reader(root: str, table: str, arrays: bytes) -> ForeignReader:
    return ForeignReader(Foreign.of(parse_json(arrays, root), _intact(locate(root) / WORK / TABLE, table)))


def _intact(place: Place, digest: str) -> bytes:
    """The content of a file that was written for the tasks."""
    data = place.read_bytes()
    if content_hash(data) != digest:
        raise ConflictError(
            f"{place} was changed, possibly by another process that adopts the same files; run the command again"
        )
    return data
