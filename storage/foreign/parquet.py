"""Columns of lists in Parquet files, decoded without Arrow where all lists have one shape and nothing is missing: Arrow
puts lists together value by value, at a tenth of the speed.

A column of a row group is a sequence of pages: a dictionary, if there is one, and the values, or their indices in the
dictionary. Each is compressed by itself, and begins with repetition levels, which say where lists begin, and definition
levels, which say what is missing. Source: the specification of the Parquet format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ..places.locate import locate
from .files import OPEN_FILES, check_unchanged
from .thrift import integers, read_struct

STORED = {
    "INT32": ("int8", "int16", "int32", "uint8", "uint16", "uint32"),
    "INT64": ("int64",),
    "FLOAT": ("float32",),
    "DOUBLE": ("float64",),
}
"""The types of values that are stored as each physical type."""
PLAIN_TYPES = {"INT32": "<i4", "INT64": "<i8", "FLOAT": "<f4", "DOUBLE": "<f8"}
CODECS = {"UNCOMPRESSED": "", "SNAPPY": "snappy", "ZSTD": "zstd", "GZIP": "gzip", "BROTLI": "brotli", "LZ4": "lz4_raw"}
"""Arrow's codecs, by their names in Parquet."""
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
PLAIN, DICTIONARY, RLE = 0, 2, 3
ENCODINGS = {PLAIN: PLAIN, DICTIONARY: DICTIONARY, 8: DICTIONARY}
"""Those of values that are decoded here; newer files have another number for indices of a dictionary."""
LEAST_PLACES = 256  # of a dictionary, see `place_pages`


class ColumnChunk(NamedTuple):
    """A column of values in a row group: where its pages are in the file, the size of all of them uncompressed, the
    type in which values are stored, and the highest levels."""

    offset: int
    length: int
    decoded_bytes: int
    codec: str
    stored: np.dtype[Any]
    repetition: int
    definition: int


class Page(NamedTuple):
    """A page in `data`, (bytes,) uint8, uncompressed, and its row in the table of `place_pages`."""

    kind: int
    data: np.ndarray
    row: tuple[int, ...]


class Footer:
    """What the end of a Parquet file says of its row groups and columns."""

    def __init__(self, path: str) -> None:
        self.metadata: Any = parquet.read_metadata(locate(path).file_argument())

    @cached_property
    def leaves(self) -> Mapping[str, int]:
        """The number of the first column of values that belongs to each column."""
        schema = self.metadata.schema.to_arrow_schema()
        starts = np.cumsum([0, *(_leaves_of(kind) for kind in schema.types)])
        return dict(zip(schema.names, starts.tolist(), strict=False))

    def lists(self, group: int, name: str, depth: int, dtype: str) -> ColumnChunk | None:
        """The values of a column of lists, nested to this depth, in a row group; None if they are not stored in a way
        that `place_lists` knows."""
        leaf = self.leaves[name]
        found, described = self.metadata.row_group(group).column(leaf), self.metadata.schema.column(leaf)
        physical, codec = found.physical_type, CODECS.get(found.compression)
        if codec is None or dtype not in STORED.get(physical, ()) or described.max_repetition_level != depth:
            return None
        dictionary = found.dictionary_page_offset if found.has_dictionary_page else 0
        return ColumnChunk(
            min(dictionary or found.data_page_offset, found.data_page_offset),
            found.total_compressed_size,
            found.total_uncompressed_size,
            codec,
            np.dtype(PLAIN_TYPES[physical]),
            depth,
            described.max_definition_level,
        )


def _leaves_of(kind: pa.DataType) -> int:
    """The number of columns of values in which a column of this type is stored."""
    kind = getattr(kind, "storage_type", kind)
    return sum(_leaves_of(kind.field(number).type) for number in range(kind.num_fields)) or 1


def footer(path: str) -> Footer:
    """The footer of a Parquet file as it is now."""
    return footer_of(path, *locate(path).describe())


@lru_cache(OPEN_FILES)
def footer_of(path: str, size: int, mtime_ns: int) -> Footer:
    """The footer of a Parquet file, which with many columns takes longer to read than a row group. Raises DamagedError
    if the file does not have this size and time of its last change."""
    check_unchanged(path, size, mtime_ns)
    return Footer(path)


def place_lists(chunk: ColumnChunk, stored: bytes | np.ndarray, out: np.ndarray) -> bool:
    """Write the lists of a column chunk into the contiguous `out`, (rows, *shape), which tells the shape of each.

    Returns False for what only Arrow can read, or say what is wrong with: lists of other shapes, missing values, other
    encodings, and bytes that are no pages.
    """
    try:
        return _place_pages(chunk, _bytes_of(stored), out.shape[1:], out.reshape(-1))
    except (LookupError, ValueError, OSError, pa.ArrowException):
        return False


