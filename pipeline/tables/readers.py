"""A common interface to all kinds of source tables: open one, and read a piece of it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from ...storage.errors import SourceError
from ...storage.format.manifest import Source
from ...storage.places.locate import locate
from ..csv.archive import archive_in_words, archive_members, is_archive
from ..csv.cut import CsvTable
from ..csv.dialect import Dialect, is_number
from ..csv.open import open_csv, unpack_csv
from ..csv.options import CsvOptions
from ..csv.row_batch import Columns, Numbers, Piece
from ..csv.rows import RowReader
from ..sequences.tokenizer import TokenReading
from ..target.beside import folder_columns
from .constants import ConstantReader, KnownReader, TokenReader, without_constants
from .parquet import ParquetTable, TableReader, open_other, open_table
from .sources import OTHERS, common_depth, is_table, is_visible, kind_of

SourceTable = CsvTable | ParquetTable
Reader = RowReader | TableReader | ConstantReader | KnownReader | TokenReader

COPY_BYTES = 1 << 20
CSV_KIND, PARQUET_KIND = "CsvText", "ParquetTable"  # in a stored spec


@dataclass(frozen=True)
class OpenTask:
    """Open `source`; if it has to be unpacked, the copy is written to the file `unpacked`. The lists of the column
    `whole` are read as they are."""

    source: Source
    options: CsvOptions
    unpacked: str
    whole: str | None = None


@dataclass(frozen=True)
class OpenedTable:
    """A source table, its pieces if they are already known, and the fields of its first rows."""

    table: SourceTable
    pieces: tuple[Piece, ...] | None
    sample: list[list[str]]


def open_source(task: OpenTask) -> list[OpenedTable]:
    """Run a task; the tables of an archive are sorted by name. Raises SourceError for a file without rows, or not in
    the format that its suffix implies."""
    path, partitions = task.source.path, task.source.partitions
    if not task.source.bytes:  # an empty part of a folder
        return []
    if is_archive(path):
        return [_with_partitions(one, partitions) for one in _open_archive(task)]
    if kind_of(path) != "CSV":
        return [_with_partitions(_open_columns(task, path, path, path, task.unpacked), partitions)]
    return [_with_partitions(OpenedTable(*open_csv(task.source, task.options, task.unpacked)), partitions)]


def _with_partitions(opened: OpenedTable, partitions: dict[str, str | None]) -> OpenedTable:
    """The table with the columns that its folders give. Raises SourceError if it has one of them itself."""
    if both := [name for name in opened.table.header if name in partitions]:
        raise SourceError(
            f"{opened.table.path} has a column '{both[0]}', and so have its folders; rename one of them, or name the "
            "files outside of such folders"
        )
    constants = {**opened.table.constants, **partitions}
    return replace(opened, table=replace(opened.table, constants=constants)) if partitions else opened


def _open_archive(task: OpenTask) -> list[OpenedTable]:
    """The tables in an archive, each unpacked to a file of its own. A single file of another name is read as CSV."""
    path, found = task.source.path, dict[str, OpenedTable]()
    others = list[str]()
    with archive_in_words(path):
        for name, stream in archive_members(path, _is_member):
            if _is_member(name):
                found[name] = _open_member(task, name, stream, len(found))
            elif is_visible(name.split("/")):
                others.append(name)
        if not found and len(others) == 1:
            for name, stream in archive_members(path):
                if name == others[0]:
                    found[name] = _open_member(task, name, stream, 0)
    if not found:
        raise SourceError(f"{path} contains no tables (*.csv, *.tsv, {OTHERS}); unpack it and name the files in it")
    folders = {name: name.split("/")[:-1] for name in found}
    above = common_depth(list(folders.values()))
    return [
        _with_partitions(found[name], folder_columns(folders[name], above))
        for name in sorted(found, key=lambda name: name.split("/"))
    ]


def _is_member(name: str) -> bool:
    """Whether a file of an archive is a table to read."""
    return is_table(name.split("/")) and not is_archive(name)


def _open_columns(task: OpenTask, path: str, name: str, place: str, unpacked: str) -> OpenedTable:
    """A table of another kind than CSV, whose file is at `place`."""
    kind = kind_of(name)
    if kind == "Arrow" or kind == "JSON lines":
        return OpenedTable(*open_other(path, place, unpacked, kind, PurePath(name).suffix.lower(), task.whole))
    return OpenedTable(*open_table(path, "" if place == path else place, task.whole))


def _open_member(task: OpenTask, name: str, stream: Any, number: int) -> OpenedTable:
    """A table in an archive, unpacked."""
    path, unpacked = f"{task.source.path}/{name}", f"{task.unpacked}-{number:06d}"
    suffix = PurePath(name).suffix.lower()
    if kind_of(name) != "CSV":
        with locate(f"{unpacked}-copy").whole_file() as copy:
            shutil.copyfileobj(stream, copy, COPY_BYTES)
        return _open_columns(task, path, name, f"{unpacked}-copy", unpacked)
    opened = OpenedTable(*unpack_csv(path, suffix, stream, task.options, unpacked))
    while not stream.closed and stream.read(COPY_BYTES):  # a checksum is compared at the end
        pass
    return opened


def open_reader(
    table: SourceTable,
    piece: Piece,
    columns: Columns,
    numbers: Numbers,
    required: bool = False,
    skip: int = 0,
    tokens: TokenReading | None = None,
) -> Reader:
    """A reader of the rows of a piece after the first `skip`. With `required`, a missing number is an error; with
    `tokens`, rows without token ids are."""
    constants = {name: value for name, value in table.constants.items() if name in columns.names}
    inner = without_constants(columns, constants) if constants else columns
    of_file: RowReader | TableReader
    if isinstance(table, ParquetTable):
        of_file = TableReader(table, piece, inner, numbers, required, skip)
    else:
        of_file = RowReader(table, piece, inner, numbers, required, skip)
    reader = ConstantReader(of_file, columns, numbers, required, constants) if constants else of_file
    known = KnownReader(reader) if columns.known else reader
    return TokenReader(known, tokens) if tokens else known


def table_to_json(table: SourceTable) -> dict[str, Any]:
    """A source table as JSON, with its kind."""
    return {"kind": PARQUET_KIND if isinstance(table, ParquetTable) else CSV_KIND, **vars(table)}


def table_from_json(value: dict[str, Any]) -> SourceTable:
    """The inverse of `table_to_json`."""
    fields = {**value, "header": tuple(value["header"])}
    if fields.pop("kind") == PARQUET_KIND:
        fields["nested"] = {name: tuple(way) for name, way in fields.get("nested", {}).items()}
        lists = {name: tuple(fields.get(name, ())) for name in ("index", "renamed")}
        return ParquetTable(**{**fields, **lists})
    dialect, renamed = Dialect.from_json(fields["dialect"]), tuple(fields.get("renamed", ()))
    return CsvTable(**{**fields, "dialect": dialect, "renamed": renamed})


def tables_to_json(tables: Sequence[SourceTable]) -> dict[str, Any]:
    """Tables as JSON. Thousands of files have the same header, which is stored once."""
    headers: dict[tuple[str, ...], int] = {}
    each = [{**table_to_json(table), "header": headers.setdefault(table.header, len(headers))} for table in tables]
    return {"headers": list(headers), "each": each}


def tables_from_json(value: Mapping[str, Any]) -> list[SourceTable]:
    """The inverse of `tables_to_json`."""
    headers = list(map(tuple, value["headers"]))
    return [table_from_json({**table, "header": headers[table["header"]]}) for table in value["each"]]


def fill_columns(opened: Sequence[OpenedTable], columns: str, expected: Sequence[str] = ()) -> list[OpenedTable]:
    """Tables with the columns that they lack, without values: those of all tables ("union") or of the "first", and
    those in `expected`; none if all must have the "same"."""
    if columns == "same":
        return list(opened)
    several = opened if columns == "union" else opened[:1]
    wanted = dict.fromkeys([*(name for one in several for name in one.table.columns), *expected])
    filled = []
    for one in opened:
        there = {*one.table.columns}
        constants = {**one.table.constants, **dict.fromkeys(name for name in wanted if name not in there)}
        filled.append(replace(one, table=replace(one.table, constants=constants)))
    return filled


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
