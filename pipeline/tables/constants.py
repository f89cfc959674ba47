"""Readers around that of a file: for columns that it does not have, whose value is the same in all of its rows, such as
the name of its folder, for texts that must be known, since the table must match other data, and for token ids."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.errors import RowError
from ..csv.dates import YEAR_FIRST, parse_dates
from ..csv.row_batch import ABSENT, Columns, Misfit, Numbers, RowBatch, drop_rows, remedy_of
from ..csv.rows import RowReader, parse_number
from ..sequences.ids import remedy_for
from ..sequences.tokenizer import TokenReading
from ..target.labels import class_codes
from .parquet import TableReader


def without_constants(columns: Columns, constants: Mapping[str, str | None]) -> Columns:
    """The columns to read from the file itself; constant features keep their places in `x`, which the file leaves."""
    lists = (columns.texts, columns.dates, columns.required)
    texts, dates, required = (tuple(name for name in names if name not in constants) for names in lists)
    return replace(columns, texts=texts, dates=dates, required=required)


Inner = TypeVar("Inner", bound="RowReader | TableReader | ConstantReader | KnownReader")


class _AroundReader(Generic[Inner]):
    """Reads a piece by another reader, as far as that has come."""

    def __init__(self, reader: Inner) -> None:
        self.reader = reader

    @property
    def ended(self) -> bool:
        """Whether the whole piece has been read."""
        return self.reader.ended

    @property
    def position(self) -> int:
        """How far the piece has been read."""
        return self.reader.position


class ConstantReader(_AroundReader["RowReader | TableReader"]):
    """Reads rows by another reader, and adds the columns that are the same in all of them."""

    def __init__(
        self,
        reader: RowReader | TableReader,
        columns: Columns,
        numbers: Numbers,
        required: bool,
        constants: Mapping[str, str | None],
    ) -> None:
        super().__init__(reader)
        self.columns, self.numbers, self.required = columns, numbers, required
        texts = {name: constants[name] for name in columns.texts if name in constants}
        self.texts = {name: self._text(name, value) for name, value in texts.items()}
        self.values = {name: constants[name] for name in columns.features if name in constants and name not in texts}
        absent = [name for name, value in texts.items() if value is None and name in columns.required]
        self.wrong = dict.fromkeys(absent, ABSENT)
        for name, value in self.values.items():
            parsed = None if value is None else parse_number(value)
            if isinstance(parsed, str):
                self.wrong[name] = parsed
            elif parsed is None and required:
                self.wrong[name] = ABSENT

    def read(self, x: np.ndarray) -> RowBatch:
        """Read at most as many rows as fit in `x` (rows, features); at the end of the piece, no rows and no errors."""
        batch = self.reader.read(x)
        read = dict(zip(self.reader.columns.texts, batch.texts, strict=True))
        for name, text in self.texts.items():
            read[name] = pa.repeat(text, batch.rows)
        batch.texts = [read[name] for name in self.columns.texts]
        if self.wrong:
            name, reason = next(iter(self.wrong.items()))
            drop_rows(x, batch, {row: self._error(name, reason, remedy_of(reason, name)) for row in range(batch.rows)})
        if batch.rows:
            for name, value in self.values.items():
                self._place(x[: batch.rows, self.columns.places[name]], self.columns.places[name], value, batch)
        return batch

    def text_error(self, batch: RowBatch, row: int, name: str, reason: str, remedy: str) -> RowError:
        """The error for a text in a batch whose value is not allowed."""
        if name in self.texts:
            return self._error(name, reason, remedy)
        return self.reader.text_error(batch, row, name, reason, remedy)

    def _place(self, column: np.ndarray, place: int, value: str | None, batch: RowBatch) -> None:
        """Store a number in a column of `x`."""
        if value is None:
            column[:] = np.nan if self.numbers.is_float else 0
            gaps = np.stack([np.arange(batch.rows), np.full(batch.rows, place)], axis=1)
            batch.missing = np.concatenate([batch.missing, gaps])
            return
        number = parse_number(value)
        assert not isinstance(number, str)
        if self.numbers.fits_large(number) if isinstance(number, int) else self.numbers.fit(np.array([number]))[0]:
            column[:] = number
        else:
            batch.misfits.append(Misfit(number, self._error("", "", "").where))

    def _text(self, name: str, value: str | None) -> pa.Scalar:
        """A constant as text or as a date."""
        texts = pa.array([value], pa.string())
        if name in self.columns.dates:
            texts = parse_dates(texts, self.columns.formats.get(name, YEAR_FIRST))[0]
        return texts[0]

    def _error(self, name: str, reason: str, remedy: str) -> RowError:
        return RowError(self.reader.source.path, self.reader.piece.line, name, reason, remedy, unit="rows from")


class KnownReader(_AroundReader["RowReader | TableReader | ConstantReader"]):
    """Reads rows by another reader, and drops those with an unknown text, as invalid ones."""

    def __init__(self, reader: RowReader | TableReader | ConstantReader) -> None:
        super().__init__(reader)
        self.columns = reader.columns
        self.known = {name: pa.array(values, pa.string()) for name, values in self.columns.known.items()}

    def read(self, x: np.ndarray) -> RowBatch:
        """Read at most as many rows as fit in `x` (rows, features); at the end of the piece, no rows and no errors."""
        batch, wrong = self.reader.read(x), dict[int, RowError]()
        for name, values in zip(self.columns.texts, batch.texts, strict=True):
            if name in self.known:
                is_label = name not in self.columns.places
                for row, error in unknown_texts(self, batch, name, values, self.known[name], is_label):
                    wrong.setdefault(row, error)
        if wrong:
            drop_rows(x, batch, wrong)
        return batch

    def text_error(self, batch: RowBatch, row: int, name: str, reason: str, remedy: str) -> RowError:
        """The error for a text in a batch whose value is not allowed."""
        return self.reader.text_error(batch, row, name, reason, remedy)


class TokenReader(_AroundReader["RowReader | TableReader | ConstantReader | KnownReader"]):
    """Reads rows by another reader, and the token ids in their texts. Rows whose text has none are invalid."""

    def __init__(self, reader: "RowReader | TableReader | ConstantReader | KnownReader", tokens: TokenReading) -> None:
        super().__init__(reader)
        self.columns, self.tokens = reader.columns, tokens

    def read(self, x: np.ndarray) -> RowBatch:
        """Read at most as many rows as fit in `x` (rows, features); at the end of the piece, no rows and no errors."""
        batch = self.reader.read(x)
        lists = self.tokens.read(batch.texts[self.columns.texts.index(self.tokens.column)])
        if lists.wrong:
            errors = {
                row: self.text_error(batch, row, self.tokens.column, reason, remedy_for(reason))
                for row, reason in lists.wrong.items()
            }
            drop_rows(x, batch, errors)
            lists = lists.without([*errors])
        batch.tokens = lists
        return batch

    def text_error(self, batch: RowBatch, row: int, name: str, reason: str, remedy: str) -> RowError:
        """The error for a text in a batch whose value is not allowed."""
        return self.reader.text_error(batch, row, name, reason, remedy)


AnyReader = RowReader | TableReader | ConstantReader | KnownReader | TokenReader


def unknown_texts(
    reader: AnyReader,
    batch: RowBatch,
    name: str,
    values: pa.Array,
    known: pa.Array,
    is_label: bool,
) -> Iterator[tuple[int, RowError]]:
    """The rows of a batch whose text in a column is none of those that are `known`, each with its error. A missing text
    is a category, but no class."""
    codes = class_codes(values, known) if is_label else pc.index_in(values.fill_null(""), known)
    for row in np.flatnonzero(codes.is_null().to_numpy(zero_copy_only=False)).tolist():
        yield row, unknown_error(reader, batch, row, name, values[row].as_py(), is_label)


def unknown_error(
    reader: AnyReader,
    batch: RowBatch,
    row: int,
    name: str,
    value: str | None,
    is_label: bool,
) -> RowError:
    """The error for a text that does not occur in the data that this one must match."""
    remedy = "fix the row, or give unknown values their own code with --unknown code"
    shown = f"'{value}'" if value else "a missing value"
    reason = f"{shown} does not occur in the training data"
    return reader.text_error(batch, row, name, reason, "fix or remove the row" if is_label else remedy)
