"""Rows of an array in foreign chunks: found by arithmetic, read in ranges, and decoded where they are needed."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from math import ceil, prod
from typing import NamedTuple

import numpy as np
from isal import igzip_lib

from ..errors import DamagedError
from .cache import DecodedChunks
from .codecs import Data, decoder
from .files import ForeignFiles
from .format import NOWHERE, Chunked, Packing

MOST_PIECES = 64  # ranges of an uncompressed chunk that are read one by one
PIECE_BYTES = 16 << 10  # a range that is worth a call
BROKEN: tuple[type[Exception], ...] = (
    ValueError,
    RuntimeError,
    zlib.error,
    igzip_lib.IsalError,
    OverflowError,
    EOFError,
)
"""What codecs raise for bytes that they did not write."""


class _Part(NamedTuple):
    """The rows `start` to `stop` of a chunk, counted in the chunk, that belong into `target`, (rows, …)."""

    number: int
    start: int
    stop: int
    target: np.ndarray


class ChunkReader:
    """Reads rows of an array in chunks. Chunks of which only a part is wanted stay decoded in `cache`."""

    def __init__(self, name: str, array: Chunked, files: ForeignFiles, cache: DecodedChunks) -> None:
        self.name, self.array, self.files, self.cache = name, array, files, cache
        dimensions, self._dtype = len(array.shape), np.dtype(array.dtype)
        self._bands = array.bands
        grid = [ceil(size / length) for size, length in zip(array.shape, array.chunk, strict=True)]
        grid[array.axis] = len(self._bands) - 1
        numbers = np.moveaxis(np.arange(len(array.chunks)).reshape(grid), array.axis, 0)
        self._numbers = numbers.reshape(len(numbers), -1)
        rest = [(size, length) for n, (size, length) in enumerate(zip(array.shape, array.chunk, strict=True))]
        del rest[array.axis]
        self._parts = list(_grid_slices(rest))
        axes = array.axes or tuple(range(dimensions))
        self._axes, self._to_rows = axes, _rows_first(axes, array.axis)
        self._decode = decoder(array.codecs) if array.codecs else None
        self._local = _Local()

    def read(self, start: int, stop: int, out: np.ndarray) -> int:
        """Read the rows `start` to `stop` into `out`, (rows, *row_shape) of any dtype. Returns the number of stored
        bytes read."""
        counted = self._local.bytes_read
        first = int(np.searchsorted(self._bands, start, side="right")) - 1
        for band in range(first, len(self._numbers)):
            low, high = self._bands[band : band + 2].tolist()
            if low >= stop:
                break
            rows = slice(max(start, low) - start, min(stop, high) - start)
            for number, place in zip(self._numbers[band].tolist(), self._parts, strict=True):
                part = _Part(number, rows.start + start - low, rows.stop + start - low, out[(rows, *place)])
                self._read_part(part, high - low)
        return self._local.bytes_read - counted

    def _read_part(self, part: _Part, rows: int) -> None:
        array = self.array
        if array.chunks[part.number, 0] == NOWHERE:
            unpack(np.full((), array.fill, self._dtype.newbyteorder("=")), array.packing, part.target)
            return
        shape = self._shape(rows)
        whole = part.start == 0 and part.stop == rows
        if self._decode is None and self._read_pieces(part, shape):
            return
        if whole and self._is_plain(part.target, shape):
            self._decoded(part.number, shape, part.target)
            return
        if whole:
            chunk = self._decoded(part.number, shape, None)
        else:
            memory = partial(np.empty, shape, self._dtype)
            chunk = self.cache.get((self.name, part.number), lambda: self._decoded(part.number, shape, memory()))
        self._place(part, chunk)

    def _place(self, part: _Part, chunk: np.ndarray) -> None:
        """Copy rows of a decoded chunk, in the order of its axes in memory, into the target of a part. Chunks at the
        edges of a Zarr array are as large as the others."""
        ordered = chunk.transpose(self._to_rows)[part.start : part.stop]
        inside = (slice(None), *(slice(size) for size in part.target.shape[1:]))
        unpack(ordered[inside], self.array.packing, part.target)

    def _shape(self, rows: int) -> tuple[int, ...]:
        """The shape of a chunk in the order of its axes in memory. Only bands of other lengths have as many rows as
        the array has there; other chunks at the edge are whole."""
        shape = list(self.array.chunk)
        if len(self.array.bounds):
            shape[self.array.axis] = rows
        return tuple(shape[axis] for axis in self._axes)

    def _is_plain(self, target: np.ndarray, shape: tuple[int, ...]) -> bool:
        """Whether the bytes of a chunk are those of the target."""
        same = target.dtype == self._dtype and target.shape == shape and self._to_rows == tuple(range(len(shape)))
        return same and target.flags.c_contiguous and not self.array.packing

    def _decoded(self, number: int, shape: tuple[int, ...], out: np.ndarray | None) -> np.ndarray:
        """A decoded chunk, in the order of its axes in memory: in the contiguous `out` if it is given, otherwise valid
        until the thread's next call.

        Raises DamagedError if its bytes cannot be decoded.
        """
        file, offset, length = self.array.chunks[number].tolist()
        into = None if out is None else out.reshape(-1).view(np.uint8)
        size = prod(shape) * self._dtype.itemsize
        if self._decode is None:
            found: Data = self._stored(file, offset, size, into)
        else:
            stored = self._stored(file, offset, length, None)
            try:
                found = self._decode(stored, into, size)
            except BROKEN as error:
                raise self._damaged(number, str(error)) from None
        if len(found) != size:
            raise self._damaged(number, f"it has {len(found):,} bytes, not {size:,}")
        chunk = np.frombuffer(found, self._dtype).reshape(shape)
        if out is None or np.shares_memory(chunk, out):
            return chunk
        out[...] = chunk
        return out

    def _stored(self, file: int, offset: int, length: int, memory: np.ndarray | None) -> bytes | np.ndarray:
        self._local.bytes_read += length
        return self.files.read(file, offset, self._local.memory(length) if memory is None else memory)

    def _read_pieces(self, part: _Part, shape: tuple[int, ...]) -> bool:
        """Read only the wanted rows of an uncompressed chunk, if they are a few long ranges of it."""
        at = self._axes.index(self.array.axis)
        outer, inner = prod(shape[:at]), prod(shape[at + 1 :]) * self._dtype.itemsize
        rows = part.stop - part.start
        if outer > 1 and (rows == shape[at] or outer > MOST_PIECES or rows * inner < PIECE_BYTES):
            return False
        wanted = (*shape[:at], rows, *shape[at + 1 :])
        file, offset, _ = self.array.chunks[part.number].tolist()
        plain = self._is_plain(part.target, wanted)
        if outer == 1:
            memory = part.target.reshape(-1).view(np.uint8) if plain else None
            found = self._stored(file, offset + part.start * inner, rows * inner, memory)
        else:
            found = np.empty(outer * rows * inner, np.uint8)
            for number, piece in enumerate(found.reshape(outer, -1)):
                begin = offset + (number * shape[at] + part.start) * inner
                got = self._stored(file, begin, rows * inner, piece)
                piece[...] = np.frombuffer(got, np.uint8)
        chunk = np.frombuffer(found, self._dtype).reshape(wanted)
        if not plain or not np.shares_memory(chunk, part.target):
            self._place(_Part(part.number, 0, rows, part.target), chunk)
        return True

    def _damaged(self, number: int, reason: str) -> DamagedError:
        file, offset, length = self.array.chunks[number].tolist()
        return DamagedError(
            f"{self.files.paths[file]}: the chunk of {length:,} bytes at {offset:,} of '{self.name}' cannot be decoded "
            f"({reason}); restore the file, and adopt it again"
        )


def _rows_first(axes: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The transposition from the order of axes in memory to rows first, and the others in their own order."""
    logical = (axis, *(one for one in range(len(axes)) if one != axis))
    return tuple(axes.index(one) for one in logical)


def _grid_slices(axes: list[tuple[int, int]]) -> Iterator[tuple[slice, ...]]:
    """The places of a band's chunks in a row, from the size and the length of a chunk along each axis."""
    if not axes:
        yield ()
        return
    (size, length), *rest = axes
    for low, high in pairwise([*range(0, size, max(1, length)), size]):
        for others in _grid_slices(rest):
            yield (slice(low, high), *others)


def unpack(stored: np.ndarray, packing: Packing | None, out: np.ndarray) -> None:
    """Write stored numbers into `out` as values, exactly as xarray computes them in the dtype of `out`."""
    if packing is None:
        out[...] = stored
        return
    values = np.array(stored, dtype=out.dtype)
    if packing.fills:
        missing = np.zeros(values.shape, bool)
        for fill in packing.fills:
            missing |= values == fill
        values = np.where(missing, np.nan, values).astype(out.dtype, copy=False)
    if packing.scale is not None:
        values *= packing.scale
    if packing.offset is not None:
        values += packing.offset
    out[...] = values


class _Local(threading.local):
    """Of each thread: reusable memory for a stored chunk, and the number of stored bytes read so far."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self._memory = np.empty(0, np.uint8)

    def memory(self, size: int) -> np.ndarray:
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]
