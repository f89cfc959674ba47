"""The first pass: what each piece of a CSV holds, and how the pieces' findings add up.

Moments are merged pairwise in the order of the pieces (Chan, Golub and LeVeque, 1983), so that the result does not
depend on which worker read what.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..storage.errors import RowError
from ..storage.files import write_atomic
from .csv_parse import Columns, parse_piece, parse_sound_rows
from .csv_split import Piece

DISTINCT_LIMIT = 65_536  # label values kept apart; beyond this the label is a quantity


@dataclass(frozen=True)
class Moments:
    """Of each column: number of values, mean, sum of squared distances from it, least, greatest.

    Arrays are (columns,) float64.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """The moments of `values`, (rows, columns)."""
        mean = values.mean(axis=0, dtype=np.float64)
        squares = np.square(values - mean).sum(axis=0)
        return cls(len(values), mean, squares, values.min(axis=0), values.max(axis=0))

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows together."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.squares + other.squares + delta**2 * (self.count * other.count / count),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )


@dataclass(frozen=True)
class LabelScan:
    """What the label's column holds, as text: its distinct values (None: too many), and which kind fits all of them.

    `kind` is "integer", "number" or "text"; `moments` (of one column) are there unless it is text.
    """

    distinct: frozenset[str] | None
    kind: str
    moments: Moments | None

    def merged(self, other: "LabelScan") -> "LabelScan":
        kind = max(self.kind, other.kind, key=["integer", "number", "text"].index)
        distinct = None
        if self.distinct is not None and other.distinct is not None:
            joined = self.distinct | other.distinct
            distinct = joined if len(joined) <= DISTINCT_LIMIT else None
        moments = self.moments.merged(other.moments) if self.moments and other.moments else None
        return LabelScan(distinct, kind, moments)


@dataclass(frozen=True)
class PieceScan:
    """What one piece, or several together, hold."""

    rows: int
    integers: bool
    """Whether every feature is a whole number (within int64)."""
    single: bool
    """Whether every feature survives a turn through float32."""
    moments: Moments | None
    label: LabelScan | None
    key_kind: str | None
    key_width: int
    left_out: int = 0
    """Faulty rows that are not among `rows`."""

    def merged(self, other: "PieceScan") -> "PieceScan":
        left_out = self.left_out + other.left_out
        if not self.rows or not other.rows:
            return replace(self if self.rows else other, left_out=left_out)
        assert self.moments
        assert other.moments
        return PieceScan(
            self.rows + other.rows,
            self.integers and other.integers,
            self.single and other.single,
            self.moments.merged(other.moments),
            self.label.merged(other.label) if self.label and other.label else None,
            "integer" if self.key_kind == other.key_kind == "integer" else self.key_kind and "text",
            max(self.key_width, other.key_width),
            left_out,
        )


@dataclass(frozen=True)
class ScanTask:
    """Parse `piece` and say what it holds. With `faults`, a file, faulty rows are left out and listed there."""

    piece: Piece
    header: tuple[str, ...]
    features: tuple[str, ...]
    label: str | None
    key: str | None
    faults: str | None = None


def scan_piece(task: ScanTask) -> PieceScan:
    """Parse a piece. Raises RowError at its first faulty value, unless faulty rows are to be left out."""
    columns = Columns(task.header, task.features, tuple(name for name in (task.label, task.key) if name))
    left_out = 0
    try:
        table = parse_piece(task.piece, columns, {})
    except RowError:
        if task.faults is None:
            raise
        table, faults = parse_sound_rows(task.piece, columns, {})
        left_out = len(faults)
        write_atomic(Path(task.faults), list_faults(faults))
    if not table.num_rows:
        return PieceScan(0, True, True, None, None, None, 0, left_out)
    integers = all(pa.types.is_integer(table.schema.field(name).type) for name in task.features)
    values = np.stack([table.column(name).to_numpy() for name in task.features], axis=1)
    single = bool((values == values.astype(np.float32)).all())
    key = table.column(task.key) if task.key else None
    return PieceScan(
        table.num_rows,
        integers,
        single,
        Moments.of(values.astype(np.float64)),
        scan_label(table.column(task.label)) if task.label else None,
        None if key is None else _kind(key),
        0 if key is None else pc.max(pc.binary_length(key)).as_py(),
        left_out,
    )


def list_faults(faults: Sequence[RowError]) -> bytes:
    """Faulty rows as lines of CSV: file, line, column (empty where it is not the fault of one), reason."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((f.source, f.line, f.column or "", f.reason) for f in faults)
    return text.getvalue().encode(errors="backslashreplace")


def scan_label(column: pa.ChunkedArray) -> LabelScan:
    """What a column of text holds."""
    distinct = pc.unique(column)
    kind = _kind(distinct)
    moments = None if kind == "text" else Moments.of(column.cast(pa.float64()).to_numpy()[:, None])
    return LabelScan(frozenset(distinct.to_pylist()) if len(distinct) <= DISTINCT_LIMIT else None, kind, moments)


def _kind(column: pa.ChunkedArray | pa.Array) -> str:
    for kind, target in (("integer", pa.int64()), ("number", pa.float64())):
        try:
            values = column.cast(target)
        except pa.ArrowInvalid:
            continue
        if kind == "integer" or pc.all(pc.is_finite(values)).as_py():
            return kind
    return "text"


def merge_scans(scans: list[PieceScan]) -> PieceScan:
    """All pieces together, merged in their order."""
    return reduce(PieceScan.merged, scans)
