"""Opening a dataset, or other arrays that share its rows, and refusing what is not whole."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from .errors import DamagedError, ForeignError, IncompleteError, UsageError
from .files import content_hash, names_in, parse_json
from .format import MANIFEST, WORK, ArraySpec, Layout, Manifest, Schema, Statistics
from .object_path import AnyPath, locate
from .writer import BLOCKS, zarr_store

TABLES = 32  # block tables that are kept in memory: some megabytes each at a billion rows


@dataclass(frozen=True)
class StoredArrays:
    """Committed arrays: where they lie and what their manifest says. Cheap to pickle, holds no open file."""

    place: AnyPath
    manifest: Manifest
    identity: str
    """SHA-256 of the manifest, which holds the hash of every shard: equal identity, equal data."""

    @property
    def root(self) -> Path:
        """The folder on this machine. Raises UsageError for what lies in an object store."""
        if isinstance(self.place, Path):
            return self.place
        raise UsageError(f"{self.place} lies in an object store; for this, give a copy of it on this machine")

    @property
    def layout(self) -> Layout:
        return self.manifest.layout

    @property
    def rows(self) -> int:
        return self.layout.rows

    def spec(self, name: str) -> ArraySpec:
        """The array of that name. Raises KeyError."""
        return {spec.name: spec for spec in self.manifest.arrays}[name]

    def block_table(self, name: str) -> np.ndarray:
        """A table with one row a block, written beside the arrays. Raises DamagedError if it is not whole."""
        return _block_table(self.place / BLOCKS / name, self.layout.blocks, self.identity)


@dataclass(frozen=True)
class Dataset(StoredArrays):
    """A committed dataset: `x`, `id`, and where the source had them `y` and `key`."""

    @cached_property
    def schema(self) -> Schema:
        return Schema.from_json(self.manifest.details["schema"])

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics.from_json(self.manifest.details["statistics"])

    @property
    def request(self) -> dict[str, Any]:
        """What was converted and how: the sources with their sizes and times, and the options."""
        request: dict[str, Any] = self.manifest.details["request"]
        return request

    @property
    def left_out(self) -> int:
        """Faulty rows of the sources that were left out; `left_out.csv` lists them."""
        return int(self.manifest.details.get("left_out", 0))

    def facts(self) -> dict[str, Any]:
        """Which dataset it is and what it has, as JSON."""
        schema = self.schema
        return {
            "place": str(self.place),
            "identity": self.identity,
            "rows": self.rows,
            "left_out": self.left_out,
            "sample": f"{schema.x_dtype} {'×'.join(map(str, schema.sample_shape))}",
            "labels": list(schema.labels),
            "classes": list(schema.classes),
            "shards": self.layout.shards,
            "stored_bytes": self.stored_bytes,
        }

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shards, as they are stored."""
        return sum(sum(entry.lengths.values()) for entry in self.manifest.shards)

    @property
    def class_totals(self) -> tuple[int, ...]:
        """Rows of each class."""
        return tuple(self.manifest.details["class_counts"])

    @cached_property
    def class_counts(self) -> np.ndarray:
        """Rows of each class in every block, (blocks, classes) int64."""
        return self.block_table("class_counts").astype(np.int64)


@lru_cache(TABLES)
def _block_table(place: AnyPath, blocks: int, identity: str) -> np.ndarray:
    """Read a block table once for each `identity` of what it belongs to; read-only."""
    try:
        array = zarr.open_array(zarr_store(place), mode="r")
        table = np.asarray(array[...])
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{place} cannot be read ({error}); convert the source again") from None
    chunk = "/".join(["c", *("0" for _ in table.shape)])  # a table is one chunk, and a missing one reads as zeros
    if len(table) != blocks or not (place / chunk).exists():
        raise DamagedError(f"{place} does not hold one row for each of {blocks} blocks; convert again")
    table.setflags(write=False)
    return table


def open_dataset(path: str | AnyPath) -> Dataset:
    """Open the dataset at `path`, which may be the URL of one in an object store (`s3://bucket/digits.zarr`).

    Raises ForeignError where there is none, and IncompleteError where a conversion has not ended.
    """
    root = locate(path)
    if isinstance(root, Path):
        if root.is_file():
            raise ForeignError(
                f"{root} is a file, not a dataset; «foldstream convert csv {path} OUT.zarr --label COLUMN» makes one"
            )
        if not root.exists():
            raise ForeignError(f"{root} does not exist; «foldstream convert csv SOURCE {path} --label COLUMN» makes it")
    return Dataset(*_load(root, "dataset"))


def open_arrays(path: str | AnyPath, kind: str) -> StoredArrays:
    """Open committed arrays of another kind ("folds", "predictions"). Raises ForeignError where there are none."""
    return StoredArrays(*_load(locate(path), kind))


def _load(root: AnyPath, kind: str) -> tuple[AnyPath, Manifest, str]:
    path = root / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if names_in(root / WORK):
            raise IncompleteError(f"{root}: conversion incomplete: run the same command again to resume it") from None
        raise ForeignError(
            f"{root} holds no {kind} of Foldstream's (it has no {MANIFEST}); give another path"
        ) from None
    manifest = Manifest.from_json(parse_json(data, str(path)), str(path))
    if manifest.kind != kind:
        raise ForeignError(f"{root} holds {manifest.kind}, not a {kind}; give another path")
    return root, manifest, content_hash(data)
