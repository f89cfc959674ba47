"""Opening a dataset, and refusing what is not a whole one."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import zarr

from .errors import DamagedError, ForeignError, IncompleteError
from .files import content_hash, read_json
from .format import MANIFEST, WORK, ArraySpec, Layout, Manifest, Schema
from .writer import BLOCKS


@dataclass(frozen=True)
class Dataset:
    """A committed dataset: where it lies and what its manifest says. Cheap to pickle, holds no open file."""

    root: Path
    manifest: Manifest
    identity: str
    """SHA-256 of the manifest, which holds the hash of every shard: equal identity, equal data."""

    @property
    def layout(self) -> Layout:
        return self.manifest.layout

    @property
    def schema(self) -> Schema:
        return self.manifest.schema

    @property
    def rows(self) -> int:
        return self.layout.rows

    def spec(self, name: str) -> ArraySpec:
        """The array of that name. Raises KeyError."""
        return {spec.name: spec for spec in self.schema.arrays()}[name]

    @cached_property
    def class_counts(self) -> np.ndarray:
        """Rows of each class in every block, (blocks, classes) int64."""
        return self.block_table("class_counts").astype(np.int64)

    def block_table(self, name: str) -> np.ndarray:
        """A table with one row a block, written beside the arrays. Raises DamagedError if it is not whole."""
        place = self.root / BLOCKS / name
        try:
            table = np.asarray(zarr.open_array(place, mode="r")[...])
        except (FileNotFoundError, ValueError, RuntimeError) as error:
            raise DamagedError(f"{place} cannot be read ({error}); convert the source again") from None
        if len(table) != self.layout.blocks or not any((place / "c").rglob("*")):
            raise DamagedError(f"{place} does not hold one row for each of {self.layout.blocks} blocks; convert again")
        return table


def open_dataset(path: str | Path) -> Dataset:
    """Open the dataset at `path`.

    Raises ForeignError where there is none, and IncompleteError where a conversion has not ended.
    """
    root = Path(path).absolute()
    manifest = root / MANIFEST
    if not manifest.exists():
        if (root / WORK).exists():
            raise IncompleteError(f"{root}: conversion incomplete: run the same command again to resume it")
        if not root.exists():
            raise ForeignError(f"{root} does not exist; «foldstream convert csv SOURCE {path} --label COLUMN» makes it")
        raise ForeignError(
            f"{root} is not a Foldstream dataset (it has no {MANIFEST}); convert its source with Foldstream"
        )
    return Dataset(root, Manifest.from_json(read_json(manifest), str(manifest)), content_hash(manifest.read_bytes()))
