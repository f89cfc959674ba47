"""Tables and arrays in memory, written to files that a conversion reads like any others.

A table becomes a Parquet file. An array of images becomes a tar archive of PNM files, which hold the pixels as they
are, with a table of their labels.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ...storage.errors import FoldstreamError, UsageError
from ...storage.places.place import Place

if TYPE_CHECKING:
    import pandas as pd

LABEL, PATH = "label", "image"  # the column of labels that have no name; that of the names of images
TABLE, IMAGES, LABELS = "table.parquet", "images.tar", "labels.parquet"
EARLIER = re.compile(rf"\S+\.[0-9a-f]{{16}}/({TABLE}|{IMAGES}|{LABELS})")
GROUP_ROWS = 1 << 16  # of a Parquet file, which is read row group by row group


@dataclass(frozen=True)
class Written:
    """A source in a file: its place, what it is called in messages, whether it is an archive of images, the options
    that its conversion needs, and the index of a pandas DataFrame."""

    place: Any
    name: str = ""
    images: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    index: pd.Index | None = None


@contextmanager
def named_in_errors(written: Written) -> Iterator[None]:
    """Errors that name the file of a source in memory call it what the user has."""
    try:
        yield
    except FoldstreamError as error:
        if written.name:
            said = (str(one).replace(str(written.place), written.name) for one in error.args)
            error.args = tuple(EARLIER.sub("what was converted before", one) for one in said)
        raise


def is_in_memory(source: Any) -> bool:
    """Whether a source is a table or an array, rather than a path or several. Raises UsageError if it is none of
    them."""
    if is_table(source) or isinstance(source, np.ndarray):
        return True
    several = [source] if isinstance(source, str | PathLike) else source
    if not isinstance(several, Iterable) or not all(isinstance(one, str | PathLike) for one in several):
        what = type(source).__name__
        raise UsageError(
            f"source: {what} is neither a table, an array nor paths; give a DataFrame (of a lazy one what its "
            "collect() returns), a NumPy array, a path or a list of paths"
        )
    return False


def is_table(source: Any) -> bool:
    """Whether a source is a table that Arrow can read: of pandas, Polars, Arrow, DuckDB, …"""
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")


@dataclass(frozen=True)
class Samples:
    """A table, or images (rows, height, width) or (rows, height, width, 3) with a table of their labels; the names of
    the label columns, what the source is called in messages, and the index of a pandas DataFrame."""

    table: pa.Table
    images: np.ndarray | None
    labels: tuple[str, ...]
    name: str
    index: pd.Index | None

    @classmethod
    def of(cls, source: Any, label: Any = None) -> Self:
        """The samples of a table or an array; `label` names columns of a table, or has the labels of the rows.

        Raises UsageError for what cannot be stored.
        """
        name = f"the {type(source).__name__}" if is_table(source) else "the array"
        index = source.index if hasattr(source, "iloc") else None
        images = checked_images(source) if isinstance(source, np.ndarray) and source.ndim != 2 else None
        table = pa.table({}) if images is not None else as_table(source, name, "x")
        named = isinstance(label, str) or (is_table(source) and isinstance(label, list | tuple))
        if label is None or named:
            names = (label,) if isinstance(label, str) else tuple(label or ())
            return cls(table, images, names, name, index)
        labels = as_table(label, "label", LABEL)
        rows = table.num_rows if images is None else len(images)
        if labels.num_rows != rows:
            raise UsageError(f"label has {labels.num_rows:,} rows, but {name} has {rows:,}; give a label for each row")
        if twice := {*labels.column_names} & {*table.column_names}:
            raise UsageError(f"label: {name} has a column '{min(twice)}' too; rename the label or drop the column")
        columns = {name: one[name] for one in (table, labels) for name in one.column_names}
        table = pa.table(columns, metadata=table.schema.metadata)
        return cls(table, images, tuple(labels.column_names), name, index)

    def digest(self) -> str:
        """What follows from the contents alone, so that the same samples have the same place."""
        found = hashlib.sha256()
        sink = pa.PythonFile(_Digested(found), "w")
        with pa.ipc.new_stream(sink, self.table.schema) as stream:
            stream.write_table(self.table)
        if self.images is not None:
            found.update(repr((self.images.shape, self.images.dtype)).encode())
            for image in self.images:
                found.update(np.ascontiguousarray(image).data)
        return found.hexdigest()[:16]

    def write(self, folder: Place) -> Written:
        """Write the samples to files in a folder."""
        if self.images is None:
            place = folder / TABLE
            write_parquet(self.table, place)
            return Written(place, self.name, options={"label": self.labels}, index=self.index)
        archive, options = folder / IMAGES, image_options(self.images)
        names = [image_name(row, len(self.images)) for row in range(len(self.images))]
        write_images(self.images, names, archive)
        if self.labels:
            labels = folder / LABELS
            write_parquet(self.table.add_column(0, PATH, pa.array(names)), labels)
            options |= {"labels": labels, "label": self.labels}
        return Written(archive, self.name, True, options)


class _Digested(io.RawIOBase):
    """A file that only digests what is written to it."""

    def __init__(self, digest: Any) -> None:
        self.digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)


def as_table(values: Any, name: str, columns: str) -> pa.Table:
    """Values as a table: a table of any kind, a column, or an array (rows, …) whose columns are called `columns` and
    their number. Raises UsageError for a column with values of different types."""
    try:
        if is_table(values) and not (hasattr(values, "to_frame") or isinstance(values, pa.Array | pa.ChunkedArray)):
            return without_views(pa.table(values))
        if getattr(values, "ndim", 1) == 2:
            return pa.table({f"{columns}{number}": pa.array(column) for number, column in enumerate(values.T)})
        has_arrow = is_table(values) and not hasattr(values, "iloc")
        column = pa.chunked_array(values) if has_arrow else pa.array(np.asarray(values))
        return without_views(pa.table({str(getattr(values, "name", None) or columns): column}))
    except (pa.ArrowException, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"{name} is not a table that Arrow can read ({reason}); give each column one type and its own name"
        ) from None


def without_views(table: pa.Table) -> pa.Table:
    """A table whose texts are of Arrow's usual types. Those of Polars are views, which not every function takes."""
    for number, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        kind = _plain(column.type)
        if kind != column.type:
            chunks = [_without_views(chunk) for chunk in column.chunks]
            table = table.set_column(number, name, pa.chunked_array(chunks, kind))
    return table


