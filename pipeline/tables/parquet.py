"""Parquet files as sources: each row group is a piece, and its columns are treated like the fields of a CSV file."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ...storage.errors import RowError, SourceError
from ...storage.format import Source
from ...storage.places.locate import locate
from ..csv.amounts import AMOUNT, read_amounts
from ..csv.dates import YEAR_FIRST
from ..csv.row_batch import ABSENT, Columns, Misfit, Numbers, Piece, RowBatch, drop_rows, remedy_of
from .arrow_values import as_text, decoded, is_text, kind_of_type, read_dates, read_figures

SAMPLE_ROWS = 100


@dataclass(frozen=True)
class ParquetTable:
    """One Parquet file and its column names. A piece starts and stops at row group indices, and its lines are rows.

    `index` are the columns that pandas has written as the index of a DataFrame, `kinds` what the types of columns hold
    (see `kind_of_type`).
    """

    path: str
    header: tuple[str, ...]
    index: tuple[str, ...] = ()
    kinds: dict[str, str] = field(default_factory=dict)

    @property
    def in_seconds(self) -> tuple[str, ...]:
        """The columns of times of day and durations."""
        return tuple(name for name, kind in self.kinds.items() if kind == "seconds")

    def describe(self) -> str:
        """A description for the console."""
        return "Parquet"


def open_table(source: Source) -> tuple[ParquetTable, tuple[Piece, ...], list[list[str]]]:
    """Open a file: its columns, its pieces and the values of its first rows as text. A part of a folder may have no
    rows, and then no pieces. Raises SourceError."""
    with read_in_words(source.path), opened(source.path) as file:
        groups = range(file.metadata.num_row_groups)
        counts = [file.metadata.row_group(group).num_rows for group in groups]
        firsts = [0, *itertools.accumulate(counts)]
        first = next(file.iter_batches(SAMPLE_ROWS), None)
        schema = file.schema_arrow
        header = tuple(schema.names)
        noted = (file.schema_arrow.pandas_metadata or {}).get("index_columns", [])
    index = tuple(name for name in noted if isinstance(name, str) and name in header)  # a range is a dict
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise SourceError(f"{source.path}: two columns are named '{twice[0]}'; rename one of them")
    kinds = {field.name: kind_of_type(field.type) for field in schema}
    columns = [_shown(column) for column in first.columns] if first else []
    pieces = [Piece(g, g + 1, firsts[g] + 1, counts[g]) for g in groups if counts[g]]
    return (
        ParquetTable(source.path, header, index, kinds),
        tuple(pieces),
        [list(row) for row in zip(*columns, strict=True)],
    )


def _shown(column: pa.Array) -> list[str]:
    """The values of a column of text, empty where one is missing; of other types only whether a value is there."""
    column = decoded(column)
    if is_text(column.type):
        return list(as_text(column)[0].fill_null("").to_pylist())
    return ["" if missing else "true" for missing in column.is_null().to_pylist()]


@contextmanager
def read_in_words(path: str) -> Iterator[None]:
    """Raise SourceError if Arrow cannot read a file: it is damaged, encrypted or of an unknown kind."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # an error of the disk
            raise
        raise SourceError(f"{path} cannot be read as Parquet ({error}); download or write it again") from None


def opened(path: str) -> parquet.ParquetFile:
    """Open a file or an object as Parquet. Raises SourceError if it is not a Parquet file."""
    try:
        return parquet.ParquetFile(locate(path).file_argument())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(f"{path} is not a complete Parquet file ({error}); download or write it again") from None


