"""The index of a set of arrays: where each block is stored, and its checksum, in one file.

With it, opening costs one request whatever the number of arrays and shards, and no shard's own index is read. It is a
safetensors file with a table (blocks, 2) uint32 for each array: the length of a block as stored, and its CRC-32C.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..format.layout import Layout

INDEX = "index.safetensors"


@dataclass(frozen=True, eq=False)
class BlockIndex:
    """The blocks of all arrays: `tables` by name, (blocks, 2) uint32, lengths in bytes and checksums.

    The blocks of the arrays `behind` are also stored in the shards of `x`, each block of `x` followed by theirs, so
    that one read gets all of them.
    """

    layout: Layout
    tables: Mapping[str, np.ndarray]
    behind: tuple[str, ...] = ()

    def lengths(self, array: str) -> np.ndarray:
        """The lengths of an array's blocks as stored, (blocks,) int64."""
        found: np.ndarray = self.tables[array][:, 0].astype(np.int64)
        return found

    @cached_property
    def offsets(self) -> dict[str, np.ndarray]:
        """Where the blocks of each array begin in their shards, (blocks,) int64."""
        return {array: self._offsets(array) for array in self.tables}

    def _offsets(self, array: str) -> np.ndarray:
        sizes = self.lengths(array)
        for name in self.behind if array == "x" else ():
            sizes += self.lengths(name)
        begins = np.cumsum(sizes) - sizes
        shards = [self.layout.blocks_of(shard) for shard in range(self.layout.shards)]
        of_shards = np.repeat(begins[[blocks.start for blocks in shards]], [len(blocks) for blocks in shards])
        found: np.ndarray = begins - of_shards
        return found

    def to_bytes(self) -> bytes:
        """As a file."""
        from safetensors.numpy import save

        return save({name: np.ascontiguousarray(table) for name, table in self.tables.items()})


def tables_in(data: bytes, blocks: int) -> dict[str, np.ndarray]:
    """The tables of an index file. Raises ValueError if they do not have this number of blocks."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tables: dict[str, np.ndarray] = load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if any(table.shape != (blocks, 2) for table in tables.values()):
        raise ValueError(f"it does not have {blocks:,} blocks")
    return tables