def _without_views(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        texts = _without_views(values.dictionary)
        return pa.DictionaryArray.from_arrays(values.indices, texts, ordered=values.type.ordered)
    return values.cast(_plain(values.type))


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without views."""
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _plain(kind.value_type), kind.ordered)
    return pa.string() if pa.types.is_string_view(kind) else pa.binary() if pa.types.is_binary_view(kind) else kind


def checked_images(images: np.ndarray) -> np.ndarray:
    """An array of images without an axis for a single channel. Raises UsageError for another shape or type."""
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise UsageError(
            f"an array of shape {images.shape} holds no samples; give (rows, columns) for a table, or (rows, height, "
            "width) or (rows, height, width, 3) for images"
        )
    if images.dtype not in (np.uint8, np.uint16):
        raise UsageError(
            f"images of type {images.dtype} are not pixels; convert them to uint8, from 0 to 255, or uint16"
        )
    return images


def image_options(images: np.ndarray) -> dict[str, Any]:
    """The options with which images become samples as they are."""
    color = "rgb" if images.ndim == 4 else "gray"
    return {"size": images.shape[1:3], "color": color, "dtype": str(images.dtype), "shuffle": None}


def image_name(row: int, rows: int) -> str:
    """The name of a row's image. Sorted by name, images are in the order of their rows."""
    return f"{row:0{len(str(rows))}d}.pnm"


def write_parquet(table: pa.Table, place: Place) -> None:
    """Write a table to a Parquet file."""
    with place.whole_file() as file:
        parquet.write_table(table, file, row_group_size=GROUP_ROWS, compression="lz4")


def write_images(images: np.ndarray, names: Sequence[str], place: Place) -> None:
    """Write images to an archive of PNM files."""
    with place.whole_file() as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name, image in zip(names, images, strict=True):
            data = as_pnm(image)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def as_pnm(image: np.ndarray) -> bytes:
    """An image (height, width) or (height, width, 3) as a PNM file."""
    magic = "P6" if image.ndim == 3 else "P5"
    height, width = image.shape[:2]
    pixels = image.astype(image.dtype.newbyteorder(">")).tobytes()
    return f"{magic} {width} {height} {np.iinfo(image.dtype).max}\n".encode() + pixels
