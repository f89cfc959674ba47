"""Files of predictions: CSV, compressed or not, or Parquet, written batch by batch and atomically, as a whole or in
parts."""

import gzip
import hashlib
import io
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ...storage.errors import UsageError, check_choice
from ...storage.places.place import Place

GROUP_ROWS, GROUP_BYTES = 1 << 17, 64 << 20
"""Batches are joined until they have this many rows or bytes, which become a row group of a Parquet file."""
COPY_BYTES = 4 << 20


class CsvWriter:
    """Writes tables as CSV. Only fields that need quotes have some."""

    def __init__(self, file: Any, schema: pa.Schema, header: bool = True) -> None:
        self._file = file
        if header:
            names = (name for field in schema for name in names_of(field))
            self._write([quoted(pa.array([name])) for name in names])

    def write_table(self, table: pa.Table) -> None:
        """Append the rows of a table."""
        self._write([fields_of(part) for column in table.columns for part in parts_of(column.combine_chunks())])

    def close(self) -> None:
        """Complete the file."""

    def _write(self, fields: list[pa.Array]) -> None:
        lines = pc.binary_join_element_wise(*fields, ",", null_handling="replace", null_replacement="")
        every = pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines)
        self._file.write(pc.binary_join(every, "\n")[0].as_buffer())
        self._file.write(b"\n")


class GzipWriter(CsvWriter):
    """Writes tables as compressed CSV."""

    def __init__(self, file: Any, schema: pa.Schema) -> None:
        super().__init__(compressed(file), schema)

    def close(self) -> None:
        """Complete the file."""
        self._file.close()


NewWriter = Callable[[Any, pa.Schema], Any]
WRITERS: dict[str, NewWriter] = {
    ".csv": CsvWriter,
    ".csv.gz": GzipWriter,
    ".parquet": parquet.ParquetWriter,
}
"""By the ending of the file's name."""


def ending_of(out: str, format: str | None) -> str:
    """Which of `WRITERS` writes the file `out`: that of its ending, or of the `format` if the ending says nothing.

    Raises UsageError if neither says it, or if they contradict each other.
    """
    if format is not None:
        check_choice("--format", format, ("csv", "parquet"))
    found = known_ending(out)
    if found is None and format is None:
        raise UsageError(
            f"{out}: the name does not say the format; end it with {', '.join(WRITERS)}, or add --format csv or "
            "--format parquet"
        )
    if found and format and found.split(".")[1] != format:
        raise UsageError(f"--format {format}: {out} ends with {found}; remove the option, or change the name")
    return found or f".{format}"


def known_ending(out: str) -> str | None:
    """Which of `WRITERS` writes a file of this name; None if its ending does not say it."""
    return next((ending for ending in WRITERS if out.lower().endswith(ending)), None)


def write_tables(tables: Iterable[pa.Table], target: Place, ending: str) -> None:
    """Write tables, of which there is at least one and which have the same columns, to one file, atomically."""
    with target.whole_file() as file:
        _write(joined(tables), file, WRITERS[ending])


def write_part(tables: Iterable[pa.Table], place: Place, new_writer: NewWriter) -> dict[str, Any]:
    """Write the tables of a part, atomically. Returns its `length` in bytes and its SHA-256, `digest`."""
    with place.whole_file() as file:
        counted = _Counted(file)
        _write(tables, counted, new_writer)
    return {"length": counted.length, "digest": counted.digest.hexdigest()}


def is_file(place: Place, length: int, digest: str) -> bool:
    """Whether a file exists that has this length and this SHA-256."""
    try:
        if place.describe().size != length:
            return False
        with place.open_stream() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False


def write_batches(file: Any, schema: pa.Schema) -> Any:
    """A writer of Arrow's stream, from which `read_batches` reads the same tables."""
    return pa.ipc.new_stream(file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))


def read_batches(parts: Iterable[Place]) -> Iterator[pa.Table]:
    """The tables of parts that were written by `write_batches`."""
    for part in parts:
        with part.open_stream() as stream, pa.ipc.open_stream(stream) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])


def concatenate(parts: Iterable[Place], target: Place, ending: str) -> None:
    """Write parts that are CSV, one after another, to one file, atomically. Only the first has a header."""
    with target.whole_file() as file:
        out = compressed(file) if ending == ".csv.gz" else file
        for part in parts:
            with part.open_stream() as stream:
                shutil.copyfileobj(stream, out, COPY_BYTES)
        if out is not file:
            out.close()


def compressed(file: Any) -> gzip.GzipFile:
    """A file that compresses what is written to it. The bytes depend on nothing else, such as a name or the time."""
    return gzip.GzipFile("", "wb", fileobj=file, mtime=0)


def _write(tables: Iterable[pa.Table], file: Any, new_writer: NewWriter) -> None:
    left = iter(tables)
    first = next(left)
    writer = new_writer(file, first.schema)
    for table in chain([first], left):
        writer.write_table(table)
    writer.close()


class _Counted(io.RawIOBase):
    """A file that keeps the length and the hash of what is written to it."""

    def __init__(self, file: Any) -> None:
        self._file, self.length, self.digest = file, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(data)
        self.digest.update(data)
        size = memoryview(data).nbytes
        self.length += size
        return size


def joined(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join tables until they have the rows or the bytes of a row group."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= GROUP_ROWS or sum(one.nbytes for one in waiting) >= GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def names_of(field: pa.Field) -> list[str]:
    """The headings of a column: those of the numbers of a vector are `NAME_0`, `NAME_1`, …"""
    if pa.types.is_fixed_size_list(field.type):
        return [f"{field.name}_{number}" for number in range(field.type.list_size)]
    return [field.name]


def parts_of(column: pa.Array) -> list[pa.Array]:
    """A column, or those of the numbers of vectors."""
    if pa.types.is_fixed_size_list(column.type):
        return [pc.list_element(column, number) for number in range(column.type.list_size)]
    return [column]


def fields_of(column: pa.Array) -> pa.Array:
    """The values of a column as fields of a CSV file. Floats have as many digits as tell them apart."""
    return quoted(column) if pa.types.is_string(column.type) else column.cast(pa.string())


def quoted(texts: pa.Array) -> pa.Array:
    """Texts as fields of a CSV file, in quotes where they need some."""
    inside = pc.replace_substring(texts, '"', '""')
    return pc.if_else(
        pc.match_substring_regex(texts, '[",\r\n]'), pc.binary_join_element_wise('"', inside, '"', ""), texts
    )
