"""How image files become samples."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class ImageForm:
    """How image files become samples.

    `size` is (height, width); `color` is "rgb" or "gray"; `fit` is "pad", "crop" or "stretch"; `background`, behind
    transparent pixels and in the padding, is "white" or "black"; `dtype` is "uint8" or "uint16". `pixel_range` are the
    values that become black and white in images with more than 8 bits. If it is `strict`, images of which pages or bits
    would be lost are invalid.
    """

    size: tuple[int, int]
    color: str = "rgb"
    fit: str = "pad"
    background: str = "white"
    dtype: str = "uint8"
    pixel_range: tuple[float, float] | None = None
    strict: bool = False

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        return (3 if self.color == "rgb" else 1, *self.size)

    @property
    def ground(self) -> int:
        """The background as an 8-bit value."""
        return 255 if self.background == "white" else 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        limits = value.get("pixel_range")
        return cls(**{**value, "size": tuple(value["size"]), "pixel_range": limits and tuple(limits)})
