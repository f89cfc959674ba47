"""Read verified blocks into the caller's buffers, with threads that decode without holding the GIL."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from .dataset import Dataset, StoredArrays
from .errors import DamagedError
from .format import ArraySpec
from .places.block_cache import BlockCache
from .shards import decode_block, decode_index, index_bytes, is_intact, shard_key

OPEN_SHARDS = 128  # files that a reader keeps open, with their indexes
READ_BYTES = 32 << 20  # of features that are read at once
REMOTE_SHARDS = 1 << 14  # indexes of objects that a reader keeps: a kilobyte each


class BlockReader:
    """Reads blocks of the named arrays and verifies every byte; DamagedError names the file and the rows.

    Each call uses the threads of the given executor. A reader never forks. Blocks in an object store are read through
    the `cache`, if there is one.
    """

    def __init__(self, dataset: StoredArrays, arrays: Sequence[str] = ("x",), cache: BlockCache | None = None) -> None:
        self.dataset, self.cache = dataset, cache
        self.specs = tuple(dataset.spec(name) for name in arrays)
        self._checksums = {spec.name: dataset.block_table(f"crc32c_{spec.name}") for spec in self.specs}
        opened = REMOTE_SHARDS if dataset.place.waits_for_network else OPEN_SHARDS
        # Bound to the dataset alone: bound to this reader, shards would stay open until cycles are collected.
        self._shard = lru_cache(opened)(partial(_open_shard, dataset))
        self._scratch = _Scratch()
        self.bytes_read = 0
        """Number of stored bytes read from the dataset's location."""
        self._counting = threading.Lock()

    def read(self, blocks: Sequence[int], threads: Executor | None = None) -> dict[str, np.ndarray]:
        """Return the rows of `blocks`, one block after the other: for each array (rows, *row_shape)."""
        rows = sum(stop - start for start, stop in map(self.dataset.layout.block_range, blocks))
        out = {spec.name: spec.empty(rows) for spec in self.specs}
        if threads is None:
            self.read_into(blocks, out)
        else:
            for job in self.start(blocks, out, threads):
                job.result()
        return out

    def read_into(self, blocks: Sequence[int], out: Mapping[str, np.ndarray]) -> None:
        """Decode `blocks`, one after the other, into the first rows of the arrays `out`, in this thread."""
        for block, rows in zip(blocks, self.dataset.layout.joined(blocks), strict=True):
            self._read_rows(block, rows, out)

    def start(self, blocks: Sequence[int], out: Mapping[str, np.ndarray], threads: Executor) -> list[Future[None]]:
        """Like `read_into`, but in `threads`, with one task per block. Returns the tasks."""
        places = zip(blocks, self.dataset.layout.joined(blocks), strict=True)
        return [threads.submit(self._read_rows, block, rows, out) for block, rows in places]

    def _read_rows(self, block: int, rows: slice, out: Mapping[str, np.ndarray]) -> None:
        """Decode one block of every array."""
        for spec in self.specs:
            self._read_block(spec, block, out[spec.name][rows])

    def _read_block(self, spec: ArraySpec, block: int, out: np.ndarray) -> None:
        """Decode one block into `out`, (rows of the block, *row_shape)."""
        layout, checksum = self.dataset.layout, int(self._checksums[spec.name][block])
        stored = self._stored(spec, block)
        if self.cache and not is_intact(stored, checksum):  # the copy on this disk may be half written
            self.cache.drop((spec.name, block))
            stored = self._stored(spec, block)
        whole = out if len(out) == layout.block_rows else spec.empty(layout.block_rows)
        try:
            decode_block(stored, checksum, whole)
        except DamagedError as error:
            raise _damaged(self.dataset, spec, block // layout.shard_blocks, str(error), block) from None
        if whole is not out:
            out[...] = whole[: len(out)]

    def _stored(self, spec: ArraySpec, block: int) -> bytes | np.ndarray:
        """A block as stored; valid until the thread's next call."""

        def read() -> bytes | np.ndarray:
            number, position = divmod(block, self.dataset.layout.shard_blocks)
            shard = self._shard(spec, number)
            offset, length = shard.index[position].tolist()
            with self._counting:
                self.bytes_read += length
            return shard.read(offset, self._scratch.memory(length))

        return self.cache.read((spec.name, block), lambda: bytes(read())) if self.cache else read()


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard that stays open as long as this object exists.

    `index` is (blocks, 2) uint64, offsets and lengths; `read` is that of a `RangeReader`.
    """

    index: np.ndarray
    read: Callable[[int, np.ndarray], bytes | np.ndarray]


def _open_shard(dataset: StoredArrays, spec: ArraySpec, number: int) -> _Shard:
    """Open a shard, check its length and read its index."""
    size, tail = dataset.manifest.shards[number].lengths[spec.name], index_bytes(dataset.layout)
    try:
        read = (dataset.place / shard_key(spec, number)).open_ranges(size).read
        index = decode_index(bytes(read(size - tail, np.empty(tail, np.uint8))), dataset.layout)
    except FileNotFoundError:
        raise _damaged(dataset, spec, number, "the file is missing") from None
    except DamagedError as error:
        raise _damaged(dataset, spec, number, str(error)) from None
    return _Shard(index, read)


def _damaged(dataset: StoredArrays, spec: ArraySpec, shard: int, reason: str, block: int | None = None) -> DamagedError:
    layout = dataset.layout
    start, stop = layout.shard_range(shard) if block is None else layout.block_range(block)
    return DamagedError(
        f"{dataset.place / shard_key(spec, shard)}: {reason} (rows {start:,} to {stop - 1:,} of {spec.name}); "
        f"repair it from the sources with 'foldstream verify {dataset.place} --repair', or restore the file from a copy"
    )


class _Scratch(threading.local):
    """Reusable memory of each thread for a stored block: allocating new pages would cost more than reading."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def memory(self, size: int) -> np.ndarray:
        """Return `size` bytes, (size,) uint8, valid until the thread's next call."""
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]


def block_runs(dataset: Dataset, blocks: Sequence[int]) -> Iterator[Sequence[int]]:
    """Runs of blocks, each of which is read in one call."""
    count = max(1, READ_BYTES // (dataset.layout.block_rows * dataset.spec("x").row_bytes))
    return (blocks[first : first + count] for first in range(0, len(blocks), count))
