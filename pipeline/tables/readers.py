"""A common interface to all kinds of source tables: open one, and read a piece of it."""

from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from ...storage.format import Source
from ..csv.cut import CsvTable
from ..csv.dialect import Dialect
from ..csv.open import open_csv
from ..csv.options import CsvOptions
from ..csv.row_batch import Columns, Numbers, Piece
from ..csv.rows import RowReader
from .parquet import ParquetTable, TableReader, open_table
from .sources import PARQUET

SourceTable = CsvTable | ParquetTable
Reader = RowReader | TableReader

CSV_KIND, PARQUET_KIND = "CsvText", "ParquetTable"  # in a stored spec


@dataclass(frozen=True)
class OpenTask:
    """Open `source`; if it has to be unpacked, the copy is written to the file `unpacked`."""

    source: Source
    options: CsvOptions
    unpacked: str


@dataclass(frozen=True)
class OpenedTable:
    """A source table, its pieces if they are already known, and the fields of its first rows."""

    table: SourceTable
    pieces: tuple[Piece, ...] | None
    sample: list[list[str]]


def open_source(task: OpenTask) -> OpenedTable:
    """Run a task. Raises SourceError for a file without rows, or not in the format that its suffix implies."""
    if PurePath(task.source.path).suffix.lower() == PARQUET:
        return OpenedTable(*open_table(task.source))
    return OpenedTable(*open_csv(task.source, task.options, task.unpacked))


def open_reader(
    table: SourceTable, piece: Piece, columns: Columns, numbers: Numbers, required: bool = False, skip: int = 0
) -> Reader:
    """A reader of the rows of a piece after the first `skip`. With `required`, a missing number is an error."""
    if isinstance(table, ParquetTable):
        return TableReader(table, piece, columns, numbers, required, skip)
    return RowReader(table, piece, columns, numbers, required, skip)


def table_to_json(table: SourceTable) -> dict[str, Any]:
    """A source table as JSON, with its kind."""
    return {"kind": PARQUET_KIND if isinstance(table, ParquetTable) else CSV_KIND, **asdict(table)}


def table_from_json(value: dict[str, Any]) -> SourceTable:
    """The inverse of `table_to_json`."""
    fields = {**value, "header": tuple(value["header"])}
    if fields.pop("kind") == PARQUET_KIND:
        return ParquetTable(**{**fields, "index": tuple(fields.get("index", ()))})
    return CsvTable(**{**fields, "dialect": Dialect.from_json(fields["dialect"])})
