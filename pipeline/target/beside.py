"""Side columns, which are stored but are not features: their roles, and how they are stored."""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.format.arrays import NO_DATE, SideColumn
from ...storage.format.schema import Schema
from ...storage.options import as_texts
from .labels import TextFindings, has_leading_zeros
from .options import RoleOptions

DAY = 86_400
UNITS = {"days": "s", "seconds": "s", "microseconds": "us", "nanoseconds": "ns"}
"""The units of dates from coarse to fine, with that of Arrow."""
PARTS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""How many of Arrow's units are a second."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # of a column in the name of a folder
UNNAMED_INDEX = re.compile(r"__index_level_\d+__")  # pandas' name, also where its notes were lost


def index_of_frame(schema: pa.Schema) -> tuple[str, ...]:
    """The columns of a Parquet or Arrow file that are the index of a pandas DataFrame: it numbers rows, often in an
    order that depends on the label."""
    noted = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
    return tuple(name for name in schema.names if name in noted or UNNAMED_INDEX.fullmatch(name))  # a range is a dict


def folder_columns(folders: Sequence[str], above: int | None, known: Container[str] = ()) -> dict[str, str | None]:
    """The columns in the names of folders, as Hive writes them: percent-encoded, and None for a missing value."""
    found = dict[str, str | None]()
    for depth, folder in enumerate(folders):
        name, is_column, value = folder.partition("=")
        name = unquote(name)
        if is_column and name and (name in known or (above is not None and depth >= above)):
            found[name] = None if value in ("", NO_VALUE) else unquote(value)
    return found


def unit_of(dates: pa.Array) -> str:
    """The coarsest unit in which timestamps are whole numbers."""
    counts = dates.cast(pa.int64()).drop_null().to_numpy()
    parts = PARTS[dates.type.unit]
    for unit, step in (("days", DAY * parts), ("seconds", parts), ("microseconds", max(1, parts // 10**6))):
        if not (counts % step).any():
            return unit
    return "nanoseconds"


def finest(*units: str | None) -> str:
    """The finest of some units; None is none."""
    return max((unit for unit in units if unit), key=[*UNITS].index)


def date_seconds(dates: pa.Array) -> np.ndarray:
    """Timestamps as seconds since 1970, (n,) float64 with fractions, NaN where one is missing."""
    parts = PARTS[dates.type.unit]
    counts = dates.cast(pa.int64()).fill_null(0).to_numpy()
    seconds = counts // parts + (counts % parts) / parts
    return np.where(dates.is_valid().to_numpy(zero_copy_only=False), seconds, np.nan)


def roles_of(options: RoleOptions) -> dict[str, tuple[str, ...]]:
    """The columns with a role, by role."""
    named = {role: as_texts(getattr(options, role)) for role in RoleOptions.model_fields}
    return {role: names for role, names in named.items() if names}


def side_columns(
    names: Sequence[str], units: Mapping[str, str], texts: Mapping[str, TextFindings]
) -> tuple[SideColumn, ...]:
    """How columns are stored: dates in their `units`, others according to the findings in `texts`. Array names consist
    of letters, digits and underscores."""
    columns: list[SideColumn] = []
    for name in names:
        array, taken = "column_" + re.sub(r"\W", "_", name, flags=re.ASCII), {column.array for column in columns}
        while array in taken:
            array += "_"
        if name in units:
            columns.append(SideColumn(name, array, units[name]))
            continue
        found = texts[name]
        kind = "number" if found.kind == "integer" and found.gaps else found.kind
        columns.append(SideColumn(name, array, kind, max(1, found.width) if kind == "text" else 0))
    return tuple(columns)


def widened(schema: Schema, widths: Mapping[str, int]) -> Schema:
    """A schema whose columns of text can also store values of so many bytes, by column."""
    key = schema.key_width
    if schema.key is not None and key is not None:
        key = max(key, widths.get(schema.key, 0))
    beside = tuple(
        replace(column, width=max(column.width, widths.get(column.name, 0))) if column.kind == "text" else column
        for column in schema.beside
    )
    return replace(schema, key_width=key, beside=beside)


def encode_beside(column: SideColumn, values: pa.Array) -> np.ndarray:
    """The stored form of a column's texts, or of its timestamps, (rows, …).

    Raises ValueError, with the reason, for values that the column cannot store.
    """
    if column.kind == "text":
        return encode_texts(column.name, values.fill_null(""), column.width)
    if column.kind in UNITS:
        if finest(unit_of(values), column.kind) != column.kind:
            what = "times of day" if column.kind == "days" else "fractions of seconds"
            raise ValueError(f"the column '{column.name}' contains {what}")
        counts = values.cast(pa.timestamp(UNITS[column.kind])).cast(pa.int64())
        there = counts.is_valid().to_numpy(zero_copy_only=False)
        numbers = counts.fill_null(0).to_numpy() // (DAY if column.kind == "days" else 1)
        return np.where(there, numbers, NO_DATE)
    if column.kind == "integer" and values.null_count:
        raise ValueError(f"the column '{column.name}' has missing values")
    if column.kind == "integer" and has_leading_zeros(values):
        raise ValueError(f"the column '{column.name}' has numbers with leading zeros")
    try:
        numbers = values.cast(pa.float64() if column.kind == "number" else pa.int64())
    except pa.ArrowInvalid:
        kind = "an integer" if column.kind == "integer" else "a number"
        raise ValueError(f"the column '{column.name}' is not always {kind}") from None
    encoded: np.ndarray = numbers.to_numpy(zero_copy_only=False)
    return encoded


def encode_texts(name: str, values: pa.Array, width: int) -> np.ndarray:
    """Texts as UTF-8, padded with zeros, (rows, width) uint8. Raises ValueError for longer ones."""
    raw = values.cast(pa.binary())
    if (pc.max(pc.binary_length(raw)).as_py() or 0) > width:
        raise ValueError(f"the column '{name}' contains values longer than {width} bytes")
    padded: np.ndarray = raw.to_numpy(zero_copy_only=False).astype(f"S{width}").view(np.uint8)
    return padded.reshape(-1, width)
