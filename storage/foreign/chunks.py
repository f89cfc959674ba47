"""Rows of an array in foreign chunks: found by arithmetic, read in ranges, and decoded where they are needed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from math import ceil, prod
from typing import Any, cast

import numpy as np
from isal import igzip_lib

from ..errors import DamagedError
from .cache import DecodedChunks, LocalMemory
from .codecs import decoder
from .files import ForeignFiles
from .format import NOWHERE, Chunked, Packing

MOST_PIECES = 64  # ranges of an uncompressed chunk that are read one by one
BROKEN: tuple[type[Exception], ...] = (
    ValueError,
    RuntimeError,
    zlib.error,
    cast(type[Exception], igzip_lib.IsalError),
    OverflowError,
    EOFError,
)
"""What codecs raise for bytes that they did not write."""


class ChunkReader:
    """Reads rows of an array in chunks. A band of chunks of which only some rows are wanted stays decoded in `cache`,
    unless these rows can be read without the others."""

    def __init__(self, name: str, array: Chunked, files: ForeignFiles, cache: DecodedChunks) -> None:
        self.name, self.array, self.files, self.cache = name, array, files, cache
        self._dtype, self._bands = np.dtype(array.dtype), array.bands
        grid = [ceil(size / length) for size, length in zip(array.shape, array.chunk, strict=True)]
        grid[array.axis] = len(self._bands) - 1
        numbers = np.moveaxis(np.arange(len(array.chunks)).reshape(grid), array.axis, 0)
        self._numbers = numbers.reshape(len(numbers), -1)
        rest = list(zip(array.shape, array.chunk, strict=True))
        del rest[array.axis]
        self._places = list(_grid_slices(rest))
        self._axes = array.axes or tuple(range(len(array.shape)))
        self._to_rows = _rows_first(self._axes, array.axis)
        self._decode = decoder(array.codecs) if array.codecs else None
        self._divisible = is_divisible(array)
        self._local = LocalMemory()

    def read(self, start: int, stop: int, out: np.ndarray) -> int:
        """Read the rows `start` to `stop` into `out`, (rows, *row_shape) of any dtype. Returns the number of stored
        bytes read."""
        counted = self._local.bytes_read
        first = int(np.searchsorted(self._bands, start, side="right")) - 1
        for band in range(first, len(self._numbers)):
            low, high = self._bands[band : band + 2].tolist()
            if low >= stop:
                break
            begin, end = max(start, low), min(stop, high)
            target = out[begin - start : end - start]
            if end - begin == high - low or self._divisible:
                self._read_band(band, begin - low, target)
            else:
                rows = self.cache.get((self.name, band), partial(self._decoded_band, band, out.dtype))
                target[...] = rows[begin - low : end - low]
        return self._local.bytes_read - counted

    def _decoded_band(self, band: int, dtype: np.dtype[Any]) -> np.ndarray:
        """All rows of a band of chunks."""
        low, high = self._bands[band : band + 2].tolist()
        out = np.empty((high - low, *self.array.row_shape), dtype)
        self._read_band(band, 0, out)
        return out

    def _read_band(self, band: int, start: int, out: np.ndarray) -> None:
        """Read rows of a band of chunks from its row `start` on: all of them, or some that can be read by
        themselves."""
        array, rows = self.array, int(self._bands[band + 1] - self._bands[band])
        for number, place in zip(self._numbers[band].tolist(), self._places, strict=True):
            target = out[(slice(None), *place)]
            if array.chunks[number, 0] == NOWHERE:
                unpack(np.full((), array.fill, self._dtype.newbyteorder("=")), array.packing, target)
                continue
            shape = self._shape(rows)
            if self._decode is None and self._divisible:
                shape = self._part_of(shape, len(out))
            into = target if self._is_plain(target, shape) else None
            chunk = (
                self._decoded(number, shape, into)
                if self._decode
                else self._stored_rows(number, rows, start, shape, into)
            )
            if into is None:
                ordered = chunk.transpose(self._to_rows)  # larger than the target at the edges of a Zarr array
                unpack(ordered[tuple(slice(size) for size in target.shape)], array.packing, target)

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

    def _part_of(self, shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
        """The shape of some rows of a chunk, in the order of its axes in memory."""
        at = self._axes.index(self.array.axis)
        return (*shape[:at], min(rows, shape[at]), *shape[at + 1 :])

    def _decoded(self, number: int, shape: tuple[int, ...], out: np.ndarray | None) -> np.ndarray:
        """A decoded chunk, in the order of its axes in memory: in the contiguous `out` if it is given, otherwise valid
        until the thread's next call.

        Raises DamagedError if its bytes cannot be decoded.
        """
        assert self._decode
        file, offset, length = self.array.chunks[number].tolist()
        into = None if out is None else out.reshape(-1).view(np.uint8)
        size, stored = prod(shape) * self._dtype.itemsize, self._stored(file, offset, length, None)
        try:
            found = self._decode(stored, into, size)
        except BROKEN as error:
            raise self._damaged(number, str(error)) from None
        if len(found) != size:
            raise self._damaged(number, f"it has {len(found):,} bytes, not {size:,}")
        chunk = np.frombuffer(found, self._dtype).reshape(shape)
        if out is not None and not np.shares_memory(chunk, out):
            out[...] = chunk
        return chunk

    def _stored_rows(
        self, number: int, rows: int, start: int, shape: tuple[int, ...], out: np.ndarray | None
    ) -> np.ndarray:
        """Rows of an uncompressed chunk from its row `start` on, (*shape) in the order of its axes in memory: in the
        contiguous `out` if it is given, otherwise valid until the thread's next call. They are a range of the chunk for
        each index of the axes before that of the rows."""
        at = self._axes.index(self.array.axis)
        whole = self._shape(rows)[at]
        file, offset, _ = self.array.chunks[number].tolist()
        inner = prod(shape[at + 1 :]) * self._dtype.itemsize
        size = prod(shape) * self._dtype.itemsize
        memory = self._local.memory(size) if out is None else out.reshape(-1).view(np.uint8)
        outer = 1 if shape[at] == whole else prod(shape[:at])
        for position, piece in enumerate(memory.reshape(outer, -1)):
            begin = offset + (position * whole + start) * inner
            found = self._stored(file, begin, len(piece), piece)
            if not np.may_share_memory(np.frombuffer(found, np.uint8), piece):  # from an object store
                piece[...] = np.frombuffer(found, np.uint8)
        return memory.view(self._dtype).reshape(shape)

    def _stored(self, file: int, offset: int, length: int, memory: np.ndarray | None) -> bytes | np.ndarray:
        self._local.bytes_read += length
        return self.files.read(file, offset, self._local.memory(length) if memory is None else memory)

    def _damaged(self, number: int, reason: str) -> DamagedError:
        file, offset, length = self.array.chunks[number].tolist()
        return DamagedError(
            f"{self.files.paths[file]}: the chunk of {length:,} bytes at {offset:,} of '{self.name}' cannot be decoded "
            f"({reason}); restore the file, and adopt it again"
        )


def is_divisible(array: Chunked) -> bool:
    """Whether some rows of a chunk can be read without the others: as one range of its bytes, or a few of them."""
    axes = array.axes or tuple(range(len(array.shape)))
    return not array.codecs and prod(array.chunk[axis] for axis in axes[: axes.index(array.axis)]) <= MOST_PIECES


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
