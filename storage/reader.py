"""Verified blocks into caller's buffers, by threads that decode outside the interpreter's lock."""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from .dataset import StoredArrays
from .errors import DamagedError
from .format import ArraySpec
from .shards import decode_block, decode_index, index_bytes, shard_key

OPEN_SHARDS = 128  # files that a reader holds open, with their indexes


class BlockReader:
    """Reads blocks of the named arrays. Every byte is checked; damage raises DamagedError with its place.

    Its threads are those of the executor that a call is given. Never forks.
    """

    def __init__(self, dataset: StoredArrays, arrays: Sequence[str] = ("x",)) -> None:
        self.dataset = dataset
        self.specs = tuple(dataset.spec(name) for name in arrays)
        self._checksums = {spec.name: dataset.block_table(f"crc32c_{spec.name}") for spec in self.specs}
        self._shard = lru_cache(OPEN_SHARDS)(self._open_shard)
        self._scratch = _Scratch()

    def read(self, blocks: Sequence[int], threads: Executor | None = None) -> dict[str, np.ndarray]:
        """The rows of `blocks`, one block after the other: for each array (rows, *row_shape)."""
        rows = sum(stop - start for start, stop in map(self.dataset.layout.block_range, blocks))
        out = {spec.name: spec.empty(rows) for spec in self.specs}
        if threads is None:
            self.read_into(blocks, out)
        else:
            for job in self.start(blocks, out, threads):
                job.result()
        return out

    def read_into(self, blocks: Sequence[int], out: Mapping[str, np.ndarray]) -> None:
        """Decode `blocks`, one after the other, into the first rows of the arrays `out` in this thread."""
        for block, rows in self._places(blocks):
            self._read_rows(block, rows, out)

    def start(self, blocks: Sequence[int], out: Mapping[str, np.ndarray], threads: Executor) -> list[Future[None]]:
        """Have `threads` do what `read_into` does, a task a block. Returns the tasks."""
        return [threads.submit(self._read_rows, block, rows, out) for block, rows in self._places(blocks)]

    def _places(self, blocks: Sequence[int]) -> list[tuple[int, slice]]:
        """Where each of `blocks` goes in a buffer that holds them one after the other."""
        offsets = np.cumsum([0, *(stop - start for start, stop in map(self.dataset.layout.block_range, blocks))])
        return [(block, slice(*ends)) for block, ends in zip(blocks, pairwise(offsets.tolist()), strict=True)]

    def _read_rows(self, block: int, rows: slice, out: Mapping[str, np.ndarray]) -> None:
        """Decode one block of every array."""
        for spec in self.specs:
            self._read_block(spec, block, out[spec.name][rows])

    def _read_block(self, spec: ArraySpec, block: int, out: np.ndarray) -> None:
        """Decode one block into `out`, (rows of the block, *row_shape)."""
        layout = self.dataset.layout
        number, position = divmod(block, layout.shard_blocks)
        shard = self._shard(spec, number)
        offset, length = shard.index[position].tolist()
        data = self._scratch.memory(length)
        data = data[: os.preadv(shard.descriptor, [data.data], offset)]
        whole = out if len(out) == layout.block_rows else spec.empty(layout.block_rows)
        try:
            decode_block(data, int(self._checksums[spec.name][block]), whole)
        except DamagedError as error:
            raise self._damaged(spec, number, str(error), block) from None
        if whole is not out:
            out[...] = whole[: len(out)]

    def _open_shard(self, spec: ArraySpec, number: int) -> "_OpenShard":
        """Open a shard, check its length and read its index."""
        layout, size = self.dataset.layout, self.dataset.manifest.shards[number].lengths[spec.name]
        try:
            shard = _OpenShard(self.dataset.root / shard_key(spec, number))
        except FileNotFoundError:
            raise self._damaged(spec, number, "the file is missing") from None
        found = os.fstat(shard.descriptor).st_size
        if found != size:
            raise self._damaged(spec, number, f"the file has {found:,} bytes where {size:,} were written")
        tail = index_bytes(layout)
        try:
            shard.index = decode_index(os.pread(shard.descriptor, tail, size - tail), layout)
        except DamagedError as error:
            raise self._damaged(spec, number, str(error)) from None
        return shard

    def _damaged(self, spec: ArraySpec, shard: int, reason: str, block: int | None = None) -> DamagedError:
        layout = self.dataset.layout
        start, stop = layout.shard_range(shard) if block is None else layout.block_range(block)
        return DamagedError(
            f"{self.dataset.root / shard_key(spec, shard)}: {reason} (rows {start:,} to {stop - 1:,} of {spec.name}); "
            "restore the file from a copy, or convert the source again with --overwrite"
        )


class _Scratch(threading.local):
    """Memory of each thread for a block as it is stored: fresh pages would cost more than reading into them."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def memory(self, size: int) -> np.ndarray:
        """`size` bytes, (size,) uint8, which hold until the thread's next call."""
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]


class _OpenShard:
    """A shard's file, open for as long as somebody holds this, and its index of offsets and lengths."""

    index: np.ndarray

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
