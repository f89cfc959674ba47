"""What a reader of rows is asked for, and what it gives: the same for CSV and for Parquet."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ...storage.errors import RowError
from .kernels import LARGEST_EXACT


@dataclass(frozen=True)
class Piece:
    """Whole rows of a text: bytes `start` to `stop` of its place; the first is in line `line` of the source.

    `rows` counts the faulty ones too.
    """

    start: int
    stop: int
    line: int
    rows: int


ABSENT = "the value is missing"


@dataclass(frozen=True)
class Columns:
    """Which columns of a text are wanted.

    `features` are the columns of `x` in this order; `texts` are kept as text, features among them too (their places
    in `x` are left to the caller). Those of `dates` become timestamps. A text of `required` must not be missing.
    """

    features: tuple[str, ...]
    texts: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Numbers:
    """What numbers become: a dtype, which must hold them exactly unless they may be rounded to it."""

    dtype: str
    rounded: bool = False

    def limits(self) -> tuple[int, int, int]:
        """Whole numbers that surely fit, least and greatest, and which decimals do (see `read_rows`)."""
        if self.dtype in ("float32", "float64"):
            if self.rounded:
                return -(10**18), 10**18, 1
            exact = LARGEST_EXACT if self.dtype == "float64" else 2**24
            return -exact, exact, 1 if self.dtype == "float64" else 2
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max), 0

    def fit(self, values: np.ndarray) -> np.ndarray:
        """Which of some finite float64s, whole ones up to 2⁵³, can be stored: (n,) bool."""
        if self.rounded or self.dtype == "float64":
            return np.ones(len(values), bool)
        if self.dtype == "float32":
            with np.errstate(over="ignore"):
                same: np.ndarray = values.astype(np.float32).astype(np.float64) == values
            return same
        limits = np.iinfo(self.dtype)
        fitting: np.ndarray = (values == np.floor(values)) & (limits.min <= values) & (values <= limits.max)
        return fitting

    def fit_whole(self, values: np.ndarray) -> np.ndarray:
        """Which of some int64s can be stored: (n,) bool."""
        if self.dtype in ("float32", "float64"):
            stored = values.astype(self.dtype)
            fitting: np.ndarray = (stored.astype(np.float64) < 2.0**63) & (stored.astype(np.int64) == values)
            return fitting | self.rounded
        limits = np.iinfo(self.dtype)
        return np.asarray((limits.min <= values) & (values <= limits.max))

    def fits_large(self, value: int) -> bool:
        """Whether a whole number beyond 2⁵³ can be stored."""
        if self.dtype in ("float32", "float64"):
            return self.rounded or int(np.dtype(self.dtype).type(value)) == value
        limits = np.iinfo(self.dtype)
        return int(limits.min) <= value <= int(limits.max)


@dataclass
class RowBatch:
    """Rows as they were read, the faulty ones left out.

    `texts` are one array a text column, null where the text is missing; `begins` (rows, texts) where they stand in
    the piece. `missing` (n, 2): row and column of `x` of numbers that are not there; their places hold what `fills`
    says. `misfits` are numbers that the dtype does not hold.
    """

    rows: int
    texts: list[pa.Array]
    begins: np.ndarray
    missing: np.ndarray
    errors: list[RowError]
    misfits: list[float | int] = field(default_factory=list)


def drop_rows(x: np.ndarray, batch: RowBatch, wrong: dict[int, RowError]) -> None:
    """Take the rows that are wrong out of a batch."""
    keep = np.ones(batch.rows, bool)
    keep[list(wrong)] = False
    kept = int(keep.sum())
    x[:kept] = x[: batch.rows][keep]
    moved = np.cumsum(keep) - 1
    sound = keep[batch.missing[:, 0]]
    batch.missing = np.stack([moved[batch.missing[sound, 0]], batch.missing[sound, 1]], axis=1)
    batch.texts = [texts.filter(pa.array(keep)) for texts in batch.texts]
    batch.begins = batch.begins[keep]
    batch.errors = sorted([*batch.errors, *wrong.values()], key=lambda fault: fault.line)
    batch.rows = kept


def remedy_of(reason: str) -> str:
    """What to do about a row that is wrong for this reason."""
    how = "mend or remove the row"
    if reason == ABSENT:
        how = "fill it, have --missing mean fill such numbers (or constant=0, or indicator)"
    elif reason.endswith("number"):
        how = "mend it, take a column of words by --category, leave it out by --ignore"
    return f"{how}, or leave such rows out by --on-error skip"
