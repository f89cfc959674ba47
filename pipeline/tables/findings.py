"""What pieces of the data hold, as far as the schema depends on it, and how the pieces' findings add up."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np
import pyarrow as pa

from ...storage.errors import RowError
from ...storage.files import write_atomic
from ...storage.object_path import locate
from ..csv.kernels import extend_ranges
from ..csv.row_batch import Columns, Numbers, Piece
from ..target.labels import TextFindings
from .readers import SourceTable, open_reader

SCRATCH_VALUES = 1 << 17  # a megabyte: what is looked at is still in the core's cache
DAY = 86_400


@dataclass(frozen=True)
class Findings:
    """What one piece, or several together, hold.

    Arrays are one value a feature: `low`, `high` and `total` float64 (dates in seconds since 1970; infinite and 0
    where there is no number), `missing` int64. `has_fractions`: whether any number has decimals; `needs_float64`: whether any is not
    exactly a float32; `beyond_exact`: least and greatest whole number beyond 2⁵³; `with_time_of_day`: date columns with times of day.
    """

    rows: int
    low: np.ndarray
    high: np.ndarray
    total: np.ndarray
    missing: np.ndarray
    has_fractions: bool = False
    needs_float64: bool = False
    beyond_exact: tuple[int, ...] = ()
    with_time_of_day: frozenset[str] = frozenset()
    texts: dict[str, TextFindings] = field(default_factory=dict)
    skipped: int = 0
    """Faulty rows that are not among `rows`."""

    def merged(self, other: "Findings") -> "Findings":
        texts = {**self.texts, **other.texts}
        for name in self.texts.keys() & other.texts.keys():
            texts[name] = self.texts[name].merged(other.texts[name])
        beyond_exact = (*self.beyond_exact, *other.beyond_exact)
        return Findings(
            self.rows + other.rows,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.total + other.total,
            self.missing + other.missing,
            self.has_fractions or other.has_fractions,
            self.needs_float64 or other.needs_float64,
            (min(beyond_exact), max(beyond_exact)) if beyond_exact else (),
            self.with_time_of_day | other.with_time_of_day,
            texts,
            self.skipped + other.skipped,
        )


@dataclass(frozen=True)
class ScanTask:
    """Say what `piece` holds, or its first rows in about `bytes` of text.

    With `gaps` numbers may be missing; with `errors`, a file, faulty rows are left out and listed there.
    """

    table: SourceTable
    piece: Piece
    columns: Columns
    allow_missing: bool
    skip_list: str | None = None
    bytes: int | None = None


def scan_piece(task: ScanTask) -> Findings:
    """Carry out a task. Raises RowError at the first faulty row, unless such rows are to be left out."""
    features = task.columns.features
    fills = np.full(len(features), np.nan) if task.allow_missing else None
    reader = open_reader(task.table, task.piece, task.columns, Numbers("float64"), fills)
    scratch = np.full((max(16, SCRATCH_VALUES // len(features)), len(features)), np.nan)
    found, errors = [], []
    while not reader.ended and (task.bytes is None or reader.position < task.bytes):
        batch = reader.read(scratch)
        if batch.errors and task.skip_list is None:
            raise batch.errors[0]
        errors += batch.errors
        if batch.rows:
            found.append(_findings(scratch[: batch.rows], batch.texts, batch.missing, batch.misfits, task.columns))
    if errors:
        assert task.skip_list is not None
        write_atomic(locate(task.skip_list), format_errors(errors))
    return replace(merge_findings(found, len(features)), skipped=len(errors))


def _findings(
    x: np.ndarray, texts: Sequence[pa.Array], gaps: np.ndarray, misfits: Sequence[float | int], columns: Columns
) -> Findings:
    count = len(columns.features)
    found: dict[str, TextFindings] = {}
    missing = np.bincount(gaps[:, 1], minlength=count)
    with_time_of_day = set()
    for name, values in zip(columns.texts, texts, strict=True):
        if name in columns.features:
            missing[columns.features.index(name)] += values.null_count
            if name not in columns.dates:
                values = values.fill_null("")  # a missing category is one of its own
        if name not in columns.dates:
            found[name] = TextFindings.of(values)
            continue
        seconds = date_seconds(values)
        x[:, columns.features.index(name)] = seconds
        if (seconds[~np.isnan(seconds)] % DAY).any():
            with_time_of_day.add(name)
    low, high, total = np.full(count, np.inf), np.full(count, -np.inf), np.zeros(count)
    has_fractions, needs_float64 = np.zeros(count, bool), np.zeros(count, bool)
    extend_ranges(x, low, high, total, has_fractions, needs_float64)
    beyond_exact = tuple(int(value) for value in misfits)  # a float64 holds all but beyond_exact whole numbers
    ends = (min(beyond_exact), max(beyond_exact)) if beyond_exact else ()
    return Findings(
        len(x),
        low,
        high,
        total,
        missing,
        bool(has_fractions.any()),
        bool(needs_float64.any()),
        ends,
        frozenset(with_time_of_day),
        found,
    )


def date_seconds(dates: pa.Array) -> np.ndarray:
    """Seconds since 1970 of timestamps, (n,) float64, NaN where one is missing."""
    seconds: np.ndarray = dates.cast(pa.int64()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return seconds.copy()


def merge_findings(findings: Sequence[Findings], features: int) -> Findings:
    """All together, merged in their order."""
    nothing = Findings(
        0, np.full(features, np.inf), np.full(features, -np.inf), np.zeros(features), np.zeros(features, np.int64)
    )
    return reduce(Findings.merged, findings, nothing)


def format_errors(errors: Sequence[RowError]) -> bytes:
    """Faulty rows as lines of CSV: file, line, column (empty where it is not the fault of one), reason."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((f.source, f.line, f.column or "", f.reason) for f in errors)
    return text.getvalue().encode(errors="backslashreplace")
