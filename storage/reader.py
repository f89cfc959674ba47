"""Verified blocks into caller's buffers, several at once, by threads that decode outside the interpreter's lock."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import TracebackType
from typing import Self

import numpy as np

from .dataset import StoredArrays
from .errors import DamagedError
from .format import ArraySpec
from .shards import compressor, decode_block, decode_index, index_bytes, shard_key

INDEX_CACHE = 4096  # shards whose index is kept: 64 blocks each take 1 KB


class BlockReader:
    """Reads blocks of the named arrays. Every byte is checked; damage raises DamagedError with its place.

    Never forks. Close it, or use it as a context manager.
    """

    def __init__(self, dataset: StoredArrays, arrays: Sequence[str] = ("x",), threads: int = 1) -> None:
        self.dataset = dataset
        self.specs = tuple(dataset.spec(name) for name in arrays)
        self._codecs = {spec.name: compressor(spec) for spec in self.specs}
        self._checksums = {spec.name: dataset.block_table(f"crc32c_{spec.name}") for spec in self.specs}
        self._index = lru_cache(INDEX_CACHE)(self._read_index)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="foldstream-reader")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the reader's threads."""
        self._pool.shutdown(cancel_futures=True)

    def read(self, blocks: Sequence[int]) -> dict[str, np.ndarray]:
        """The rows of `blocks`, one block after the other: for each array (rows, *row_shape)."""
        sizes = [stop - start for start, stop in map(self.dataset.layout.block_range, blocks)]
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        out = {spec.name: spec.empty(int(offsets[-1])) for spec in self.specs}
        jobs = [
            self._pool.submit(self._read_block, spec, block, out[spec.name][offsets[i] : offsets[i + 1]])
            for i, block in enumerate(blocks)
            for spec in self.specs
        ]
        for job in jobs:
            job.result()
        return out

    def _read_block(self, spec: ArraySpec, block: int, out: np.ndarray) -> None:
        """Decode one block into `out`, (rows of the block, *row_shape)."""
        layout = self.dataset.layout
        shard, position = divmod(block, layout.shard_blocks)
        offset, length = self._index(spec, shard)[position]
        data = self._read_bytes(spec, shard, int(offset), int(length))
        whole = out if len(out) == layout.block_rows else spec.empty(layout.block_rows)
        try:
            decode_block(self._codecs[spec.name], data, int(self._checksums[spec.name][block]), whole)
        except DamagedError as error:
            raise self._damaged(spec, shard, str(error), block) from None
        if whole is not out:
            out[...] = whole[: len(out)]

    def _read_index(self, spec: ArraySpec, shard: int) -> np.ndarray:
        """Check a shard's length and read its index."""
        size = self.dataset.manifest.shards[shard].lengths[spec.name]
        path = self.dataset.root / shard_key(spec, shard)
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            raise self._damaged(spec, shard, "the file is missing") from None
        if found != size:
            raise self._damaged(spec, shard, f"the file has {found:,} bytes where {size:,} were written")
        tail = index_bytes(self.dataset.layout)
        try:
            return decode_index(self._read_bytes(spec, shard, size - tail, tail), self.dataset.layout)
        except DamagedError as error:
            raise self._damaged(spec, shard, str(error)) from None

    def _read_bytes(self, spec: ArraySpec, shard: int, offset: int, length: int) -> bytes:
        path = self.dataset.root / shard_key(spec, shard)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise self._damaged(spec, shard, f"{length:,} bytes at {offset:,} end early")
        return data

    def _damaged(self, spec: ArraySpec, shard: int, reason: str, block: int | None = None) -> DamagedError:
        layout = self.dataset.layout
        start, stop = layout.shard_range(shard) if block is None else layout.block_range(block)
        return DamagedError(
            f"{self.dataset.root / shard_key(spec, shard)}: {reason} (rows {start:,} to {stop - 1:,} of {spec.name}); "
            "restore the file from a copy, or convert the source again with --overwrite"
        )
