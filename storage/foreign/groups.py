"""Rows of columns in Parquet and Arrow files, which are read one row group or record batch at a time, and in Lance
datasets, which are read in ranges of rows."""

from __future__ import annotations

import warnings
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np

from ..errors import DamagedError, UsageError
from ..places.locate import locate
from .cache import DecodedChunks, LocalMemory
from .files import OPEN_FILES, ForeignFiles
from .format import LANCE, Groups


class GroupReader:
    """Reads rows of columns. Groups of which only a part is wanted stay decoded in `cache`."""

    def __init__(self, name: str, array: Groups, files: ForeignFiles, cache: DecodedChunks) -> None:
        self.name, self.array, self.files, self.cache = name, array, files, cache
        self._bounds, self._local = array.bounds, LocalMemory()
        self._for_arrow = set[int]()  # the groups with something that only Arrow can read

    def read(self, start: int, stop: int, out: np.ndarray) -> int:
        """Read the rows `start` to `stop` into `out`, (rows, *row_shape). Returns the number of stored bytes read."""
        counted = self._local.bytes_read
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        for number in range(first, len(self._bounds) - 1):
            low, high = self._bounds[number : number + 2].tolist()
            if low >= stop:
                break
            begin, end = max(start, low), min(stop, high)
            target = out[begin - start : end - start]
            if end - begin == high - low:
                self._decode(number, target)
                continue
            rows = self.cache.get((self.name, number), partial(self._decoded, number))
            target[...] = rows[begin - low : end - low]
        return self._local.bytes_read - counted

    def _decoded(self, number: int) -> np.ndarray:
        rows = int(self._bounds[number + 1] - self._bounds[number])
        out = np.empty((rows, *self.array.row_shape), self.array.dtype)
        self._decode(number, out)
        return out

    def _decode(self, number: int, out: np.ndarray) -> None:
        """Decode all rows of a group into `out`. Raises DamagedError if they cannot be read."""
        import pyarrow as pa

        path = self.files.paths[int(self.array.groups[number, 0])]
        try:
            if number in self._for_arrow or not self._decode_pages(number, out):
                self._for_arrow.add(number)
                self._decode_by_arrow(number, out)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedError(
                f"{path}: its rows cannot be read ({error}); fix or restore the file, and adopt it again"
            ) from None

    def _decode_by_arrow(self, number: int, out: np.ndarray) -> None:
        file, place, length = self.array.groups[number].tolist()
        path = self.files.check(file)
        self._local.bytes_read += length
        table = read_group(path, self.array.format, place, self.array.columns, len(out))
        place_columns(table, self.array, out, int(self._bounds[number]))
        self.files.check(file)

    def _decode_pages(self, number: int, out: np.ndarray) -> bool:
        """Decode all rows of a group of Parquet lists into `out` without Arrow. Returns False where only Arrow can."""
        if self.array.format != "parquet" or len(self.array.columns) > 1 or not out.flags.c_contiguous:
            return False
        from .pages import place_lists, reads_files  # loads numba, which few processes need
        from .parquet import lists_of

        file, place, _ = self.array.groups[number].tolist()
        chunk = lists_of(*self.files.known(file), place, self.array.columns[0], out.ndim - 1, self.array.dtype)
        if chunk is None:
            return False
        self._local.bytes_read += chunk.length
        memory = self._local.memory(chunk.length + chunk.decoded_bytes)
        stored: bytes | np.ndarray = memory[: chunk.length]
        descriptor = self.files.descriptor(file) if reads_files(chunk.codec) else None
        if descriptor is None:
            stored = self.files.read(file, chunk.offset, memory[: chunk.length])
        placed = place_lists(chunk, stored, memory[chunk.length :], out, descriptor)
        self.files.check_opened(file)
        return placed


