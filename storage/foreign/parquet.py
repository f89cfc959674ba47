"""Footers of Parquet files: where the columns of row groups are, and which columns of lists can be decoded without
Arrow, see `pages.py`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ..places.locate import locate
from .files import OPEN_FILES, check_unchanged

STORED = {
    "INT32": ("int8", "int16", "int32", "uint8", "uint16", "uint32"),
    "INT64": ("int64",),
    "FLOAT": ("float32",),
    "DOUBLE": ("float64",),
}
"""The types of values that are stored as each physical type."""
VALUE_BYTES = {"INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}
NONE, SNAPPY = "", "snappy"
CODECS = {"UNCOMPRESSED": NONE, "SNAPPY": SNAPPY, "ZSTD": "zstd", "GZIP": "gzip", "BROTLI": "brotli", "LZ4": "lz4_raw"}
"""Arrow's codecs, by their names in Parquet."""
COMPILED = (NONE, SNAPPY)  # those that compiled code decompresses, without Arrow
KNOWN_CHUNKS = 1 << 16  # a few hundred bytes each


class ColumnChunk(NamedTuple):
    """A column of values in a row group: where its pages are in the file, the size of all of them uncompressed, the
    bytes of a value, and the highest levels."""

    offset: int
    length: int
    decoded_bytes: int
    codec: str
    value_bytes: int
    repetition: int
    definition: int


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
        that `pages.py` knows."""
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
            VALUE_BYTES[physical],
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


@lru_cache(KNOWN_CHUNKS)
def lists_of(path: str, size: int, mtime_ns: int, group: int, name: str, depth: int, dtype: str) -> ColumnChunk | None:
    """`Footer.lists` of a Parquet file that has this size and time of its last change."""
    return footer_of(path, size, mtime_ns).lists(group, name, depth, dtype)
