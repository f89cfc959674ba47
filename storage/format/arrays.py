"""The arrays of a dataset: their names, dtypes and row shapes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np

Values = TypeVar("Values")
IMAGE, TABLE = "image", "table"  # the inputs of a model that gets columns beside an image; the array of those is TABLE
NO_DATE = np.iinfo(np.int64).min  # as in NumPy's NaT


@dataclass(frozen=True)
class ArraySpec:
    """One array of a dataset. All arrays are divided at the same rows; each has its own row shape."""

    name: str
    dtype: str
    row_shape: tuple[int, ...] = ()
    encoded: bool = False
    """Whether rows are stored as image files, from which they are decoded when they are read."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of a row as stored: an image file has none."""
        return () if self.encoded else self.row_shape

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.row_shape)

    def empty(self, rows: int) -> np.ndarray:
        """Return an uninitialised buffer for `rows` rows."""
        return np.empty((rows, *self.row_shape), self.dtype)

    def to_json(self) -> dict[str, Any]:
        """As JSON, as earlier versions wrote it unless its rows are image files."""
        return {name: value for name, value in vars(self).items() if name != "encoded" or value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(value["name"], value["dtype"], tuple(value["row_shape"]), value.get("encoded", False))


@dataclass(frozen=True)
class SideColumn:
    """A source column that is not a feature, stored in a separate array.

    `kind`: "integer", "number" (missing: NaN), "days", "seconds", "microseconds" or "nanoseconds" since 1970 (missing:
    NO_DATE), or "text", at most `width` bytes of UTF-8 padded with zeros (missing: empty).
    """

    name: str
    array: str
    kind: str
    width: int = 0

    def spec(self) -> ArraySpec:
        """The array that stores this column."""
        if self.kind == "text":
            return ArraySpec(self.array, "uint8", (self.width,))
        return ArraySpec(self.array, "float64" if self.kind == "number" else "int64")


def x_of(arrays: Mapping[str, Values]) -> Values | dict[str, Values]:
    """The features of rows, from the arrays of a dataset by name: `x`, or a dict of images and the columns beside
    them."""
    return {IMAGE: arrays["x"], TABLE: arrays[TABLE]} if TABLE in arrays else arrays["x"]


def keys_of(stored: np.ndarray) -> list[Any]:
    """Decode the user's keys from their stored form: integers (rows,), or UTF-8 (rows, width)."""
    if stored.ndim == 2:
        return [bytes(row).rstrip(b"\0").decode() for row in stored]
    return list(stored)
