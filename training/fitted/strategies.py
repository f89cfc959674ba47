"""Parsing of options for scaling, missing values and weights. Imports nothing heavy, because `--help` needs it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ...storage.errors import UsageError

Option = TypeVar("Option")


@dataclass(frozen=True)
class Fill:
    """How missing values are filled: with the "mean", the "median" or a number; `marked` adds an indicator input."""

    value: Literal["mean", "median"] | float
    marked: bool


def parse_fill(text: str) -> Fill:
    """Parse `mean`, `median` or `constant=0`, alone or after `indicator+`; `indicator` alone means `indicator+mean`.

    Raises ValueError.
    """
    first, plus, rest = text.partition("+")
    marked = first == "indicator"
    value = rest if marked and plus else "mean" if marked else text
    if value in ("mean", "median"):
        return Fill("mean" if value == "mean" else "median", marked)
    name, _, number = value.partition("=")
    try:
        constant = float(number)
    except ValueError:
        constant = math.nan
    if name != "constant" or not math.isfinite(constant):
        raise ValueError(
            "must be mean, median, constant=NUMBER or indicator, or a combination such as indicator+median"
        )
    return Fill(constant, marked)


def parse_option(name: str, parse: Callable[[str], Option], text: str) -> Option:
    """Parse the text of the argument `name`. Raises UsageError."""
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{name} {text!r}: {error}") from None


Scaling = str | tuple[tuple[float, ...], tuple[float, ...]]
"""`standard`, `minmax`, `none` or `imagenet`; or means and scales, one per channel or one for all."""


def parse_input(text: str) -> tuple[str, tuple[str, ...]]:
    """`NAME=COLUMN,PATTERN` as the name of an input, and its columns and patterns of columns. Raises ValueError."""
    name, _, columns = text.partition("=")
    patterns = tuple(one.strip() for one in columns.split(","))
    if not name or not all(patterns):
        raise ValueError("must be a name and columns or patterns, e.g. numbers=age,income* or others=*")
    return name, patterns


def is_image_alone(inputs: Sequence[str]) -> bool:
    """Whether inputs are `image`, which leaves out the columns beside images."""
    return [*inputs] == ["image"]


def parse_scaling(text: str) -> tuple[str | None, Scaling]:
    """Parse `standard`, `age=minmax`, `imagenet`, `0.5:0.25` or `age=40:12` as the column, if any, and its scaling.

    Raises ValueError.
    """
    column, equals, how = text.rpartition("=")
    if how in ("standard", "minmax", "none", "imagenet"):
        return column if equals else None, how
    try:
        means, scales = (tuple(map(float, part.split(","))) for part in how.split(":"))
    except ValueError:
        raise ValueError(
            "must be standard, minmax, none, imagenet, or MEAN:SCALE such as 0.5:0.25, for all columns, or for a "
            "single column as in COLUMN=minmax"
        ) from None
    if len(means) != len(scales) or not all(map(math.isfinite, (*means, *scales))) or 0 in scales:
        raise ValueError("needs as many means as scales, all of them finite, and no scale of 0")
    return column if equals else None, (means, scales)


def parse_class_weight(text: str) -> tuple[str | None, float]:
    """Parse `balanced` as None and 1, or `NAME=2.5` as the class and its weight. Raises ValueError."""
    if text == "balanced":
        return None, 1.0
    return _parse_factor(text, "balanced, or a class and its weight such as yes=2.5")


def parse_sample(text: str) -> tuple[str, float]:
    """Parse `balanced` or `weight` with factor 1, or `NAME=3` as the class and its factor. Raises ValueError."""
    if text in ("balanced", "weight"):
        return text, 1.0
    return _parse_factor(text, "balanced, weight, or a class and its oversampling factor such as yes=3")


def _parse_factor(text: str, allowed: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not equals or not factor >= 0 or math.isinf(factor):
        raise ValueError(f"must be {allowed}")
    return name, factor


def parse_pos_weight(text: str) -> float | None:
    """Parse `balanced` as None, or a positive number. Raises ValueError."""
    if text == "balanced":
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not weight > 0 or math.isinf(weight):
        raise ValueError("must be balanced or a positive number")
    return weight