class TableReader:
    """Reads the rows of one row group in batches, as `RowReader` does for a piece of a CSV file."""

    def __init__(
        self,
        source: ParquetTable,
        piece: Piece,
        columns: Columns,
        numbers: Numbers,
        required: bool = False,
        skip: int = 0,
    ) -> None:
        self.source, self.piece, self.columns, self.numbers, self.required = source, piece, columns, numbers, required
        self.position, self.skip = 0, skip
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._rest: pa.RecordBatch | None = None

    @property
    def ended(self) -> bool:
        """Whether the whole piece has been read."""
        return self.position >= self.piece.rows

    def read(self, x: np.ndarray) -> RowBatch:
        """Read at most as many rows as fit in `x` (rows, features); at the end of the piece, no rows and no errors."""
        arrow = self._next(len(x))
        batch = RowBatch(arrow.num_rows, [], np.empty((arrow.num_rows, len(self.columns.texts)), np.int64), _none(), [])
        batch.begins[:] = (self.position + np.arange(arrow.num_rows))[:, None]
        wrong: dict[int, RowError] = {}
        for place, name in enumerate(self.columns.features):
            if name not in self.columns.texts:
                self._place(arrow.column(name), name, place, x, batch, wrong)
        batch.texts = [self._texts(arrow.column(name), name, wrong) for name in self.columns.texts]
        self.position += arrow.num_rows
        if wrong:
            drop_rows(x, batch, wrong)
        return batch

    def text_error(self, batch: RowBatch, row: int, name: str, reason: str, remedy: str) -> RowError:
        """The error for a text in a batch whose value is not allowed."""
        return self._error(int(batch.begins[row, 0]), name, reason, remedy)

    def _next(self, rows: int) -> pa.RecordBatch:
        """The next rows, at most `rows`."""
        if self._batches is None:
            wanted = [*dict.fromkeys((*self.columns.features, *self.columns.texts))]
            file = opened(self.source.path)
            self._batches = file.iter_batches(rows, row_groups=[self.piece.start], columns=wanted)
        while self._rest is None or not self._rest.num_rows:
            with read_in_words(self.source.path):
                self._rest = next(self._batches)
            passed = min(self.skip, self._rest.num_rows)
            self._rest = self._rest.slice(passed)
            self.skip -= passed
            self.position += passed
        arrow, self._rest = self._rest.slice(0, rows), self._rest.slice(rows)
        return arrow

    def _place(
        self, column: pa.Array, name: str, place: int, x: np.ndarray, batch: RowBatch, wrong: dict[int, RowError]
    ) -> None:
        """Store a column of numbers in `x`."""
        column = decoded(column)
        gaps = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        if len(gaps) and not self.required:
            batch.missing = np.concatenate([batch.missing, np.stack([gaps, np.full(len(gaps), place)], axis=1)])
        elif len(gaps):
            self._complain(dict.fromkeys(gaps.tolist(), ABSENT), name, wrong)
        figures = read_figures(column, self.columns.formats.get(name) == AMOUNT)
        if figures is None:
            raise self._unsupported(column.type, name)
        self._complain(figures.reasons, name, wrong)
        values, large = figures.values, figures.large
        fitting = self.numbers.fit(values) if values.dtype.kind == "f" else self.numbers.fit_whole(values)
        with np.errstate(invalid="ignore", over="ignore"):
            x[: len(values), place] = values
        misfits: dict[int, float | int] = {row: values[row].item() for row in _ends(values, ~fitting)}
        for row, value in large.items():
            if self.numbers.fits_large(value):
                x[row, place] = value
            else:
                misfits[row] = value
        batch.misfits += [
            Misfit(value, self._error(self.position + row, name, "").where) for row, value in misfits.items()
        ]
        x[gaps, place] = np.nan if self.numbers.is_float else 0

    def _texts(self, column: pa.Array, name: str, wrong: dict[int, RowError]) -> pa.Array:
        """A column converted to text or dates."""
        column, way = decoded(column), self.columns.formats.get(name, YEAR_FIRST)
        try:
            found = read_dates(column, way) if name in self.columns.dates else as_text(column)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            found = None
        if found is None:
            raise self._unsupported(column.type, name)
        values, reasons = found
        if way == AMOUNT:
            values, wrong_amounts = read_amounts(values)
            reasons |= wrong_amounts
        self._complain(reasons, name, wrong)
        if name in self.columns.required and values.null_count:
            absent = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)).tolist()
            self._complain({row: ABSENT for row in absent if row not in reasons}, name, wrong)
        return values

    def _complain(self, reasons: Mapping[int, str], name: str, wrong: dict[int, RowError]) -> None:
        """Record why rows are invalid."""
        for row, reason in reasons.items():
            wrong.setdefault(row, self._error(self.position + row, name, reason))

    def _unsupported(self, kind: pa.DataType, name: str) -> SourceError:
        remedy = f"use numbers, text or dates, or drop the column with --ignore '{name}'"
        if name in self.columns.dates:
            remedy = f"remove --date '{name}'"
        return SourceError(f"{self.source.path}, column '{name}': the type {kind} is not supported; {remedy}")

    def _error(self, position: int, column: str, reason: str, remedy: str = "") -> RowError:
        place = self.source.path, self.piece.line + position, column
        return RowError(*place, reason, remedy or remedy_of(reason, column), unit="row")


def _ends(values: np.ndarray, chosen: np.ndarray) -> list[int]:
    """The rows of the smallest and the largest of the chosen values, which suffice to know what they need."""
    rows = np.flatnonzero(chosen)
    return [] if not len(rows) else sorted({int(rows[values[rows].argmin()]), int(rows[values[rows].argmax()])})


def _none() -> np.ndarray:
    return np.zeros((0, 2), np.int64)