def _place_pages(chunk: ColumnChunk, stored: np.ndarray, shape: tuple[int, ...], out: np.ndarray) -> bool:
    """Write values into `out`, (values,). Returns False, or raises, for other pages than are expected."""
    from .pages import VALUES, Column, place_pages  # loads numba, which few processes need

    sizes = np.array([prod(shape[depth:]) for depth in range(len(shape))], np.uint64)
    words = np.dtype(f"u{out.itemsize}")  # so that one compiled loop serves all types of a size
    target, dictionary, at = out.view(words), np.zeros(LEAST_PLACES, words), 0
    column = Column(chunk.repetition, chunk.definition, chunk.stored.itemsize, 0)
    for kind, data, rows in _tables(chunk, stored):
        if kind == DICTIONARY_PAGE:
            begin, _, entries, _ = rows[0, VALUES:].tolist()
            dictionary = np.frombuffer(data, chunk.stored, entries, begin).astype(out.dtype).view(words)
            if entries < LEAST_PLACES:
                dictionary = np.append(dictionary, np.zeros(LEAST_PLACES - entries, words))
            column = column._replace(entries=entries)
        else:
            at = place_pages(data, rows, column, sizes, dictionary, target, at)
        if at < 0:
            return False
    return at == len(out)


def _tables(chunk: ColumnChunk, stored: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The kinds, the bytes and the tables of pages, as many at once as are in one array."""
    rows = list[tuple[int, ...]]()
    for page in _pages(chunk, stored):
        if page.kind == DICTIONARY_PAGE or chunk.codec:
            yield page.kind, page.data, np.array([page.row])
        else:
            rows.append(page.row)
    if rows:
        yield DATA_PAGE, stored, np.array(rows)


def _pages(chunk: ColumnChunk, stored: np.ndarray) -> Iterator[Page]:
    """The pages of a column chunk. Raises ValueError, LookupError or Arrow's errors for bytes that are none."""
    at, header_bytes = 0, stored.data  # whose items are Python's integers
    while at < len(stored):
        header, begin = read_struct(header_bytes, at)
        kind, size, length = integers(header, 1, 2, 3)
        at = begin + length
        if not 0 <= size <= chunk.decoded_bytes or not begin <= at <= len(stored):
            raise ValueError(f"a page is larger than its column of {len(stored):,} bytes")
        if kind == DATA_PAGE_V2:
            yield _second_version(chunk, header[8], stored, begin, at, size)
        elif kind in (DATA_PAGE, DICTIONARY_PAGE):
            data, first, end = stored, begin, at
            if chunk.codec:
                data, first, end = _decompressed(stored[begin:at], size, chunk.codec), 0, size
            if kind == DICTIONARY_PAGE:
                entries, encoding = integers(header[7], 1, 2)
                if encoding not in (PLAIN, DICTIONARY):
                    raise ValueError(f"a dictionary in the encoding {encoding}")
                yield Page(kind, data, (first, first, first, first, first, end, entries, PLAIN))
                continue
            number, encoding, of_definitions, of_repetitions = integers(header[5], 1, 2, 3, 4)
            repetitions = _levels(data, first, of_repetitions, chunk.repetition)
            definitions = _levels(data, repetitions[1], of_definitions, chunk.definition)
            yield Page(kind, data, (*repetitions, *definitions, definitions[1], end, number, ENCODINGS[encoding]))


def _second_version(chunk: ColumnChunk, header: Any, stored: np.ndarray, begin: int, end: int, size: int) -> Page:
    """A page of the second version, whose levels are not compressed."""
    number, encoding, definitions, repetitions = integers(header, 1, 4, 5, 6)
    levels = repetitions + definitions
    if not 0 <= repetitions <= levels <= size:
        raise ValueError(f"levels of {levels:,} bytes in a page of {size:,}")
    data, first = stored, begin
    if chunk.codec and header.get(7, True):
        values = _decompressed(stored[begin + levels : end], size - levels, chunk.codec)
        data, first, end = np.concatenate([stored[begin : begin + levels], values]), 0, size
    cuts = (first, first + repetitions, first + repetitions, first + levels, first + levels, end)
    return Page(DATA_PAGE_V2, _bytes_of(data), (*cuts, number, ENCODINGS[encoding]))


def _levels(data: np.ndarray, at: int, encoding: int, highest: int) -> tuple[int, int]:
    """Where levels are that begin at a byte with their length, and where they end. There are none if all are 0."""
    if not highest:
        return at, at
    if encoding != RLE:
        raise ValueError(f"levels in the encoding {encoding}")
    return at + 4, at + 4 + int.from_bytes(data[at : at + 4].tobytes(), "little")


def _decompressed(data: np.ndarray, size: int, codec: str) -> np.ndarray:
    return _bytes_of(pa.decompress(data, size, codec=codec)) if size else data


def _bytes_of(data: Any) -> np.ndarray:
    """Bytes of any kind as (bytes,) uint8, read-only, so that one compiled loop serves all of them."""
    return np.frombuffer(memoryview(data).toreadonly(), np.uint8)
