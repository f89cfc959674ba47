"""Images with more than 8 bits: their exact values, some of which Pillow rounds, and how they become samples."""

import io
import sys
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from ..format.images import ImageForm

DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
WITHOUT_RANGE = ("I", "F")
PLAIN, UNSIGNED = ("1", "L", "P", "RGB", "RGBA"), ("PNG", "JPEG", "BMP", "GIF")
BITS, SAMPLE_FORMAT, SIGNED = 258, 339, 2  # tags of TIFF
SWAPPED = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
"""The raw mode with which Pillow keeps the low byte of 16 bits instead of the high one."""
LUMA = np.array([19595, 38470, 7471], np.int64)  # of red, green and blue, as Pillow weights them; the unit is 2**16
DEEPEST = 65535


class DepthError(Exception):
    """The reason why values cannot become samples."""


class Deep(NamedTuple):
    """The values of an image with more than 8 bits, (height, width, channels) with alpha last in an even number of
    channels, and the value of white."""

    values: np.ndarray
    white: float


def read_deep(image: ImageFile, data: bytes, form: ImageForm) -> Deep | None:
    """The values of an opened image; None if it has 8 bits, or if it has colors of which the form keeps 8."""
    exact = (form.dtype == "uint16" or form.pixel_range is not None) and "transparency" not in image.info
    most = _most_of_ppm(image)
    raw = raw_mode(image)
    signed, bits = _samples_of_tiff(image)
    if image.mode in DEEP:
        return Deep(_array(image), 2**bits - 1 if bits < 16 else DEEPEST)
    if image.mode == "I" and image.format == "PPM":
        scaled = _array(image)  # to 16 bits, by Pillow
        return Deep(scaled if most == DEEPEST else np.rint(scaled * (most / DEEPEST)).astype(np.int32), most)
    if image.mode == "I" and signed and bits == 16:
        return Deep(_array(image), 2**15 - 1)
    if image.mode == "L" and signed:
        values = _array(image).view(np.int8)
        return None if form.pixel_range is None and values.min() >= 0 else Deep(values.astype(np.int32), 2**7 - 1)
    if image.mode in WITHOUT_RANGE:
        return Deep(_array(image), np.nan)
    if exact and most > 255:
        return Deep(_colors_of_ppm(image, data), most)
    if exact and raw[-4:] in SWAPPED and image.mode in ("RGB", "RGBA") and raw[:4] in ("RGB;", "RGBA", "RGBX"):
        return Deep(_both_bytes(image, data), DEEPEST)
    return None


def has_eight_bits(image: ImageFile) -> bool:
    """Whether the pixels of an opened image evidently have 8 bits and are unpacked as they are. Most images do, so that
    nothing else need be asked of them."""
    return image.format in UNSIGNED and image.mode in PLAIN and raw_mode(image) == image.mode


def is_rounded(image: ImageFile) -> bool:
    """Whether Pillow keeps 8 of the 16 bits of an opened image."""
    return image.mode not in (*DEEP, *WITHOUT_RANGE) and (raw_mode(image)[-4:] in SWAPPED or _most_of_ppm(image) > 255)


def to_samples(deep: Deep, form: ImageForm) -> np.ndarray:
    """The values as samples of the form's color, (height, width, channels), uint16 or uint8.

    Without a range, uint16 keeps the values, and uint8 scales them by that of white. Raises DepthError for values that
    are negative, or whose range is unknown.
    """
    values, top = deep.values, DEEPEST if form.dtype == "uint16" else 255
    colors = values[..., : values.shape[2] - 1] if values.shape[2] % 2 == 0 else values
    if form.pixel_range:
        low, high = form.pixel_range
        colors = np.nan_to_num(colors, nan=low, posinf=high, neginf=low)
        scaled = np.rint(np.clip((colors - np.float64(low)) / (high - low), 0, 1) * top)
    else:
        check_range(colors, deep.white)
        scaled = colors if form.dtype == "uint16" else np.rint(colors * (255 / deep.white))
    samples = _in_color(scaled.astype(np.int64), form.color)
    if values.shape[2] % 2 == 0:
        alpha = np.rint(values[..., -1:] * (DEEPEST / deep.white)).astype(np.int64)
        ground = form.ground * top // 255
        samples = (samples * alpha + ground * (DEEPEST - alpha) + DEEPEST // 2) // DEEPEST
    return samples.astype(form.dtype)


def check_range(values: np.ndarray, white: float) -> None:
    """Raise DepthError for values that are not between 0 and 65,535, or whose white is unknown."""
    low, high = values.min(), values.max()
    remedy = f"say which become black and white, e.g. --pixel-range {low:g},{high:g}"
    if np.isnan(white):
        raise DepthError(f"the range of its 32-bit pixel values is unknown; {remedy}, or save it with 8 or 16 bits")
    if low < 0:
        raise DepthError(f"its pixel values are negative, down to {low:g}; {remedy}")


def _in_color(samples: np.ndarray, color: str) -> np.ndarray:
    """Samples (height, width, 1 or 3) in gray or RGB."""
    if color == "gray":
        return samples if samples.shape[2] == 1 else ((samples @ LUMA + (1 << 15)) >> 16)[..., None]
    return np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples


def _array(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def raw_mode(image: ImageFile) -> str:
    """The raw mode from which Pillow unpacks an opened image; empty if it has none."""
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _most_of_ppm(image: ImageFile) -> int:
    """The value of white in a PGM or PPM file; 0 for others and for those that Pillow need not scale."""
    if image.format != "PPM" or not image.tile:
        return 0
    arguments = image.tile[0][3]
    if image.mode == "I" and isinstance(arguments, str):
        return DEEPEST
    last = arguments[-1] if isinstance(arguments, tuple) else 0
    return last if isinstance(last, int) else 0


def _samples_of_tiff(image: ImageFile) -> tuple[bool, int]:
    """Whether the values of a TIFF file are signed, and their bits; 16 for other formats."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return False, 16
    return tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED, tags.get(BITS, (1,))[0]


def _colors_of_ppm(image: ImageFile, data: bytes) -> np.ndarray:
    """The colors of a PPM file with 16 bits, (height, width, 3)."""
    width, height = image.size
    decoder, _, offset, _ = image.tile[0]
    count = width * height * 3
    if decoder == "ppm_plain":
        values = np.array(data[offset:].split()[:count], np.int64)
    else:
        values = np.frombuffer(data, ">u2", count, offset)
    return values.reshape(height, width, 3)


def _both_bytes(image: ImageFile, data: bytes) -> np.ndarray:
    """The values of an image of which Pillow keeps the high bytes: it is decoded again for the low ones."""
    with Image.open(io.BytesIO(data), formats=(str(image.format),)) as again:
        again.tile = [tile._replace(args=_swapped(tile[3])) for tile in again.tile]
        low = np.asarray(again).astype(np.uint16)
    return np.asarray(image).astype(np.uint16) << 8 | low


def _swapped(arguments: Any) -> Any:
    """The arguments of a decoder with the raw mode for the other byte."""
    if isinstance(arguments, tuple):
        return (_swapped(arguments[0]), *arguments[1:])
    raw = str(arguments)
    return raw[:-4] + SWAPPED[raw[-4:]]
