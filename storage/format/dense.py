"""Targets of many numbers a row: vectors, masks, images."""

import math
from dataclasses import dataclass
from typing import Any, Self

IGNORED = 255
"""The code in a mask of pixels that count for nothing: the padding, and those that the user leaves out."""


@dataclass(frozen=True)
class DenseTarget:
    """A target of many numbers per row, all under one label. `shape` is that of a row of `y`: (n,) for a vector,
    (height, width) for a mask, (channels, height, width) for an image. Of a mask, `classes` are the pixel values that
    occur, in the order of their codes, and `ignored` those that do not count."""

    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        """The number of pixels of a mask or an image; 1 for a vector."""
        return math.prod(self.shape[-2:]) if len(self.shape) > 1 else 1

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(tuple(value["shape"]), tuple(value["classes"]), tuple(value["ignored"]))
