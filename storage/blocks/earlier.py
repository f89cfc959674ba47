"""The index of arrays that an earlier version wrote: from the shards' own indexes, and tables of checksums."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from ..errors import DamagedError
from ..format.arrays import ArraySpec
from ..format.layout import Layout
from ..format.manifest import Manifest
from ..places.place import Place, in_threads
from .index import BlockIndex
from .shards import decode_index, index_bytes, shard_key


def index_of_earlier_format(place: Place, manifest: Manifest, checksums: Callable[[str], np.ndarray]) -> BlockIndex:
    """The index of arrays of format 1 or 2; `checksums` reads the table of an array. The blocks of a shard that is
    missing or damaged have no length, so that reading them finds the damage."""
    tables = {}
    for spec in manifest.arrays:
        lengths = _lengths(place, manifest, spec)
        tables[spec.name] = np.stack([lengths, checksums(f"crc32c_{spec.name}")], axis=1).astype(np.uint32)
    return BlockIndex(manifest.layout, tables)


def _lengths(place: Place, manifest: Manifest, spec: ArraySpec) -> np.ndarray:
    layout: Layout = manifest.layout
    lengths, tail = np.zeros(layout.blocks, np.uint32), index_bytes(layout)

    def read(shard: int) -> None:
        blocks, end = layout.blocks_of(shard), manifest.shards[shard].lengths[spec.name]
        with suppress(FileNotFoundError, DamagedError):
            stored = decode_index((place / shard_key(spec, shard)).read_range(end - tail, tail), layout)
            lengths[blocks.start : blocks.stop] = stored[: len(blocks), 1]

    in_threads(read, range(layout.shards))
    return lengths
