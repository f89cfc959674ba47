"""Read verified blocks into the caller's buffers, with threads that decode without holding the GIL."""

import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import lru_cache, partial
from math import prod
from weakref import WeakValueDictionary

import numpy as np

from ..dataset import Dataset, StoredArrays, open_rows
from ..errors import DamagedError, DatasetError
from ..foreign.reader import ForeignReader, shared_reader
from ..format.arrays import keys_of
from ..format.images import ImageForm
from ..format.schema import Schema
from ..format.windows import WINDOWED, Windows
from ..places.block_cache import CachedBlocks, cached_blocks
from ..places.place import RangeReader
from .ahead import AHEAD_BYTES, BlocksAhead, Key, Part
from .checksum import LONG
from .files import UndecodedError, decode_files, files_of
from .one_call import read_parts
from .shards import BLOSC_HEADER, check_block, decode_block
from .windows import WindowReader

OPEN_SHARDS = 128  # files that a reader keeps open, with their indexes
READ_BYTES = 32 << 20  # of features that are read at once
RUN_BYTES = 4 << 20  # of neighboring blocks in an object store that are worth one request
REMOTE_SHARDS = 1 << 14  # indexes of objects that a reader keeps: a kilobyte each


class BlockReader:
    """Reads blocks of the named arrays and verifies every byte; DamagedError names the file and the rows.

    Each call uses the threads of the given executor. A reader never forks. Blocks in an object store are read through
    the `cache`, if there is one.
    """

    def __init__(
        self, dataset: StoredArrays, arrays: Sequence[str] = ("x",), cache: CachedBlocks | None = None
    ) -> None:
        self.dataset, self.cache = dataset, cache
        self.specs = tuple(dataset.spec(name) for name in arrays)
        self._index = dataset.index
        self._narrow = {name: found for name, found in dataset.narrow.items() if name in arrays}
        self._wanted = {spec.name: spec for spec in self.specs}
        self._form = form_of(dataset) if any(spec.encoded for spec in self.specs) else None
        # In the cache, a block is the same for all readers, whatever they want of it.
        wanted = [*arrays, *dataset.manifest.behind] if cache and "x" in arrays else arrays
        self._foreign: ForeignReader | WindowReader | None = None
        outside: Set[str] = set()
        if (foreign := dataset.foreign) and not foreign.arrays.keys().isdisjoint(arrays):
            self._foreign, outside = shared_reader(dataset.identity, foreign), foreign.arrays.keys() & {*arrays}
        if (windows := dataset.windows) and not WINDOWED.isdisjoint(arrays):
            self._foreign, outside = _window_reader(dataset, windows), WINDOWED & {*arrays}
        self._outside = sorted(outside)
        self._groups = groups_of([name for name in wanted if name not in outside], dataset.manifest.behind)
        self._at_once = self._groups_at_once()
        opened = REMOTE_SHARDS if dataset.place.waits_for_network else OPEN_SHARDS
        # Bound to the dataset alone: bound to this reader, shards would stay open until cycles are collected.
        self._shard = lru_cache(opened)(partial(_open_shard, dataset))
        self._scratch = _Scratch()
        self.bytes_read = 0
        """Number of stored bytes read from the dataset's location and from foreign files."""
        self._counting = threading.Lock()
        self._ahead: BlocksAhead | None = None
        self._follows = False

    def follow(self, blocks: Iterator[int], limit: int = AHEAD_BYTES) -> None:
        """Request these blocks before they are read, at most `limit` bytes of them at a time. This pays off where each
        request waits for a server."""
        self._follows = True
        self._request_ahead(blocks, limit)

    def _request_ahead(self, blocks: Iterator[int], limit: int) -> None:
        if self._ahead is None:
            self._ahead = BlocksAhead(self._request, limit, self.dataset.place.latency)
        cache, arrays = self.cache, self._groups
        self._ahead.follow(
            [(array, block) for array in arrays for block in run if not (cache and cache.has((array, block)))]
            for run in self._runs(blocks)
        )

    def _runs(self, blocks: Iterator[int]) -> Iterator[list[int]]:
        """Blocks that follow one another in a shard, up to a size that is worth one request."""
        layout, arrays = self.dataset.layout, self._groups
        run, size = list[int](), 0
        for block in blocks:
            own = sum(self._length(array, block) for array in arrays)
            if run and (
                block != run[-1] + 1 or layout.shard_of(block) != layout.shard_of(run[-1]) or size + own > RUN_BYTES
            ):
                yield run
                run, size = [], 0
            run.append(block)
            size += own
        if run:
            yield run

    def _request(self, keys: Sequence[Key]) -> tuple[list[Part], Future[np.ndarray]]:
        (array, block), first = keys[0], self._offset(*keys[0])
        place = self.dataset.shard_place(array, self.dataset.layout.shard_of(block))
        starts = [self._offset(*key) - first for key in keys]
        parts = [slice(start, start + self._length(*key)) for start, key in zip(starts, keys, strict=True)]
        return parts, place.request_range(first, parts[-1].stop)

    def _offset(self, array: str, block: int) -> int:
        """Where a block begins in its shard."""
        return int(self._index.offsets[array][block])

    def _length(self, array: str, block: int) -> int:
        """The length of a block and those behind it."""
        return sum(int(self._index.tables[name][block, 0]) for name in self._groups[array])

    def read(self, blocks: Sequence[int], threads: Executor | None = None) -> dict[str, np.ndarray]:
        """Return the rows of `blocks`, one block after the other: for each array (rows, *row_shape). From an object
        store, neighboring blocks are read by one request, unless the reader follows a plan."""
        if self.dataset.place.waits_for_network and not self._follows:
            self._request_ahead(iter(blocks), AHEAD_BYTES)
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

    def rows(self, block: int, memory: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All rows of a block, each array (rows, *row_shape): decoded into `memory`, which has room for a block, or, if
        they are stored uncompressed, where they were read. Valid until the thread's next call."""
        start, stop = self.dataset.layout.block_range(block)
        found = self._decoded(block, memory)
        return {name: column[: stop - start] for name, column in found.items()}

    def _read_rows(self, block: int, rows: slice, out: Mapping[str, np.ndarray]) -> None:
        """Decode one block of every array into the given rows."""
        whole = self.dataset.layout.block_rows
        targets = {spec.name: out[spec.name][rows] for spec in self.specs}
        memory = {
            spec.name: target if len(target) == whole else spec.empty(whole)
            for spec, target in zip(self.specs, targets.values(), strict=True)
        }
        for name, column in self._decoded(block, memory).items():
            target = targets[name]
            if column is not target:
                as_bytes(target)[...] = as_bytes(column[: len(target)])

    def _decoded(self, block: int, memory: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One block of every array, see `decode_block`. The rest of the memory of a short block is not used."""
        found: dict[str, np.ndarray] = {}
        for name in self._outside:
            assert self._foreign
            start, stop = self.dataset.layout.block_range(block)
            read = self._foreign.read(name, start, stop, memory[name][: stop - start])
            with self._counting:
                self.bytes_read += read
            found[name] = memory[name]
        if self._at_once and not self._ahead:
            found |= self._decode_at_once(block, memory)
        for first, group in self._groups.items():
            if first in found:
                continue
            try:
                found |= self._decode(group, block, memory)
            except _BlockError:
                if not self.cache:
                    raise
                self.cache.drop((group[0], block))  # the copy on this disk may be half written
                found |= self._decode(group, block, memory)
        return found

    def _decode(self, group: Sequence[str], block: int, memory: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read the blocks of a group, and decode those that are wanted."""
        found = dict[str, np.ndarray]()
        for name, stored, checksum in self._parts(group, block):
            with self._damage_of(group, block):
                found[name] = self._decode_array(name, block, stored, checksum, memory[name])
        return found

    def _parts(self, group: Sequence[str], block: int) -> Iterator[tuple[str, bytes | np.ndarray, int]]:
        """Read the blocks of a group: of each one that is wanted its array, its bytes as stored, and its checksum."""
        stored, end = self._stored(group, block), 0
        for name in group:
            start, (length, checksum) = end, self._index.tables[name][block].tolist()
            end += length
            if name in self._wanted:
                yield name, stored[start:end], checksum

    @contextmanager
    def _damage_of(self, group: Sequence[str], block: int) -> Iterator[None]:
        """Add the location of a block to the error that says how it is damaged."""
        try:
            yield
        except DamagedError as error:
            shard = self.dataset.layout.shard_of(block)
            raise _damaged(self.dataset, group[0], shard, str(error), block) from None

    def check(self, block: int) -> None:
        """Verify a block of every array that is stored in blocks, without decoding it."""
        for group in self._groups.values():
            for _, stored, checksum in self._parts(group, block):
                with self._damage_of(group, block):
                    check_block(stored, checksum)

    def files(self, block: int) -> list[bytes]:
        """The image files of a block of `x`, which must be stored as such."""
        group, (start, stop) = self._groups["x"], self.dataset.layout.block_range(block)
        _, stored, checksum = next(self._parts(group, block))
        with self._damage_of(group, block):
            check_block(stored, checksum)
        return [*files_of(stored)][: stop - start]

    def _decode_array(
        self, name: str, block: int, stored: bytes | np.ndarray, checksum: int, memory: np.ndarray
    ) -> np.ndarray:
        """Decode a block of one array, see `decode_block`. Texts that are stored with fewer bytes are padded, and image
        files are decoded."""
        if self._wanted[name].encoded:
            assert self._form
            check_block(stored, checksum)
            try:
                return decode_files(stored, self._form, memory)
            except UndecodedError as error:
                raise self._undecoded(block, error) from None
        width = next((width for blocks, width in self._narrow.get(name, ()) if block in blocks), None)
        if width is None:
            return decode_block(stored, checksum, memory)
        memory[:, :width] = decode_block(stored, checksum, np.empty((len(memory), width), memory.dtype))
        memory[:, width:] = 0
        return memory

    def _undecoded(self, block: int, error: UndecodedError) -> DatasetError:
        """The error for a file of a block that is intact and cannot be decoded."""
        keys = keys_of(BlockReader(self.dataset, ("key",)).read([block])["key"])
        path = self.dataset.shard_place("x", self.dataset.layout.shard_of(block))
        row = self.dataset.layout.block_range(block)[0] + error.row
        return DatasetError(
            f"{path}: the image {keys[error.row]} (row {row:,}) cannot be decoded on this machine ({error}); install "
            "the packages of the machine that converted it, or convert the images again without --encoded"
        )

    def _groups_at_once(self) -> dict[str, tuple[str, ...]]:
        """The groups that can be read in one call of compiled code: none if blocks are too short to load it, or are
        cached on this disk."""
        if self.cache or sum(spec.row_bytes for spec in self.specs) * self.dataset.layout.block_rows < LONG:
            return {}
        return {
            first: group
            for first, group in self._groups.items()
            if self._narrow.keys().isdisjoint(group) and not (self._form and "x" in group)
        }

    def _decode_at_once(self, block: int, memory: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read and decode the blocks of some groups in one call of compiled code. Returns none unless all are intact,
        in files of this machine."""
        shard, sources, parts = self.dataset.layout.shard_of(block), list[tuple[int, int, int]](), list[list[int]]()
        for first, group in self._at_once.items():
            try:
                descriptor = self._shard(first, shard).descriptor
            except FileNotFoundError:
                return {}
            if descriptor is None:
                return {}
            begin = len(parts)
            for name in group:
                to = memory[name] if name in self._wanted else None
                place = (0, 0) if to is None else (to.__array_interface__["data"][0], to.nbytes)
                parts.append([*self._index.tables[name][block].tolist(), *place])
            sources.append((descriptor, self._offset(first, block), sum(part[0] for part in parts[begin:])))
        stored, decoded = self._scratch.memory("", sum(length for _, _, length in sources)), np.array(parts)
        if not read_parts(np.array(sources), stored, decoded):
            return {}
        with self._counting:
            self.bytes_read += len(stored)
        found, start = dict[str, np.ndarray](), BLOSC_HEADER
        names = (name for group in self._at_once.values() for name in group)
        for name, (length, _, address, size) in zip(names, decoded.tolist(), strict=True):
            if size:
                out = memory[name]
                found[name] = out if address else np.frombuffer(stored, out.dtype, out.size, start).reshape(out.shape)
            start += length
        return found

    def _stored(self, group: Sequence[str], block: int) -> bytes | np.ndarray:
        """The blocks of a group as stored; valid until the thread's next call."""
        if self.cache is None:
            return self._loaded(group, block)
        key = group[0], block
        stored = self.cache.read(key, lambda: bytes(self._loaded(group, block)))
        if self._ahead:
            self._ahead.forget(key)  # it may have been cached since it was requested
        return stored

    def _loaded(self, group: Sequence[str], block: int) -> bytes | np.ndarray:
        """Like `_stored`, from the dataset's location."""
        key, number = (group[0], block), self.dataset.layout.shard_of(block)
        stored: bytes | np.ndarray
        try:
            if self._ahead:
                stored = self._ahead.take(key)
            else:
                memory = self._scratch.memory(key[0], self._length(*key))
                stored = self._shard(key[0], number).read(self._offset(*key), memory)
        except FileNotFoundError:
            raise _damaged(self.dataset, key[0], number, "the file is missing") from None
        with self._counting:
            self.bytes_read += len(stored)
        return stored


def form_of(dataset: StoredArrays) -> ImageForm | None:
    """How image files become samples of a dataset."""
    return Schema.from_json(dataset.manifest.details["schema"]).image


def _window_reader(samples: StoredArrays, windows: Windows) -> WindowReader:
    """The reader of windows, one for all its users in this process, so that decoded rows take memory once."""
    with _lock:
        reader = _shared.get(samples.identity)
        if reader is None:
            rows = open_rows(samples)
            _shared[samples.identity] = reader = window_reader(windows, rows)
    return reader


def window_reader(windows: Windows, rows: Dataset) -> WindowReader:
    """A reader of windows over rows."""
    blocks = BlockReader(rows)
    return WindowReader(windows, rows.layout, lambda block: blocks.read([block])["x"], rows.index.tables["x"][:, 0])


_shared: WeakValueDictionary[str, WindowReader] = WeakValueDictionary()
_lock = threading.Lock()


def cached_reader(dataset: StoredArrays, arrays: Sequence[str]) -> BlockReader:
    """A reader that finds the blocks of a dataset in an object store on the local disk, if training has cached them."""
    return BlockReader(dataset, arrays, cached_blocks(dataset.identity) if dataset.place.waits_for_network else None)


def groups_of(arrays: Sequence[str], behind: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The arrays whose blocks are read at once, by the first of them: x with those behind it up to the last one that is
    wanted, and each other array by itself."""
    after = max((place for place, name in enumerate(behind, 1) if name in arrays), default=0) if "x" in arrays else 0
    together = ("x", *behind[:after])
    return {name: together if name == "x" else (name,) for name in arrays if name == "x" or name not in together}


def _open_shard(dataset: StoredArrays, array: str, number: int) -> RangeReader:
    """Open a shard, and check its length."""
    try:
        return dataset.shard_place(array, number).open_ranges(dataset.manifest.shards[number].lengths[array])
    except DamagedError as error:
        raise _damaged(dataset, array, number, str(error)) from None


class _BlockError(DamagedError):
    """A block that does not match its checksum."""


def _damaged(dataset: StoredArrays, array: str, shard: int, reason: str, block: int | None = None) -> DamagedError:
    layout, place = dataset.layout, dataset.shard_place(array, shard)
    start, stop = layout.shard_range(shard) if block is None else layout.block_range(block)
    return (DamagedError if block is None else _BlockError)(
        f"{place}: {reason} (rows {start:,} to {stop - 1:,} of {array}); "
        f"repair it from the sources with 'foldstream verify {dataset.place} --repair', or restore the file from a copy"
    )


class _Scratch(threading.local):
    """Reusable memory of each thread for a stored block of each array, or of all: allocating new pages would cost more
    than reading."""

    def __init__(self) -> None:
        self._memory: dict[str, np.ndarray] = {}

    def memory(self, array: str, size: int) -> np.ndarray:
        """Return `size` bytes, (size,) uint8, valid until the thread's next call for this array."""
        if array not in self._memory or len(self._memory[array]) < size:
            self._memory[array] = np.empty(size, np.uint8)
        return self._memory[array][:size]


def as_bytes(rows: np.ndarray) -> np.ndarray:
    """Contiguous rows of any shape and dtype as (rows, bytes of a row) uint8, in the same memory."""
    return rows.reshape(len(rows), prod(rows.shape[1:])).view(np.uint8)


def block_runs(dataset: Dataset, blocks: Sequence[int]) -> Iterator[Sequence[int]]:
    """Runs of blocks, each of which is read in one call."""
    count = max(1, READ_BYTES // (dataset.layout.block_rows * dataset.spec("x").row_bytes))
    return (blocks[first : first + count] for first in range(0, len(blocks), count))
