"""The input and output types of row readers, shared by CSV and Parquet."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa

from ...storage.errors import RowError
from .amounts import find_amounts
from .kernels import LARGEST_EXACT


@dataclass(frozen=True)
class Piece:
    """Whole rows of a source table: bytes `start` to `stop` of its file; the first row is at line `line` of the source.

    `rows` includes invalid rows.
    """

    start: int
    stop: int
    line: int
    rows: int


NEW = "known", "sequences"  # what earlier versions did not store
ABSENT = "the value is missing"
NOT_UTF8 = "the text is not UTF-8"


def is_unlabelled(error: RowError, labels: Sequence[str]) -> bool:
    """Whether all that is known to be wrong with a row is that it has no value of one of these labels."""
    return error.reason == ABSENT and error.column in labels


@dataclass(frozen=True)
class Columns:
    """The columns to read from a source table.

    `features` are the columns of `x` in this order; `texts` are kept as text, and may include features (the caller
    fills their columns of `x`). Those in `dates` become timestamps. A text in `required` must not be missing. `formats`
    are the ways in which dates are written, unless they begin with the year (see `dates.py`), and AMOUNT for columns
    whose numbers are written with a currency, a percent sign or parentheses. With `known`, a row is invalid whose text
    in a column is none of these. The texts of `sequences` hold token ids, or become some.
    """

    features: tuple[str, ...]
    texts: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    formats: dict[str, str] = field(default_factory=dict)
    known: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sequences: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        names = {name: tuple(found) for name, found in value.items() if name not in ("formats", "known")}
        known = {name: tuple(found) for name, found in value.get("known", {}).items()}
        return cls(**names, formats=value.get("formats", {}), known=known)

    def to_json(self) -> dict[str, Any]:
        """The columns as stored with a conversion: as by earlier versions, unless new ones are used."""
        names = [one.name for one in fields(self) if one.name not in NEW or getattr(self, one.name)]
        return {name: getattr(self, name) for name in names}

    @cached_property
    def places(self) -> dict[str, int]:
        """The positions of the features by name."""
        return {name: place for place, name in enumerate(self.features)}

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all columns."""
        return frozenset((*self.features, *self.texts))


class Misfit(NamedTuple):
    """A number that a dtype cannot represent, and where it is: the file, the line or row, the column."""

    value: float | int
    where: str


Rounding = Literal["none", "fractions", "all"]


@dataclass(frozen=True)
class Numbers:
    """The dtype that stores numbers. It must represent them exactly, except that `rounding` allows float32 to round
    fractions, or a float type to round all numbers.

    A missing number is stored as NaN, which integer types cannot represent.
    """

    dtype: str
    rounding: Rounding = "none"

    @property
    def is_float(self) -> bool:
        return self.dtype in ("float32", "float64")

    def limits(self) -> tuple[int, int, int]:
        """The smallest and largest integers that certainly fit, and which fractional numbers do (see `read_rows`)."""
        if self.is_float:
            if self.rounding == "all":
                return -(10**18), 10**18, 1
            exact = LARGEST_EXACT if self.dtype == "float64" else 2**24
            return -exact, exact, 1 if self.dtype == "float64" or self.rounding == "fractions" else 2
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max), 0

    def fit(self, values: np.ndarray) -> np.ndarray:
        """Which finite float64 values (integers up to 2⁵³) can be stored: (n,) bool."""
        if self.rounding == "all" or self.dtype == "float64":
            return np.ones(len(values), bool)
        if self.dtype == "float32":
            with np.errstate(over="ignore"):
                stored = values.astype(np.float32)
            same: np.ndarray = stored.astype(np.float64) == values
            if self.rounding == "fractions":
                same |= (values != np.floor(values)) & np.isfinite(stored)
            return same
        limits = np.iinfo(self.dtype)
        fitting: np.ndarray = (values == np.floor(values)) & (limits.min <= values) & (values <= limits.max)
        return fitting

    def fit_whole(self, values: np.ndarray) -> np.ndarray:
        """Which int64 values can be stored: (n,) bool."""
        if self.is_float:
            stored = values.astype(self.dtype)
            fitting: np.ndarray = (stored.astype(np.float64) < 2.0**63) & (stored.astype(np.int64) == values)
            return fitting | (self.rounding == "all")
        limits = np.iinfo(self.dtype)
        return np.asarray((limits.min <= values) & (values <= limits.max))

    def fits_large(self, value: int) -> bool:
        """Whether an integer beyond 2⁵³ can be stored."""
        if self.is_float:
            return self.rounding == "all" or int(np.dtype(self.dtype).type(value)) == value
        limits = np.iinfo(self.dtype)
        return int(limits.min) <= value <= int(limits.max)


