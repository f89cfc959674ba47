"""Tables and arrays in memory, written to files that a conversion reads like any others.

A table becomes a Parquet file. An array of images becomes a tar archive of PNM files, which hold the pixels as they
are. Files are written batch by batch, and their place is chosen by the caller.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ...storage.errors import UsageError
from ...storage.places.place import Place

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label"  # the column of labels that have no name
GROUP_ROWS = 1 << 16  # of a Parquet file, which is read row group by row group
IMAGES, TABLE, LABELS = "images.tar", "table.parquet", "labels.parquet"


@dataclass(frozen=True)
class Written:
    """A source in a file: its place, what it is called in messages, whether it is an archive of images, and the index
    of a pandas DataFrame."""

    place: Place
    name: str
    images: bool = False
    index: pd.Index | None = None


def is_in_memory(source: Any) -> bool:
    """Whether a source is a table or an array, rather than a path or several."""
    return is_table(source) or isinstance(source, np.ndarray)


def is_table(source: Any) -> bool:
    """Whether a source is a table that Arrow can read: of pandas, Polars, Arrow, DuckDB, …"""
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")


def write_source(source: Any, folder: Place) -> Written:
    """Write a table, or an array of samples, into a folder. Raises UsageError for what cannot be stored."""
    if is_table(source):
        index = getattr(source, "index", None)
        return Written(write_table(arrow_batches(source), folder / TABLE), f"the {kind_of(source)}", index=index)
    if source.ndim == 2:
        return Written(write_table(array_batches(source), folder / TABLE), "the array")
    return Written(write_images(source, folder / IMAGES), "the array", images=True)


def kind_of(source: Any) -> str:
    """What to call a table in messages."""
    return type(source).__name__


def arrow_batches(source: Any) -> pa.RecordBatchReader:
    """The rows of a table as Arrow batches. Raises UsageError for a column with values of different types."""
    try:
        if hasattr(source, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(source)
        return pa.table(source).to_reader()
    except (pa.ArrowException, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"the {kind_of(source)} is not a table that Arrow can read ({reason}); give each column one type and its "
            "own name"
        ) from None


def array_batches(values: np.ndarray) -> pa.RecordBatchReader:
    """The rows of an array (rows, columns) as Arrow batches with columns x0, x1, …"""
    names = [f"x{number}" for number in range(values.shape[1])]
    schema = pa.schema([(name, pa.from_numpy_dtype(values.dtype)) for name in names])
    parts = (values[start : start + GROUP_ROWS] for start in range(0, len(values), GROUP_ROWS))
    columns = ([np.ascontiguousarray(column) for column in part.T] for part in parts)
    return pa.RecordBatchReader.from_batches(
        schema, (pa.record_batch([pa.array(column) for column in part], schema=schema) for part in columns)
    )


def write_table(batches: pa.RecordBatchReader, place: Place) -> Place:
    """Write batches to a Parquet file."""
    with place.whole_file() as file, parquet.ParquetWriter(file, batches.schema, compression="lz4") as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=GROUP_ROWS)
    return place


def write_images(images: np.ndarray, place: Place) -> Place:
    """Write an array of images (rows, height, width), or with 1 or 3 channels behind, to an archive of PNM files, which
    are named by their rows. Raises UsageError for another shape or type."""
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise UsageError(
            f"an array of shape {images.shape}: give (rows, columns) for a table, or (rows, height, width) or (rows, "
            "height, width, 3) for images"
        )
    if images.dtype not in (np.uint8, np.uint16):
        raise UsageError(f"images of type {images.dtype}: convert them to uint8, from 0 to 255, or to uint16")
    digits = len(str(len(images)))
    with place.whole_file() as file, tarfile.open(fileobj=file, mode="w") as archive:
        for row, image in enumerate(images):
            data = as_pnm(image)
            entry = tarfile.TarInfo(image_name(row, digits))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return place


def image_name(row: int, digits: int) -> str:
    """The name of a row's image in the archive. Sorted by name, images are in the order of their rows."""
    return f"{row:0{digits}d}.pnm"


def as_pnm(image: np.ndarray) -> bytes:
    """An image (height, width) or (height, width, 3) as a PNM file."""
    magic = "P6" if image.ndim == 3 else "P5"
    height, width = image.shape[:2]
    big = image.astype(image.dtype.newbyteorder(">"))
    return f"{magic} {width} {height} {np.iinfo(image.dtype).max}\n".encode() + big.tobytes()


def hash_of(places: Iterable[Place]) -> int:
    """A number that follows from the contents of files, in 63 bits."""
    found = hashlib.sha256()
    for place in places:
        for block in _blocks(place):
            found.update(block)
    return int.from_bytes(found.digest()[:8], "big") >> 1


def _blocks(place: Place) -> Iterator[bytes]:
    with place.open_stream() as stream:
        while block := stream.read(1 << 20):
            yield bytes(block)
