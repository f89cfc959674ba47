"""From the text of a piece to columns of numbers, strictly; and, when that fails, to the place of the fault.

pyarrow parses. It says that a piece is wrong but not always where, so a piece that fails is read once more, row by
row, by the standard library's reader, which knows the line.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from ..storage.errors import RowError
from .csv_split import LONGEST_ROW, Piece, read_piece

csv.field_size_limit(LONGEST_ROW)

REMEDY = "mend or remove the row"
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
    numeric columns, then the text ones. Raises RowError with file, line and column for a ragged row, a value that is
    no number or does not fit its type, or a missing value.
    """
    data = read_piece(piece)
    try:
        return parse_text(data, columns, types)
    except pa.ArrowInvalid as error:
        raise find_fault(piece, data, columns, types, str(error)) from None


def parse_text(data: bytes, columns: Columns, types: Mapping[str, pa.DataType]) -> pa.Table:
    """Parse the text of some rows as `parse_piece` does. Raises ArrowInvalid, often without the place."""
    if not data.strip():
        kinds = {**dict.fromkeys(columns.numeric, pa.int64()), **types, **dict.fromkeys(columns.text, pa.string())}
        return pa.schema(kinds).empty_table()
    wanted = (*columns.numeric, *columns.text)
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
    if any(not _is_clean(table.column(name), name in columns.text) for name in wanted):
        raise pa.ArrowInvalid("a value is missing or is not a number")
    return table


def parse_sound_rows(
    piece: Piece, columns: Columns, types: Mapping[str, pa.DataType]
) -> tuple[pa.Table, list[RowError]]:
    """Parse a piece without the rows that `parse_piece` would refuse, each by itself; returns their errors too.

    Rows are halved until a half is sound or a single row, so that a few faulty rows among many cost little.
    """
    data = read_piece(piece)
    rows = [(line, text.encode(errors="surrogateescape")) for line, _, text in _rows(data, piece.first_line)]
    tables, faults = [parse_text(b"", columns, types)], []
    left = [(0, len(rows))] if rows else []
    while left:
        start, stop = left.pop()
        text = b"".join(text for _, text in rows[start:stop])
        try:
            tables.append(parse_text(text, columns, types))
        except pa.ArrowInvalid as error:
            if stop - start == 1:
                one = replace(piece, first_line=rows[start][0])
                faults.append(find_fault(one, text, columns, types, str(error)))
            else:
                middle = (start + stop) // 2
                left += [(middle, stop), (start, middle)]
    return pa.concat_tables(tables, promote_options="permissive"), faults


def _is_clean(column: pa.ChunkedArray, text: bool) -> bool:
    if column.null_count:
        return False
    if text:
        return not pc.any(pc.equal(column, "")).as_py()
    if pa.types.is_floating(column.type):
        return bool(pc.all(pc.is_finite(column), min_count=0).as_py())
    return bool(pa.types.is_integer(column.type))


def find_fault(piece: Piece, data: bytes, columns: Columns, types: Mapping[str, pa.DataType], reason: str) -> RowError:
    """The error for the first faulty value of a piece, with its file, line and column."""
    positions = {name: columns.header.index(name) for name in chain(columns.numeric, columns.text)}
    for line, row, text in _rows(data, piece.first_line):
        if not _is_unicode(text):
            within = text[: next(i for i, letter in enumerate(text) if not _is_unicode(letter))]
            broken = line + within.count("\n")
            return RowError(piece.source, broken, None, "not UTF-8 text", "save the file as UTF-8")
        if len(row) != len(columns.header):
            counts = f"{len(row)} fields where the header has {len(columns.header)}"
            return RowError(piece.source, line, None, counts, REMEDY)
        for name, position in positions.items():
            complaint = _complaint(row[position], name in columns.text, types.get(name))
            if complaint:
                return RowError(piece.source, line, name, complaint, REMEDY)
    return RowError(piece.source, piece.first_line, None, f"in the rows from here on: {reason}", REMEDY)


def _is_unicode(text: str) -> bool:
    """Whether a text that was decoded with surrogates for foreign bytes has none of them."""
    return text.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in text)


def _rows(data: bytes, first_line: int) -> Iterator[tuple[int, Sequence[str], str]]:
    """Rows that are not blank: the number of the line that each starts on, its fields, and its text as it stands."""
    lines = list(io.StringIO(data.decode(errors="surrogateescape"), newline=""))
    reader = csv.reader(lines)
    start = 0
    for row in reader:
        if row:
            yield first_line + start, row, "".join(lines[start : reader.line_num])
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