@dataclass
class RowBatch:
    """The rows that were read, without the invalid ones.

    `texts` has one array per text column, null where the text is missing; `begins` (rows, texts) is where each text
    starts in the piece. `missing` (n, 2) holds the row and column of `x` of each missing number, which is NaN there, or
    0 among integers. `misfits` are numbers that the dtype cannot represent, at least the smallest
    and the largest; `errors` are those of the invalid rows, one for each. If there are any, `ordinals` (rows,) are the
    positions of the others among all rows that were read.
    """

    rows: int
    texts: list[pa.Array]
    begins: np.ndarray
    missing: np.ndarray
    errors: list[RowError]
    misfits: list[Misfit] = field(default_factory=list)
    ordinals: np.ndarray | None = None
    tokens: Any = None
    """The token ids of the rows, `TokenLists`, if they are sequences."""

    def invalid_rows(self) -> list[int]:
        """The positions of the invalid rows among all rows that were read."""
        invalid = np.ones(self.rows + len(self.errors), bool)
        invalid[slice(None) if self.ordinals is None else self.ordinals] = False
        found: list[int] = np.flatnonzero(invalid).tolist()
        return found


def drop_rows(x: np.ndarray, batch: RowBatch, wrong: dict[int, RowError]) -> None:
    """Remove invalid rows from a batch."""
    keep = np.ones(batch.rows, bool)
    keep[list(wrong)] = False
    kept = int(keep.sum())
    x[:kept] = x[: batch.rows][keep]
    moved = np.cumsum(keep) - 1
    kept_missing = keep[batch.missing[:, 0]]
    batch.missing = np.stack([moved[batch.missing[kept_missing, 0]], batch.missing[kept_missing, 1]], axis=1)
    batch.texts = [texts.filter(pa.array(keep)) for texts in batch.texts]
    batch.begins = batch.begins[keep]
    batch.ordinals = np.flatnonzero(keep) if batch.ordinals is None else batch.ordinals[keep]
    batch.errors = sorted([*batch.errors, *wrong.values()], key=lambda error: error.line)
    batch.rows = kept


def add_error(wrong: dict[int, RowError], row: int, error: RowError) -> None:
    """Note the first error of a row; of missing values, all columns."""
    first = wrong.setdefault(row, error)
    if first is not error and first.reason == error.reason == ABSENT and error.column:
        wrong[row] = first.with_column(error.column)


def remedy_of(reason: str, column: str | None) -> str:
    """The remedy for a row that is invalid for this reason."""
    how = "fix or remove the row"
    if reason == ABSENT:
        how = "fill it in"
    elif reason == NOT_UTF8:
        how = f"fix it, or drop the column with --ignore '{column}'"
    elif reason.endswith("number"):
        text, read = reason[1 : reason.rindex("'")], ""
        if find_amounts([text]) or find_amounts([text], ","):
            read = f"read such numbers with --number '{column}', "
        elif not any(map(str.isalnum, text)):
            read = f"mark it as missing with --missing-marker '{text}', "
        how = f"fix it, {read}keep the column as text with --category '{column}', drop it with --ignore '{column}'"
    elif " is not a date " in reason:
        how = "fix it, set --date-format, mark it as missing with --missing-marker, keep the column as text with "
        how += f"--category '{column}'"
    return f"{how}, or skip such rows with --on-error skip"


def joint_remedy(errors: Sequence[RowError], features: Container[str]) -> str:
    """What helps against several errors of a file at once, one line for each kind; empty if nothing does."""
    lines = []
    gaps = dict.fromkeys(name for one in errors if one.reason == ABSENT for name in one.columns)
    if len(gaps) > 1:
        of_features = any(name in features for name in gaps)
        keep = "keep those of features with --missing keep, or " if of_features else ""
        lines.append(f"Values are missing in {listed(gaps)}: {keep}skip all such rows with --on-error skip.")
    columns: dict[str, dict[str, None]] = {}
    words = [one.reason.removesuffix(" is not a number") for one in errors]
    for one, word in zip(errors, words, strict=True):
        if one.column and word != one.reason and words.count(word) > 1:
            columns.setdefault(word, {})[one.column] = None
    for word, names in columns.items():
        lines.append(f"{word} occurs in {listed(names)}: if it means a missing value, use --missing-marker {word}.")
    return "\n".join(lines)


def listed(names: Iterable[str]) -> str:
    """Names of columns in a sentence."""
    *most, last = [f"'{name}'" for name in names]
    return f"the columns {', '.join(most)} and {last}" if most else f"the column {last}"
