"""The values of Arrow columns as numbers, dates or text, without loss."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..csv.amounts import not_a_number, plain_amounts
from ..csv.dates import FIRST, LAST, parse_dates
from ..csv.options import MISSING
from ..csv.row_batch import NOT_UTF8
from ..csv.rows import parse_number, parse_numbers
from ..sequences.ids import is_list_of_ids, lists_as_text
from ..target.beside import PARTS

LARGEST = 2**53
OUT_OF_RANGE = "the value is not a date between the years 1 and 9999"


def kind_of_type(kind: pa.DataType) -> str:
    """What a column of a type holds: "date", "number", "seconds" (times of day and durations, as numbers), "text", or
    "" for types that are not supported."""
    types = pa.types
    if types.is_dictionary(kind):
        return kind_of_type(kind.value_type)
    if types.is_timestamp(kind) or types.is_date(kind):
        return "date"
    if types.is_time(kind) or types.is_duration(kind):
        return "seconds"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        return "number"
    return "text" if is_text(kind) or types.is_boolean(kind) or is_list_of_ids(kind) else ""


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are strings, or bytes, which may be strings."""
    types = pa.types
    of_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return bool(of_bytes or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def decoded(column: pa.Array) -> pa.Array:
    """A column with the values of its dictionary, if it has one, and NaN as missing."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):  # pandas writes missing values so
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column


@dataclass
class Figures:
    """The numbers of a column, int64 or float64, 0 where one is missing or wrong; integers beyond int64 or those that
    float64 would round are in `large`, by row. `reasons` says why a value is not a number."""

    values: np.ndarray
    large: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)


def read_figures(column: pa.Array, amounts: bool = False) -> Figures | None:
    """The numbers of a decoded column, which text may contain too, as plain numbers or as `amounts`; None if its type
    has no numbers."""
    types, kind = pa.types, column.type
    if is_text(kind):
        return _of_text(column, amounts)
    if types.is_decimal(kind) and kind.scale > 0:
        return Figures(column.cast(pa.string()).cast(pa.float64()).fill_null(0.0).to_numpy())
    if types.is_decimal(kind) or types.is_uint64(kind):
        return _of_integers(column)
    if types.is_time(kind) or types.is_duration(kind):
        counts = column.cast(pa.int32() if types.is_time32(kind) else pa.int64()).cast(pa.int64())
        numbers, parts = counts.fill_null(0).to_numpy(), PARTS[kind.unit]
        return Figures(numbers // parts if not (numbers % parts).any() else numbers // parts + numbers % parts / parts)
    if types.is_integer(kind) or types.is_boolean(kind):
        return Figures(column.cast(pa.int64()).fill_null(0).to_numpy())
    if types.is_null(kind) or types.is_floating(kind):
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy().copy()
        infinite = np.flatnonzero(~np.isfinite(values)).tolist()
        values[infinite] = 0
        return Figures(values, reasons=dict.fromkeys(infinite, "the value is not finite"))
    return None


def _of_integers(column: pa.Array) -> Figures:
    """The integers of a column whose type may exceed int64."""
    try:
        return Figures(column.cast(pa.int64()).fill_null(0).to_numpy())
    except pa.ArrowInvalid:
        whole = [0 if value is None else int(value) for value in column.to_pylist()]
        large = {row: value for row, value in enumerate(whole) if not -(2**63) <= value < 2**63}
        return Figures(np.array([0 if row in large else value for row, value in enumerate(whole)], np.int64), large)


def _of_text(column: pa.Array, amounts: bool) -> Figures:
    texts = pc.ascii_trim_whitespace(as_text(column)[0])
    written, there = texts, np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
    if amounts:
        texts = plain_amounts(texts)
    found, reasons = parse_numbers(texts.take(pa.array(there)))
    values = np.zeros(len(column))
    values[there] = np.where(np.isfinite(found), found, 0)
    large = dict[int, int]()
    for row in np.flatnonzero(np.abs(values) >= LARGEST).tolist():
        exact = parse_number(texts[row].as_py())
        if isinstance(exact, int):
            large[row], values[row] = exact, 0
    wrong = {int(there[place]): not_a_number(written[there[place]].as_py()) for place in reasons}
    return Figures(values, large, wrong)


def read_dates(column: pa.Array, way: str) -> tuple[pa.Array, dict[int, str]] | None:
    """The timestamps of a decoded column in UTC, null where one is missing or wrong, and why a value is no date; None
    if its type has no dates. Text, and integers such as 20260131, are written in the given `way`; other integers are
    seconds since 1970."""
    types, kind = pa.types, column.type
    if is_text(kind) or (types.is_integer(kind) and way):
        texts = as_text(column)[0]
        absent = pc.is_in(pc.utf8_trim_whitespace(texts), pa.array(MISSING))
        return parse_dates(pc.if_else(absent, pa.scalar(None, pa.string()), texts), way)
    if types.is_date(kind):
        column = column.cast(pa.timestamp("s" if types.is_date32(kind) else "ms"))
    elif types.is_timestamp(kind):
        column = column.cast(pa.timestamp(kind.unit))
    elif types.is_integer(kind) or types.is_null(kind):
        column = column.cast(pa.int64()).cast(pa.timestamp("s"))
    else:
        return None
    parts = PARTS[column.type.unit]
    seconds = column.cast(pa.int64()).fill_null(0).to_numpy() // parts
    outside = (seconds < FIRST) | (seconds > LAST)
    reasons = dict.fromkeys(np.flatnonzero(outside).tolist(), OUT_OF_RANGE)
    return pc.if_else(pa.array(outside), pa.scalar(None, column.type), column) if reasons else column, reasons


def as_text(column: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """The texts of a decoded column, null where one is missing or wrong, and why a value is no text. Raises
    ArrowInvalid and ArrowNotImplementedError for types that have no text."""
    if is_list_of_ids(column.type):
        texts = lists_as_text(column)
        gaps = pc.and_(texts.is_null(), column.is_valid()).to_numpy(zero_copy_only=False)
        return texts, dict.fromkeys(np.flatnonzero(gaps).tolist(), "a value of the list is missing")
    try:
        texts = column.cast(pa.string())
        texts.validate(full=True)
        return texts, {}
    except pa.ArrowInvalid:
        if not is_text(column.type):
            raise
    found, reasons = [], {}
    for row, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            found.append(None if value is None else value.decode())
        except UnicodeDecodeError:
            found.append(None)
            reasons[row] = NOT_UTF8
    return pa.array(found, pa.string()), reasons
