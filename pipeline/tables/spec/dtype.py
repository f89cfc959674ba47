"""The narrowest type that can store the features."""

import numpy as np

from ....storage.errors import UsageError
from ....storage.format.schema import Schema
from ...target.beside import DAY
from ..findings import Findings
from ..options import FLOATS, INTEGERS

EXACT_ENOUGH = 256
"""Largest ratio of a column's values to their range in float32: 16 of 24 bits then remain for the differences."""
SMALLEST, LARGEST = 1e-30, 1e38  # in float32, with some room


def choose_dtype(asked: str, schema: Schema, total: Findings) -> str:
    """The narrowest dtype for the values of `x`, or the requested one if it can represent them.

    Whole numbers are stored exactly, fractions at least as float32 (see `fits_float32`). Missing numbers need a float
    type. A requested float type may round; a requested integer type may not.
    """
    if asked in FLOATS:
        return asked
    numbers = [position for position, name in enumerate(schema.features) if name not in schema.categories]
    beyond_exact = [one.value for one in total.beyond_exact]
    ends: list[float] = [*beyond_exact, *(len(values) for values in schema.categories.values())]  # unknown values
    for position in numbers:
        if total.low[position] <= total.high[position]:
            unit = DAY if schema.dates.get(schema.features[position]) == "days" else 1
            ends += [float(total.low[position] / unit), float(total.high[position] / unit)]  # exact beside integers
    low, high = min([0.0, *ends]), max([0.0, *ends])
    fractions, gaps = total.has_fractions[numbers].any(), [n for n in numbers if total.missing[n]]
    fitting = [name for name in INTEGERS if np.iinfo(name).min <= low and high <= np.iinfo(name).max]
    if asked == "auto":
        if not fractions and not gaps and fitting:
            return fitting[0]
        if total.beyond_exact:
            raise UsageError(
                f"no dtype can store {min(beyond_exact)} to {max(beyond_exact)} exactly together with fractions or "
                f"missing values ({max(total.beyond_exact).where}); drop the column with --ignore, use it as --id, or "
                "round with --dtype float64"
            )
        return "float32" if fits_float32(total) else "float64"
    if gaps:
        name = schema.features[gaps[0]]
        raise UsageError(
            f"--dtype {asked} cannot store missing values, which the column '{name}' has; use auto or float32"
        )
    if fractions:
        raise UsageError(f"--dtype {asked} cannot store fractional values; use auto, float32 or float64")
    if asked not in fitting:
        remedy = f"use {fitting[0]} or auto" if fitting else "use auto"
        raise UsageError(f"--dtype {asked} cannot store {low:.0f} to {high:.0f}; {remedy}")
    return asked


def fits_float32(total: Findings) -> bool:
    """Whether float32 preserves every whole number, and the differences between the values of columns with fractions.

    A column of values around 1e9 that differ by hundredths needs float64; a column of prices does not.
    """
    if total.needs_float64.any():
        return False
    low, high = total.low[total.has_fractions], total.high[total.has_fractions]
    size = np.maximum(np.abs(low), np.abs(high))
    constant = low == high
    spread_out = constant | (size <= EXACT_ENOUGH * (high - low))
    return bool((spread_out & (size >= SMALLEST) & (size <= LARGEST)).all())
