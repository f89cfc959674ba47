"""Findings: the properties of the data on which the schema depends, found piece by piece and merged."""

import csv
import io
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import accumulate, islice
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ...storage.errors import RowError
from ...storage.format.schema import Schema
from ...storage.places.locate import locate
from ..csv.kernels import extend_ranges
from ..csv.row_batch import Columns, Misfit, Numbers, Piece, RowBatch, is_unlabelled
from ..sequences.form import TokenFindings
from ..sequences.tokenizer import TokenReading
from ..target.beside import date_seconds, finest, unit_of
from ..target.labels import DISTINCT_LIMIT, TextFindings
from ..target.plan import StoredPlan
from .constants import unknown_texts
from .readers import Reader, SourceTable, open_reader, tables_from_json, tables_to_json

SCRATCH_VALUES = 1 << 17  # a megabyte, which stays in the core's cache
TOKEN_ROWS = 1 << 11  # of texts that are tokenized at once
VECTOR_LIMIT = 4  # distinct values of a number of a vector that are tracked: enough to tell zeros and ones


@dataclass(frozen=True)
class Findings:
    """The properties of one piece, or of several combined.

    Arrays have one value per feature: `low` and `high` are float64 (dates in seconds since 1970; infinite if there is
    no number), `missing` is int64, `has_fractions` (bool) is whether a number has a fractional part, and
    `needs_float64` (bool) whether a whole number is not exact in float32. `beyond_exact`: the smallest and largest
    integers beyond 2⁵³; `units`: the coarsest unit in which each date column is whole, of UNITS.
    """

    rows: int
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray
    has_fractions: np.ndarray
    needs_float64: np.ndarray
    beyond_exact: tuple[Misfit, ...] = ()
    units: dict[str, str] = field(default_factory=dict)
    texts: dict[str, TextFindings] = field(default_factory=dict)
    skipped: tuple[int, ...] = ()
    """The positions of the invalid rows, which `rows` does not include, among all rows."""
    lengths: TokenFindings = field(default_factory=TokenFindings)

    def merged(self, other: "Findings") -> "Findings":
        """Both together, except what was skipped; see `merge_findings`."""
        texts = {**self.texts, **other.texts}
        for name in self.texts.keys() & other.texts.keys():
            texts[name] = self.texts[name].merged(other.texts[name])
        beyond_exact = (*self.beyond_exact, *other.beyond_exact)
        return Findings(
            self.rows + other.rows,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.missing + other.missing,
            self.has_fractions | other.has_fractions,
            self.needs_float64 | other.needs_float64,
            (min(beyond_exact), max(beyond_exact)) if beyond_exact else (),
            {name: finest(self.units.get(name), other.units.get(name)) for name in {**self.units, **other.units}},
            texts,
            lengths=self.lengths.merged(other.lengths),
        )

    def of_features(self, positions: Sequence[int]) -> "Findings":
        """The findings for some of the features."""
        arrays = ("low", "high", "missing", "has_fractions", "needs_float64")
        return replace(self, **{name: getattr(self, name)[list(positions)] for name in arrays})


@dataclass(frozen=True)
class ScanPlan:
    """What all tasks of a scan need: the tables, and the columns to read. With `required`, no number may be missing.
    With `skip`, invalid rows are skipped, otherwise only those that have no value of one of the `labels`. Those in
    `vector` are the numbers of a vector, whose distinct values would fill the memory. `tokens` are read from a column,
    of which at most `length` are kept of a row."""

    tables: Sequence[SourceTable]
    columns: Columns
    required: bool
    skip: bool
    labels: Sequence[str]
    vector: Sequence[str] = ()
    tokens: TokenReading | None = None
    length: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "tables": tables_to_json(self.tables)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        tables, columns = tables_from_json(value["tables"]), Columns.from_json(value["columns"])
        tokens = value["tokens"] and TokenReading.from_json(value["tokens"])
        return cls(**{**value, "tables": tables, "columns": columns, "tokens": tokens})


@dataclass(frozen=True)
class ScanTask:
    """Scan `piece` of the table with that index, or its first rows in about `bytes` of text.

    Rows that are skipped are listed in the file `skip_list`; without one, none are.
    """

    plan: StoredPlan[ScanPlan]
    table: int
    piece: Piece
    skip_list: str | None = None
    bytes: int | None = None