def read_group(path: str, form: str, place: int, columns: tuple[str, ...], rows: int, whole: Any = None) -> Any:
    """A group of a file, which has so many rows, as an Arrow table or record batch. `whole` is the content of an Arrow
    file, if it is mapped already."""
    import pyarrow as pa

    if form.startswith(LANCE):
        root, version = path.rpartition("/data/")[0], int(form.removeprefix(LANCE))
        return _opened_lance(root, version).to_table(list(columns), offset=place, limit=rows, batch_size=rows)
    if form == "parquet":
        from pyarrow import parquet

        from .parquet import footer

        with parquet.ParquetFile(locate(path).file_argument(), metadata=footer(path).metadata) as file:
            return file.read_row_group(place, columns=list(columns), use_threads=False).select(list(columns))
    with pa.memory_map(path) if whole is None else pa.BufferReader(whole) as file:
        if form == "file":
            return pa.ipc.open_file(file).get_batch(place).select(list(columns))
        schema = pa.ipc.read_schema(pa.ipc.read_message(file))
        file.seek(place)
        return pa.ipc.read_record_batch(pa.ipc.read_message(file), schema).select(list(columns))


def open_lance(root: str, version: int | None = None) -> Any:
    """A version of a Lance dataset, by default the newest. Raises ValueError if there is none, and UsageError without
    Lance's package."""
    try:
        import lance
    except ImportError:
        raise UsageError(
            f"{root} is a Lance dataset, which pylance reads; install it with 'pip install foldstream[lance]'"
        ) from None
    # It warns at each fork. What Ray and Dask start after one is another program, to which this does not apply.
    warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
    return lance.dataset(root, version=version)


_opened_lance = lru_cache(OPEN_FILES)(open_lance)
"""Versions do not change, so they stay open."""


def place_columns(table: Any, array: Groups, out: np.ndarray, first: int = 0) -> None:
    """Copy columns into `out`, (rows, *row_shape). Missing numbers become NaN.

    Raises ValueError for lists of another length, and for missing integers; `first` is the number of the first row.
    """
    if len(array.columns) == 1 and is_list(table.column(0).type):
        out.reshape(len(out), -1)[...] = lists(table.column(0), array.row_shape, first)
        return
    for number in range(len(array.columns)):
        out[:, number] = numbers(table.column(number), out.dtype)


def numbers(column: Any, dtype: Any) -> np.ndarray:
    """A column of numbers, (rows,). Raises ValueError for missing values that are no floating-point numbers."""
    if column.null_count and np.dtype(dtype).kind != "f":
        raise ValueError(f"{column.null_count:,} values are missing")
    found: np.ndarray = column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(zero_copy_only=False)
    return found


def lists(column: Any, shape: tuple[int, ...], first: int = 0) -> np.ndarray:
    """A column of lists of numbers, also nested ones, each of this shape, as (rows, values).

    Raises ValueError for lists of other lengths, missing lists, and missing values that are no floating-point numbers.
    The message names the row, which is counted from `first` on.
    """
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    parts = []
    for chunk in chunks:
        parts.append(_values_of(chunk, shape, first).reshape(len(chunk), prod(shape)))
        first += len(chunk)
    return np.concatenate(parts) if len(parts) != 1 else parts[0]


def _values_of(column: Any, shape: tuple[int, ...], first: int) -> np.ndarray:
    """The values of an Arrow array of lists, see `lists`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values, each = column, 1
    for length in shape:
        if values.null_count:
            raise ValueError(f"row {first + _first_null(values) // each:,} has a missing list")
        values = getattr(values, "storage", values)
        lengths = pc.list_value_length(values)
        if len(other := pc.indices_nonzero(pc.not_equal(lengths, length))):
            at = other[0].as_py()
            raise ValueError(f"row {first + at // each:,} has a list of length {lengths[at]}, but others of {length:,}")
        values, each = values.flatten(), each * length
    if values.null_count and not pa.types.is_floating(values.type):
        raise ValueError(f"row {first + _first_null(values) // each:,} has a missing value")
    found: np.ndarray = values.to_numpy(zero_copy_only=False)
    return found


def _first_null(values: Any) -> int:
    import pyarrow.compute as pc

    found: int = pc.index(values.is_null(), True).as_py()
    return found


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is one of lists, of one length or not, also in an extension type such as a tensor."""
    import pyarrow as pa

    kind = getattr(kind, "storage_type", kind)
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
