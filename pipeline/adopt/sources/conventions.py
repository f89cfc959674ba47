"""The conventions of NetCDF (CF) by which numbers are packed and dimensions named, as xarray applies them."""

import re
import struct
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ....storage.foreign.chunks import unpack
from ....storage.foreign.format import Packing
from .found import UnsupportedError, value_dtype

SINCE = re.compile(r"(day|hour|minute|second|millisecond|microsecond)s? since (.+)")
STEPS = {
    "day": 86_400_000_000,
    "hour": 3_600_000_000,
    "minute": 60_000_000,
    "second": 1_000_000,
    "millisecond": 1_000,
    "microsecond": 1,
}
"""The units of times, in microseconds."""
CALENDARS = "standard", "gregorian", "proleptic_gregorian"
GREGORIAN = np.datetime64("1582-10-15")
"""The first day on which the calendars are the same."""
FILLS = ("_FillValue", "missing_value")
FILL, SCALE, OFFSET = "_FillValue", "scale_factor", "add_offset"


class Values(NamedTuple):
    """How stored numbers become values, None if they are values, and the dtype of the values."""

    packing: Packing | None
    dtype: str

    def of(self, stored: np.ndarray, axis: int = 0) -> np.ndarray:
        """Stored numbers as values, with the axis `axis` first, or a single value."""
        rows = np.moveaxis(stored, axis, 0) if stored.ndim else stored
        out = np.empty(rows.shape, self.dtype)
        unpack(rows, self.packing, out)
        return out


def dimension_names(attributes: Mapping[str, Any], named: Sequence[str | None] | None, count: int) -> list[str | None]:
    """The names of an array's dimensions, as far as it has some."""
    found = named or attributes.get("_ARRAY_DIMENSIONS") or [None] * count
    return [None if name is None else str(name) for name in found]


def with_times(values: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Values of a variable as they are, or if they are times (`hours since 2020-01-01`), as timestamps, datetime64[us],
    like those that xarray shows. Times in other calendars stay numbers."""
    said = SINCE.fullmatch(_text(attributes.get("units", "")).lower())
    if not said or values.dtype.kind not in "iuf" or _text(attributes.get("calendar", CALENDARS[0])) not in CALENDARS:
        return values
    import pandas as pd  # only for times

    start = pd.to_datetime(said[2], utc=True, errors="coerce").tz_localize(None)
    if start is pd.NaT or start < GREGORIAN:
        return values
    there = np.isfinite(values)
    counts = np.where(there, values, 0).astype(np.float64 if values.dtype.kind == "f" else np.int64) * STEPS[said[1]]
    times: np.ndarray = start.to_datetime64().astype("datetime64[us]") + np.rint(counts).astype("timedelta64[us]")
    return np.where(there, times, np.datetime64("NaT", "us"))


def _text(value: Any) -> str:
    """An attribute as text; HDF5 files may have bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def values_of(attributes: Mapping[str, Any], stored: Any, where: str) -> Values:
    """How the numbers of an array with these attributes become values.

    Raises UsageError for what is no number, and UnsupportedError for signed numbers that are meant as unsigned ones.
    """
    dtype = np.dtype(stored)
    plain = value_dtype(dtype, where)
    if dtype.kind not in "iuf":
        return Values(None, plain)
    if "_Unsigned" in attributes:
        raise UnsupportedError(f"{where}: numbers with the attribute '_Unsigned' cannot be read in place")
    fills = {_number(one, dtype) for name in FILLS for one in np.ravel(attributes.get(name, ()))}
    fills = {one for one in fills if not np.isnan(one)}
    if any(map(np.isinf, fills)):
        raise UnsupportedError(f"{where}: infinity as the mark of missing values cannot be read in place")
    scale, offset = (_scalar(attributes.get(name)) for name in (SCALE, OFFSET))
    if not fills and scale is None and offset is None:
        return Values(None, plain)
    packing = Packing(
        tuple(sorted(fills)), None if scale is None else float(scale), None if offset is None else float(offset)
    )
    return Values(packing, value_dtype(_float_type(dtype, scale, offset), where))


def _float_type(dtype: np.dtype[Any], scale: Any, offset: Any) -> Any:
    """The type that xarray gives to unpacked numbers: that of the scale and the offset, if it is precise enough."""
    types = [np.dtype(type(one)) for one in (scale, offset) if one is not None]
    if len(types) == 2 and types[0] == types[1] and types[0] in (np.float32, np.float64):
        return np.float64 if dtype.itemsize == 4 and dtype.kind in "iu" else types[0]
    if offset is not None:
        return np.float64
    if scale is not None:
        return types[0]
    if dtype.kind == "f":
        return dtype
    return np.float32 if dtype.itemsize <= 2 else np.float64


def _scalar(value: Any) -> Any:
    """An attribute as a scalar of its type; NetCDF files have arrays of one value."""
    return None if value is None else np.ravel(value)[0] if isinstance(value, np.ndarray) else value


def _number(fill: Any, dtype: np.dtype[Any]) -> float:
    """A fill value, which in the attributes of Zarr arrays of format 3 is the base64 of a float64."""
    if isinstance(fill, str) and dtype.kind == "f":
        found: float = struct.unpack("<d", b64decode(fill))[0]
        return found
    return float(fill)
