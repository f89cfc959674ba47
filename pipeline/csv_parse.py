"""From the text of a piece to columns of numbers, strictly; and, when that fails, to the place of the fault.

pyarrow parses. It says that a piece is wrong but not always where, so a piece that fails is read once more, row by
row, by the standard library's reader, which knows the line.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from ..storage.errors import SourceError
from .csv_split import Piece, read_piece

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "#N/A")


@dataclass(frozen=True)
class Columns:
    """Which columns are wanted: `numeric` are parsed as numbers, `text` are kept as they stand."""

    header: tuple[str, ...]
    numeric: tuple[str, ...]
    text: tuple[str, ...]


def parse_piece(piece: Piece, columns: Columns, types: Mapping[str, pa.DataType]) -> pa.Table:
    """Parse one piece strictly.

    `types` gives Arrow types of numeric columns; others are inferred (int64, else float64). The table has the
    numeric columns, then the text ones. Raises SourceError with file, line and column for a ragged row, a value
    that is no number or does not fit its type, or a missing value.
    """
    data = read_piece(piece)
    if not data.strip():
        kinds = {**dict.fromkeys(columns.numeric, pa.int64()), **types, **dict.fromkeys(columns.text, pa.string())}
        return pa.schema(kinds).empty_table()
    wanted = (*columns.numeric, *columns.text)
    try:
        table = pa_csv.read_csv(
            io.BytesIO(data),
            pa_csv.ReadOptions(column_names=list(columns.header), use_threads=False, block_size=len(data) + 1),
            pa_csv.ParseOptions(newlines_in_values=True),
            pa_csv.ConvertOptions(
                column_types={**types, **dict.fromkeys(columns.text, pa.string())},
                include_columns=list(wanted),
                null_values=list(MISSING),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise find_fault(piece, data, columns, types, str(error)) from None
    if any(not _is_clean(table.column(name), name in columns.text) for name in wanted):
        raise find_fault(piece, data, columns, types, "a value is missing or is not a number")
    return table


def _is_clean(column: pa.ChunkedArray, text: bool) -> bool:
    if column.null_count:
        return False
    if text:
        return not pc.any(pc.equal(column, "")).as_py()
    if pa.types.is_floating(column.type):
        return bool(pc.all(pc.is_finite(column), min_count=0).as_py())
    return bool(pa.types.is_integer(column.type))


def find_fault(
    piece: Piece, data: bytes, columns: Columns, types: Mapping[str, pa.DataType], reason: str
) -> SourceError:
    """The error for the first faulty value of a piece, with its file, line and column."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = piece.first_line + data.count(b"\n", 0, error.start)
        return SourceError(f"{piece.source}, line {line}: not UTF-8 text; save the file as UTF-8")
    positions = {name: columns.header.index(name) for name in chain(columns.numeric, columns.text)}
    for line, row in _numbered_rows(text, piece.first_line):
        if len(row) != len(columns.header):
            return SourceError(
                f"{piece.source}, line {line}: {len(row)} fields where the header has {len(columns.header)}; "
                "mend or remove the row"
            )
        for name, position in positions.items():
            complaint = _complaint(row[position], name in columns.text, types.get(name))
            if complaint:
                return SourceError(f"{piece.source}, line {line}, column «{name}»: {complaint}; mend or remove the row")
    return SourceError(f"{piece.source}, from line {piece.first_line}: {reason}")


def _numbered_rows(text: str, first_line: int) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows that are not blank, each with the number of the line that it starts on."""
    lines: Iterable[str] = io.StringIO(text, newline="")
    reader = csv.reader(lines)
    start = 0
    for row in reader:
        if row:
            yield first_line + start, row
        start = reader.line_num


def _complaint(value: str, text: bool, kind: pa.DataType | None) -> str | None:
    """What is wrong with a field, or None."""
    if value.strip() in MISSING:
        return "the value is missing"
    if text:
        return None
    shown = value if len(value) <= 40 else value[:40] + "…"
    try:
        number = float(value)
    except ValueError:
        return f"«{shown}» is not a number"
    if number != number or number in (float("inf"), float("-inf")) or "_" in value:
        return f"«{shown}» is not a finite number"
    if kind is not None:
        try:
            pc.cast(pa.scalar(value.strip()), kind)
        except pa.ArrowInvalid:
            return f"«{shown}» does not fit the type {kind}"
    return None