def scan_piece(task: ScanTask) -> Findings:
    """Run a task. Raises RowError at the first invalid row that is not to be skipped."""
    plan = task.plan.load()
    columns, features = plan.columns, plan.columns.features
    table, tokens = plan.tables[task.table], plan.tokens
    reader = open_reader(table, task.piece, columns, Numbers("float64"), plan.required, tokens=tokens)
    scratch = np.full((TOKEN_ROWS if tokens else max(16, SCRATCH_VALUES // len(features)), len(features)), np.nan)
    found, errors, skipped, rows = [], [], [], 0
    while not reader.ended and (task.bytes is None or reader.position < task.bytes):
        batch = reader.read(scratch)
        for error in batch.errors if not plan.skip else ():
            if task.skip_list is None or not is_unlabelled(error, plan.labels):
                raise error
        errors += batch.errors
        if batch.errors:
            skipped += [rows + row for row in batch.invalid_rows()]
        rows += batch.rows + len(batch.errors)
        if batch.rows:
            found.append(_findings(scratch[: batch.rows], batch, columns, {*plan.vector}))
            if tokens:
                found[-1] = replace(found[-1], lengths=TokenFindings.of(batch.tokens, plan.length))
    if errors:
        assert task.skip_list is not None
        locate(task.skip_list).write(format_errors(errors))
    return replace(merge_findings(found, len(features)), skipped=tuple(skipped))


@dataclass(frozen=True)
class ErrorTask:
    """Find the errors in some pieces of a table, at most `most`. Text that a column of `like` does not have is an
    error; `unknown` allows it in features."""

    table: SourceTable
    pieces: tuple[Piece, ...]
    columns: Columns
    required: bool
    like: Schema | None
    unknown: bool
    most: int
    tokens: TokenReading | None = None


def find_errors(task: ErrorTask) -> list[RowError]:
    """Run a task."""
    features = task.columns.features
    found = list[RowError]()
    scratch = np.empty((TOKEN_ROWS if task.tokens else max(16, SCRATCH_VALUES // len(features)), len(features)))
    for piece in task.pieces:
        reader = open_reader(task.table, piece, task.columns, Numbers("float64"), task.required, tokens=task.tokens)
        while not reader.ended and len(found) < task.most:
            batch = reader.read(scratch)
            errors = [*batch.errors, *(_unknown_errors(reader, batch, task, task.like) if task.like else ())]
            found += sorted(errors, key=lambda error: error.line)
    return found[: task.most]


def _unknown_errors(reader: Reader, batch: RowBatch, task: ErrorTask, like: Schema) -> Iterator[RowError]:
    """The errors of the texts in a batch that do not occur in `like`."""
    labels = like.labels if like.classes else ()
    for name, values in zip(task.columns.texts, batch.texts, strict=True):
        if name in labels:
            known = like.classes
        elif name in like.categories and not task.unknown:
            known = like.categories[name]
        else:
            continue
        found = unknown_texts(reader, batch, name, values, pa.array(known, pa.string()), name in labels)
        yield from (error for _, error in islice(found, task.most))


def _findings(x: np.ndarray, batch: RowBatch, columns: Columns, vector: Container[str]) -> Findings:
    count = len(columns.features)
    found: dict[str, TextFindings] = {}
    missing = np.bincount(batch.missing[:, 1], minlength=count)
    units = dict[str, str]()
    for name, values in zip(columns.texts, batch.texts, strict=True):
        place = columns.places.get(name)
        if name in columns.sequences:
            continue
        if place is not None:
            missing[place] += values.null_count
            if name not in columns.dates:
                values = values.fill_null("")  # a missing category is a category
        if name not in columns.dates:
            found[name] = TextFindings.of(values, VECTOR_LIMIT if name in vector else DISTINCT_LIMIT)
            continue
        units[name] = unit_of(values)
        if place is not None:
            x[:, place] = date_seconds(values)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    has_fractions, needs_float64 = np.zeros(count, bool), np.zeros(count, bool)
    extend_ranges(x, low, high, has_fractions, needs_float64)
    for name in units.keys() & columns.places.keys():
        needs_float64[columns.places[name]] |= has_fractions[columns.places[name]]
    misfits = batch.misfits  # integers: all other numbers fit a float64
    ends = (min(misfits), max(misfits)) if misfits else ()
    return Findings(
        len(x),
        low,
        high,
        missing,
        has_fractions,
        needs_float64,
        ends,
        units,
        found,
    )


def merge_findings(findings: Sequence[Findings], features: int) -> Findings:
    """Merge findings in the given order."""
    starts = accumulate((one.rows + len(one.skipped) for one in findings), initial=0)
    skipped = tuple(start + row for start, one in zip(starts, findings, strict=False) for row in one.skipped)
    return replace(reduce(Findings.merged, findings, no_findings(features)), skipped=skipped)


def no_findings(features: int) -> Findings:
    """The findings for zero rows."""
    low, high = np.full(features, np.inf), np.full(features, -np.inf)
    return Findings(0, low, high, np.zeros(features, np.int64), np.zeros(features, bool), np.zeros(features, bool))


def format_errors(errors: Sequence[RowError]) -> bytes:
    """Invalid rows as lines of CSV: file, line, column (empty if the problem is not in a single column), reason."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((f.source, f.line, f.column or "", f.reason) for f in errors)
    return text.getvalue().encode(errors="backslashreplace")
