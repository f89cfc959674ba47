"""Decoded blocks for the threads of a stream: read on demand, or kept in memory."""

import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...storage.blocks.reader import BlockReader
from ...storage.dataset import StoredArrays
from ...storage.format.arrays import ArraySpec
from ...storage.places.block_cache import BlockCache


class DecodedBlocks:
    """The dataset's blocks. The first blocks to be read stay decoded, as many as fit into `memory` bytes.

    Each block is read once per epoch, so it does not matter which ones stay.
    """

    def __init__(
        self, dataset: StoredArrays, specs: Sequence[ArraySpec], memory: int, cache: BlockCache | None
    ) -> None:
        self.dataset, self.specs = dataset, specs
        self.kept = memory // (dataset.layout.block_rows * sum(spec.row_bytes for spec in specs))
        self._reader = BlockReader(dataset, [spec.name for spec in specs], cache)
        self._scratch = _Scratch(specs, dataset.layout.block_rows)
        self._decoded: dict[int, dict[str, np.ndarray]] = {}

    @property
    def bytes_read(self) -> int:
        """Bytes read so far from the dataset's storage."""
        return self._reader.bytes_read

    def follow(self, blocks: Iterator[int], limit: int) -> None:
        """Request these blocks before they are read, unless they are decoded already; see `BlockReader.follow`."""
        self._reader.follow((block for block in blocks if block not in self._decoded), limit)

    def rows(self, block: int) -> dict[str, np.ndarray]:
        """All rows of a block, each array (rows, *row_shape). The arrays are valid until the thread's next call, and
        their numbers may not be aligned."""
        if block in self._decoded:
            return self._decoded[block]
        if block >= self.kept:
            return self._reader.rows(block, self._scratch.columns)
        start, stop = self.dataset.layout.block_range(block)
        rows = {spec.name: spec.empty(stop - start) for spec in self.specs}
        self._reader.read_into([block], rows)
        self._decoded[block] = rows
        return rows

    def column(self, name: str, blocks: Sequence[int]) -> np.ndarray:
        """All rows of several blocks in one of the arrays, one block after another, (rows, *row_shape)."""
        parts = [self.rows(block) if block < self.kept else self._reader.read([block]) for block in blocks]
        return np.concatenate([part[name] for part in parts])

    def read_into(self, block: int, out: Mapping[str, np.ndarray]) -> None:
        """Read all rows of a block into arrays of its length."""
        if block < self.kept:
            for name, column in self.rows(block).items():
                out[name][...] = column
        else:
            self._reader.read_into([block], out)


class _Scratch(threading.local):
    """Memory of each thread for one decoded block."""

    def __init__(self, specs: Sequence[ArraySpec], rows: int) -> None:
        self.columns = {spec.name: spec.empty(rows) for spec in specs}
