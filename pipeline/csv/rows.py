"""Strict parsing of a piece's text into numbers and texts, with the location of every error.

The compiled reader handles plain numbers. Everything else (an empty field, "1e400", "+5", a quoted number, digits
beyond an int64) is parsed here field by field; the grammar and the meaning are the same in both.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.errors import RowError
from ...storage.places.locate import locate
from .amounts import AMOUNT, LOCAL, not_a_number, plain_amounts, read_amounts
from .cut import PACKER, CsvTable, read_text
from .dates import YEAR_FIRST, parse_dates
from .dialect import padded
from .kernels import (
    AFTER_QUOTE,
    FIELDS,
    LARGEST_EXACT,
    LEFT_OPEN,
    NUMBER,
    SKIP,
    TEXT,
    ColumnRoles,
    RowBuffers,
    copy_texts,
    count_lines,
    read_rows,
    skip_rows,
)
from .row_batch import ABSENT, Columns, Misfit, Numbers, Piece, RowBatch, add_error, drop_rows, remedy_of

MOST_DIGITS = 4000  # Python converts no more to an int
ODD_FIELDS = 1 << 16
MOST_INVALID = 1024


class RowReader:
    """Reads the rows of one piece in batches.

    A missing number becomes NaN (0 for integer types) and is listed, or is an error with `required`. `text` is the
    padded text of the piece if it is in no file.
    """

    def __init__(
        self,
        source: CsvTable,
        piece: Piece,
        columns: Columns,
        numbers: Numbers,
        required: bool = False,
        skip: int = 0,
        text: np.ndarray | None = None,
    ) -> None:
        self.source, self.piece, self.columns, self.numbers, self.required = source, piece, columns, numbers, required
        self.text = read_piece(source, piece) if text is None else text
        self.length = len(self.text) - 1
        self.marks = source.dialect.marks()
        self.position = skip_rows(self.text, skip, self.marks) if skip else 0
        self.counted = 0, piece.line  # an offset, and the line there
        self.roles = column_roles(source.header, columns)
        self.amounts = [at for at, name in enumerate(source.header) if columns.formats.get(name) == AMOUNT]
        self.odd = np.empty((max(ODD_FIELDS, len(source.header)), 4), np.int32)
        self.invalid = np.empty((MOST_INVALID, 4), np.int32)

    @property
    def ended(self) -> bool:
        """Whether the whole piece has been read."""
        return self.position >= self.length

    def read(self, x: np.ndarray) -> RowBatch:
        """Read at most as many rows as fit in `x` (rows, features); at the end of the piece, no rows and no errors."""
        spans = np.empty((len(x), len(self.columns.texts), 2), np.int32)
        buffers = RowBuffers(x, spans, self.odd, self.invalid)
        rows, self.position, odds, bad = read_rows(
            self.text, self.position, self.marks, self.roles, self.numbers.limits(), buffers
        )
        errors = [self._row_error(*entry) for entry in self.invalid[:bad, :3].tolist()]
        batch = RowBatch(rows, [], spans[:rows, :, 0], np.zeros((0, 2), np.int64), errors)
        if bad:
            order = np.arange(rows)
            batch.ordinals = order + np.searchsorted(self.invalid[:bad, 3], order, side="right")
        wrong: dict[int, RowError] = {}
        if odds:
            self._settle(self.odd[:odds], x, batch, wrong)
        batch.texts = [self._texts(spans[:rows, i], name, wrong) for i, name in enumerate(self.columns.texts)]
        if wrong:
            drop_rows(x, batch, wrong)
        return batch

    def text_error(self, batch: RowBatch, row: int, name: str, reason: str, remedy: str) -> RowError:
        """The error for a text in a batch whose value is not allowed."""
        return self._error(int(batch.begins[row, self.columns.texts.index(name)]), name, reason, remedy)

    def _settle(self, odd: np.ndarray, x: np.ndarray, batch: RowBatch, wrong: dict[int, RowError]) -> None:
        """Parse every field that is not a plain number: store its value, or record it as missing, misfit or wrong."""
        dialect = self.source.dialect
        texts = pc.ascii_trim_whitespace(decode(self._copy(odd[:, 2:])[0]))
        absent = pc.is_in(texts, pa.array(dialect.missing)).to_numpy(zero_copy_only=False)
        written = texts
        if dialect.thousands or dialect.decimal != ".":
            texts = plain_numbers(texts, dialect.thousands, dialect.decimal)
        if len(self.amounts):
            amounts = plain_amounts(written, dialect.decimal)
            texts = pc.if_else(pa.array(np.isin(odd[:, 1], self.amounts)), amounts, texts)
        places = self.roles.positions[odd[:, 1]]
        if self.required:
            for i in np.flatnonzero(absent).tolist():
                add_error(wrong, int(odd[i, 0]), self._field_error(odd[i], ABSENT))
        else:
            gaps = odd[absent, 0], places[absent]
            x[gaps] = np.nan if self.numbers.is_float else 0
            batch.missing = np.stack(gaps, axis=1).astype(np.int64)
        there = np.flatnonzero(~absent)
        values, reasons = parse_numbers(texts.take(pa.array(there)))
        for i, reason in reasons.items():
            if not texts[there[i]].as_py():
                reason = not_a_number(written[there[i]].as_py())
            wrong.setdefault(int(odd[there[i], 0]), self._field_error(odd[there[i]], reason))
        large = np.abs(values) >= LARGEST_EXACT  # 2⁵³ may be 2⁵³ + 1 after rounding
        fitting = self.numbers.fit(values) & ~large
        x[odd[there[fitting], 0], places[there[fitting]]] = values[fitting]
        misfits = {int(there[at]): values[at].item() for at in np.flatnonzero(~fitting & ~large & np.isfinite(values))}
        for i in there[large].tolist():
            value = parse_number(texts[i].as_py())
            assert not isinstance(value, str)
            if self.numbers.fits_large(value) if isinstance(value, int) else self.numbers.fit(np.array([value]))[0]:
                x[odd[i, 0], places[i]] = value
            else:
                misfits[i] = value
        for i in {min(misfits, key=misfits.__getitem__), max(misfits, key=misfits.__getitem__)} if misfits else ():
            batch.misfits.append(Misfit(misfits[i], self._field_error(odd[i], "").where))

    def _texts(self, spans: np.ndarray, name: str, wrong: dict[int, RowError]) -> pa.Array:
        """The texts or dates of a column, null where the value is missing."""
        raw, plain = self._copy(spans)
        dialect = self.source.dialect

        def complain(row: int, reason: str) -> None:
            add_error(wrong, row, self._error(int(spans[row, 0]), name, reason))

        if not plain:
            for row, value in enumerate(raw.to_pylist()):
                if not _is_utf8(pa.array([value])):
                    complain(row, "the text is not UTF-8 (if the file is Latin-1, use --encoding latin-1)")
                elif b"\0" in value:
                    complain(row, "the text contains a NUL byte")
        texts = decode(raw)
        way = self.columns.formats.get(name, YEAR_FIRST)
        if name in self.columns.dates or way == AMOUNT:
            texts = pc.utf8_trim_whitespace(texts)
        absent = pc.is_in(texts, pa.array(dialect.missing))
        if absent.true_count:
            texts = pc.if_else(absent, pa.scalar(None, pa.string()), texts)
            for row in np.flatnonzero(absent.to_numpy(zero_copy_only=False)).tolist():
                if name in self.columns.required:
                    complain(row, ABSENT)
        if way == LOCAL:
            numbers = plain_numbers(pc.ascii_trim_whitespace(texts), dialect.thousands, dialect.decimal)
            texts = pc.if_else(pc.equal(numbers, ""), texts, numbers)
        if way == AMOUNT:
            texts, reasons = read_amounts(texts, dialect.decimal)
            for row, reason in reasons.items():
                complain(row, reason)
        if name not in self.columns.dates:
            return texts
        dates, reasons = parse_dates(texts, way)
        for row, reason in reasons.items():
            complain(row, reason)
        return dates

    def _copy(self, spans: np.ndarray) -> tuple[pa.Array, bool]:
        """The bytes of some fields with quotes unescaped; and whether they are valid UTF-8 without zero bytes."""
        out = np.empty(int((spans[:, 1] - spans[:, 0]).sum()), np.uint8)
        ends = np.empty(len(spans) + 1, np.int32)
        ascii, zero = copy_texts(self.text, spans, self.marks[1], out, ends)
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(out)]
        kind = pa.string() if ascii else pa.binary()
        raw = pa.Array.from_buffers(kind, len(spans), buffers)
        return (raw if ascii and not zero else raw.cast(pa.binary())), not zero and (ascii or _is_utf8(raw))

    def _field_error(self, odd: np.ndarray, reason: str) -> RowError:
        return self._error(int(odd[2]), self.source.header[int(odd[1])], reason)

    def _error(self, offset: int, column: str | None, reason: str, remedy: str = "") -> RowError:
        return RowError(self.source.path, self._line(offset), column, reason, remedy or remedy_of(reason, column))

    def _line(self, offset: int) -> int:
        """The line of a field that begins there, counted from the one that was asked for before: a piece with many
        invalid rows is not counted from its beginning for each."""
        known, line = self.counted
        lines = count_lines(self.text[min(known, offset) : max(known, offset)])
        self.counted = offset, line + (lines if offset > known else -lines)
        return self.counted[1]

    def _row_error(self, kind: int, offset: int, fields: int) -> RowError:
        reasons = {
            FIELDS: f"the row has {fields} fields but the header has {len(self.source.header)}",
            AFTER_QUOTE: f"text follows the closing quote of field {fields}",
            LEFT_OPEN: "a quote is never closed",
        }
        return self._error(offset, None, reasons[kind])


def read_piece(source: CsvTable, piece: Piece) -> np.ndarray:
    """The padded text of a piece."""
    place = locate(source.place)
    if not source.packed:
        return read_text(place, piece.start, piece.stop)
    return padded(PACKER.decode(read_text(place, piece.start, piece.stop)[:-1]))


def column_roles(header: Sequence[str], columns: Columns) -> ColumnRoles:
    """The role of each column for `read_rows`, and its position among the features or texts. Features that the file
    does not have are passed over."""
    roles = np.full(len(header), SKIP, np.int64)
    positions = np.zeros(len(header), np.uint64)
    column_of = {name: column for column, name in enumerate(header)}
    for role, names in ((NUMBER, columns.features), (TEXT, columns.texts)):
        for position, name in enumerate(names):
            if name in column_of:
                roles[column_of[name]], positions[column_of[name]] = role, position
    return ColumnRoles(roles, positions)


def decode(raw: pa.Array) -> pa.Array:
    """Decode bytes as UTF-8, replacing invalid bytes."""
    if pa.types.is_string(raw.type):
        return raw
    if _is_utf8(raw):
        return raw.cast(pa.string())
    return pa.array([value.decode(errors="replace") for value in raw.to_pylist()], pa.string())


def _is_utf8(raw: pa.Array) -> bool:
    try:
        raw.cast(pa.string()).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def parse_numbers(texts: pa.Array) -> tuple[np.ndarray, dict[int, str]]:
    """Parse texts as numbers, (n,) float64, rounded to the nearest; and the reason for each that is not a number."""
    try:
        values = texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
        if np.isfinite(values).all():
            return values, {}
    except pa.ArrowInvalid:
        pass
    parsed = [parse_number(text) for text in texts.to_pylist()]
    reasons = {i: value for i, value in enumerate(parsed) if isinstance(value, str)}
    return np.array([np.nan if isinstance(value, str) else float(value) for value in parsed]), reasons


def plain_numbers(texts: pa.Array, thousands: str, decimal: str) -> pa.Array:
    """Rewrite localized numbers in Python's notation; "" for a text that is not a number in the localized one."""
    digits = rf"\d+({re.escape(thousands)}\d+)*" if thousands else r"\d+"
    point = re.escape(decimal)
    pattern = rf"^[+-]?({digits}({point}\d*)?|{point}\d+)([eE][+-]?\d+)?$"
    plain = pc.replace_substring(texts, thousands, "") if thousands else texts
    plain = pc.replace_substring(plain, decimal, ".")
    return pc.if_else(pc.match_substring_regex(texts, pattern), plain, "")


def parse_number(text: str) -> float | int | str:
    """Parse a text as a number, an int if it is written as one; or return what is wrong with it."""
    if "_" in text or not text.isascii():
        return not_a_number(text)
    try:
        number = float(text)
    except ValueError:
        return not_a_number(text)
    if not math.isfinite(number):
        return not_a_number(text, "finite ")
    return int(text) if text.lstrip("+-").isdigit() and len(text) < MOST_DIGITS else number
