"""Parquet files as sources: each row group is a piece, and its columns are treated like the fields of a CSV file."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ...storage.errors import RowError, SourceError
from ...storage.places.locate import locate
from ..csv.amounts import AMOUNT, read_amounts
from ..csv.dates import YEAR_FIRST
from ..csv.names import renamed_columns, says_renamed, unique_names
from ..csv.row_batch import ABSENT, Columns, Misfit, Numbers, Piece, RowBatch, add_error, drop_rows, remedy_of
from ..sequences.ids import check_tokens
from ..target.beside import index_of_frame
from .arrow import (
    SAMPLE_ROWS,
    Format,
    Path,
    PlainColumns,
    damage_in_words,
    is_stream,
    open_pieces,
    plain_columns,
    read_batch,
    says_parts,
)
from .arrow_values import as_text, decoded, is_text, kind_of_type, read_dates, read_figures

DROP = "drop the column with --ignore"


@dataclass(frozen=True)
class ParquetTable:
    """One Parquet file and its column names. A piece starts and stops at row group indices, and its lines are rows.
    `place` is where the file is if that is not `path`, because it was unpacked; `nested` is the way to each column that
    is a part of a struct or a list. `renamed` are the columns whose names occur several times in the file. A table in
    another `format` is read in the same way: its pieces are record batches, or bytes of an unpacked copy.

    `index` are the columns that pandas has written as the index of a DataFrame, `kinds` what the types of columns hold
    (see `kind_of_type`). `constants` are columns that the file does not have and whose value is the same in all rows,
    None if it is missing.
    """

    path: str
    header: tuple[str, ...]
    index: tuple[str, ...] = ()
    kinds: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str | None] = field(default_factory=dict)
    place: str = ""
    nested: dict[str, Path] = field(default_factory=dict)
    renamed: tuple[str, ...] = ()
    format: Format = "Parquet"

    @property
    def in_seconds(self) -> tuple[str, ...]:
        """The columns of times of day and durations."""
        return tuple(name for name, kind in self.kinds.items() if kind == "seconds")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return (*self.header, *self.constants)

    def describe(self) -> str:
        """A description for the console."""
        lists = {str(way[0]): None for way in self.nested.values()}
        return f"{self.format}{says_parts(lists)}{says_renamed(self.renamed)}"


def open_table(
    path: str, place: str = "", whole: str | None = None
) -> tuple[ParquetTable, tuple[Piece, ...], list[list[str]]]:
    """Open a file, at `place` if it was unpacked: its columns, its pieces and the values of its first rows as text. A
    part of a folder may have no rows, and then no pieces. The lists of the column `whole` stay one column. Raises
    SourceError."""
    with damage_in_words(path, "Parquet"), opened(path, place) as file:
        groups = range(file.metadata.num_row_groups)
        counts = [file.metadata.row_group(group).num_rows for group in groups]
        firsts = [0, *itertools.accumulate(counts)]
        first = next(file.iter_batches(SAMPLE_ROWS), None)
        table, sample = describe_table(path, place, "Parquet", file.schema_arrow, first, whole)
    return table, tuple(Piece(g, g + 1, firsts[g] + 1, counts[g]) for g in groups if counts[g]), sample


def open_other(
    path: str, place: str, unpacked: str, kind: Format, suffix: str = "", whole: str | None = None
) -> tuple[ParquetTable, tuple[Piece, ...], list[list[str]]]:
    """Open an Arrow file, or JSON lines compressed as the suffix says; see `open_table`. What cannot be read from the
    middle is stored in the file `unpacked`."""
    if kind == "Arrow" and is_stream(path, place):
        kind = "Arrow stream"
    schema, pieces, first, stored = open_pieces(path, place, unpacked, kind, suffix)
    table, sample = describe_table(path, stored, kind, schema, first, whole)
    return table, tuple(pieces), sample


def describe_table(
    path: str, place: str, kind: Format, schema: pa.Schema, first: pa.RecordBatch | None, whole: str | None = None
) -> tuple[ParquetTable, list[list[str]]]:
    """The columns of a file, and the values of its first rows as text."""
    names, paths = unique_names(schema.names), plain_columns(schema, first, whole)
    columns = dict[str, pa.Array]()
    types = dict(zip(names, schema.types, strict=True))
    if whole in types:
        check_tokens(path, whole, types[whole])
    if first:
        plain = PlainColumns(first, names, paths)
        columns = {name: plain.column(name) for name in paths}
        types = {name: column.type for name, column in columns.items()}
    kinds = {name: kind_of_type(one) for name, one in types.items()}
    nested, renamed = {name: way for name, way in paths.items() if way != (name,)}, renamed_columns(schema.names)
    table = ParquetTable(
        path, tuple(paths), index_of_frame(schema), kinds, place=place, nested=nested, renamed=renamed, format=kind
    )
    return table, [list(row) for row in zip(*map(_shown, columns.values()), strict=True)]


def _shown(column: pa.Array) -> list[str]:
    """The values of a column of text, empty where one is missing; of other types only whether a value is there."""
    column = decoded(column)
    if is_text(column.type):
        return list(as_text(column)[0].fill_null("").to_pylist())
    return ["" if missing else "true" for missing in column.is_null().to_pylist()]


def opened(path: str, place: str = "") -> parquet.ParquetFile:
    """Open a file or an object, at `place` if it was unpacked, as Parquet. Raises SourceError if it is none."""
    with damage_in_words(path, "Parquet"):
        return parquet.ParquetFile(locate(place or path).file_argument(), page_checksum_verification=True)


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
        self._names: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the whole piece has been read."""
        return self.position >= self.piece.rows

    def read(self, x: np.ndarray) -> RowBatch:
        """Read at most as many rows as fit in `x` (rows, features); at the end of the piece, no rows and no errors."""
        arrow = self._next(len(x))
        batch = RowBatch(arrow.num_rows, [], np.empty((arrow.num_rows, len(self.columns.texts)), np.int64), _none(), [])
        batch.begins[:] = (self.position + np.arange(arrow.num_rows))[:, None]
        plain = PlainColumns(arrow, self._names, self.source.nested)
        wrong: dict[int, RowError] = {}
        there, texts = {*self.source.header}, {*self.columns.texts}
        for place, name in enumerate(self.columns.features):
            if name in there and name not in texts:
                self._place(plain.column(name), name, place, x, batch, wrong)
        batch.texts = [self._texts(plain.column(name), name, wrong) for name in self.columns.texts]
        for row, (name, reason) in plain.wrong.items():
            remedy = f"{DROP} '{name}', or skip such rows with --on-error skip"
            wrong[row] = self._error(self.position + row, name, reason, remedy)
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
            with damage_in_words(self.source.path, self.source.format):
                self._batches = self._open(rows)
        while self._rest is None or not self._rest.num_rows:
            with damage_in_words(self.source.path, self.source.format):
                self._rest = next(self._batches, None)
            if self._rest is None:
                raise SourceError(f"{self.source.path} has fewer rows than it says; download or write it again")
            passed = min(self.skip, self._rest.num_rows)
            self._rest = self._rest.slice(passed)
            self.skip -= passed
            self.position += passed
        arrow, self._rest = self._rest.slice(0, rows), self._rest.slice(rows)
        return arrow

    def _open(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The batches of the columns of the file that are needed."""
        ways = (self.source.nested.get(name, (name,)) for name in (*self.columns.features, *self.columns.texts))
        used = {str(way[0]) for way in ways}
        if self.source.format != "Parquet":
            batch = read_batch(self.source.format, self.source.place, self.piece, used)
            self._names = unique_names(batch.schema.names)
            return iter([batch])
        file = opened(self.source.path, self.source.place)
        names = file.schema_arrow.names
        self._names = unique_names(names)
        chosen = None  # all columns, if names do not say which one is meant
        if self._names == tuple(names):
            self._names = tuple(name for name in names if name in used) or self._names[:1]
            chosen = list(self._names)
        batches: Iterator[pa.RecordBatch] = file.iter_batches(rows, row_groups=[self.piece.start], columns=chosen)
        return batches

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
            add_error(wrong, row, self._error(self.position + row, name, reason))

    def _unsupported(self, kind: pa.DataType, name: str) -> SourceError:
        remedy = f"{DROP} '{name}', or write the parts that you need as columns of their own"
        if name in self.columns.dates:
            remedy = f"remove --date '{name}'"
        return SourceError(
            f"{self.source.path}, column '{name}': values of the type {kind} cannot be columns; {remedy}"
        )

    def _error(self, position: int, column: str, reason: str, remedy: str = "") -> RowError:
        place = self.source.path, self.piece.line + position, column
        return RowError(*place, reason, remedy or remedy_of(reason, column), unit="row")


def _ends(values: np.ndarray, chosen: np.ndarray) -> list[int]:
    """The rows of the smallest and the largest of the chosen values, which suffice to know what they need."""
    rows = np.flatnonzero(chosen)
    return [] if not len(rows) else sorted({int(rows[values[rows].argmin()]), int(rows[values[rows].argmax()])})


def _none() -> np.ndarray:
    return np.zeros((0, 2), np.int64)
