"""A common interface to all kinds of source tables: open one, and read a piece of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from ...storage.errors import SourceError
from ...storage.format import Source
from ..csv.cut import CsvTable
from ..csv.dialect import Dialect, is_number
from ..csv.open import open_csv
from ..csv.options import CsvOptions
from ..csv.row_batch import Columns, Numbers, Piece
from ..csv.rows import RowReader
from .constants import ConstantReader, without_constants
from .parquet import ParquetTable, TableReader, open_table
from .sources import PARQUET

SourceTable = CsvTable | ParquetTable
Reader = RowReader | TableReader | ConstantReader

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
        opened = OpenedTable(*open_table(task.source))
    else:
        opened = OpenedTable(*open_csv(task.source, task.options, task.unpacked))
    partitions = task.source.partitions
    if both := [name for name in opened.table.header if name in partitions]:
        raise SourceError(
            f"{task.source.path} has a column '{both[0]}', and so have its folders; rename one of them, or name the "
            "files outside of such folders"
        )
    return replace(opened, table=replace(opened.table, constants=partitions)) if partitions else opened


def open_reader(
    table: SourceTable, piece: Piece, columns: Columns, numbers: Numbers, required: bool = False, skip: int = 0
) -> Reader:
    """A reader of the rows of a piece after the first `skip`. With `required`, a missing number is an error."""
    constants = {name: value for name, value in table.constants.items() if name in columns.names}
    inner = without_constants(columns, constants) if constants else columns
    reader: RowReader | TableReader
    if isinstance(table, ParquetTable):
        reader = TableReader(table, piece, inner, numbers, required, skip)
    else:
        reader = RowReader(table, piece, inner, numbers, required, skip)
    return ConstantReader(reader, columns, numbers, required, constants) if constants else reader


def table_to_json(table: SourceTable) -> dict[str, Any]:
    """A source table as JSON, with its kind."""
    return {"kind": PARQUET_KIND if isinstance(table, ParquetTable) else CSV_KIND, **asdict(table)}


def table_from_json(value: dict[str, Any]) -> SourceTable:
    """The inverse of `table_to_json`."""
    fields = {**value, "header": tuple(value["header"])}
    if fields.pop("kind") == PARQUET_KIND:
        return ParquetTable(**{**fields, "index": tuple(fields.get("index", ()))})
    return CsvTable(**{**fields, "dialect": Dialect.from_json(fields["dialect"])})


def sample_columns(opened: Sequence[OpenedTable]) -> dict[str, list[str]]:
    """Values of each column, as text: those of the first rows of the first table that has it, or all values of a column
    that is constant in each table."""
    found = dict[str, list[str]]()
    for one in opened:
        new = [position for position, name in enumerate(one.table.header) if name not in found]
        rows = [row for row in one.sample if len(row) == len(one.table.header)] if new else []
        if rows:
            found |= {one.table.header[position]: [row[position] for row in rows] for position in new}
    constants = dict[str, dict[str, None]]()
    for one in opened:
        for name, value in one.table.constants.items():
            if value is not None:
                constants.setdefault(name, {})[value] = None
    for name, values in constants.items():
        texts = [value for value in values if not is_number(value, Dialect())]
        found[name] = [*found.get(name, ()), *(texts or values)]  # numbers only if all are
    return found
