"""Columns that a file does not have: their value is the same in all of its rows, such as the name of its folder."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ...storage.errors import RowError
from ..csv.dates import YEAR_FIRST, parse_dates
from ..csv.row_batch import ABSENT, Columns, Misfit, Numbers, RowBatch, drop_rows, remedy_of
from ..csv.rows import RowReader, parse_number
from .parquet import TableReader


def without_constants(columns: Columns, constants: Mapping[str, str | None]) -> Columns:
    """The columns to read from the file itself; constant features keep their places in `x`, which the file leaves."""
    lists = (columns.texts, columns.dates, columns.required)
    texts, dates, required = (tuple(name for name in names if name not in constants) for names in lists)
    return replace(columns, texts=texts, dates=dates, required=required)


class ConstantReader:
    """Reads rows by another reader, and adds the columns that are the same in all of them."""

    def __init__(
        self,
        reader: RowReader | TableReader,
        columns: Columns,
        numbers: Numbers,
        required: bool,
        constants: Mapping[str, str | None],
    ) -> None:
        self.reader, self.columns, self.numbers, self.required = reader, columns, numbers, required
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

    @property
    def ended(self) -> bool:
        """Whether the whole piece has been read."""
        return self.reader.ended

    @property
    def position(self) -> int:
        """How far the piece has been read."""
        return self.reader.position

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
