"""Decoding one image file into one sample: bytes in, an array of the requested size and color out.

A file that cannot be decoded exactly is rejected with a reason; nothing is guessed.
"""

import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from ..format.images import ImageForm
from .depth import DEEPEST, Deep, DepthError, has_eight_bits, is_rounded, read_deep, to_samples
from .fit import Box, fit_image, upright
from .foreign import formats_of, is_dicom, read_dicom, size_of_dicom

MOST_PIXELS = 200_000_000
PILLOW_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    struct.error,
    zlib.error,
    EOFError,
    LookupError,
    TypeError,
)
"""The exceptions that Pillow and pydicom raise for damaged files."""
JPEG = b"\xff\xd8\xff"
TURNING = (b"Exif\0", b"tiff:Orientation")  # without these before its pixels, a JPEG is stored upright
START_OF_SCAN = 0xDA
TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
Notes = dict[str, int]
"""What is to be said of decoded images: how many have several `pages`, how many were `rounded` to 8 bits, and the
`brightest` value of those with 16."""
LOST = {"pages": "several pages or frames", "rounded": "more bits than are kept"}


class ImageError(Exception):
    """The reason why a file cannot be decoded."""


def add_notes(notes: Notes, more: Notes) -> None:
    """Add notes to those of other images."""
    for name, value in more.items():
        notes[name] = max(notes.get(name, 0), value) if name == "brightest" else notes.get(name, 0) + value


def decode_image(data: bytes, form: ImageForm, out: np.ndarray) -> Notes:
    """Decode the first frame of an image file into `out`, (channels, height, width) of the form's dtype.

    Returns what is to be said of it. Raises ImageError.
    """
    if not data:
        raise ImageError("the file is empty")
    notes: Notes = {}
    with with_a_reason():
        if is_dicom(data):
            notes = _decode_dicom(data, form, out)
        elif not (data.startswith(JPEG) and _decode_jpeg(data, form, out)):
            with Image.open(io.BytesIO(data), formats=formats_of(data)) as image:
                notes = _decode(image, data, form, out)
    if form.strict and (lost := [what for name, what in LOST.items() if name in notes]):
        raise ImageError(f"it has {' and '.join(lost)}, which --strict refuses")
    return notes


def upright_size(data: bytes) -> tuple[int, int]:
    """The height and width in pixels of an image as it is looked at; its pixels are not decoded. Raises ImageError."""
    with with_a_reason():
        if is_dicom(data):
            return size_of_dicom(data)
        with Image.open(io.BytesIO(data), formats=formats_of(data)) as image:
            return image.size if _orientation(image) >= 5 else image.size[::-1]


class _Quiet:
    """Ignores warnings, which are about metadata that is not used. Filters belong to the process: the first of several
    threads that decode at once sets them, and the last one restores them."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._ignored = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._ignored = warnings.catch_warnings()
                self._ignored.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._ignored.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def with_a_reason(before: str = "") -> Iterator[None]:
    """Turn what is raised for a file that cannot be decoded into an ImageError, whose message has `before` before the
    reason."""
    try:
        with _QUIET:
            yield
    except DepthError as error:
        raise ImageError(f"{before}{error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{before}the file is not an image of a supported format") from None
    except MemoryError:
        raise ImageError(f"{before}out of memory while decoding the image") from None
    except (*PILLOW_ERRORS, Image.DecompressionBombError) as error:
        raise ImageError(f"{before}the image cannot be decoded ({error or type(error).__name__})") from None


def _decode_jpeg(data: bytes, form: ImageForm, out: np.ndarray) -> bool:
    """Decode a JPEG at a half, a quarter or an eighth of its size, if that is enough for the sample.

    Returns False, and leaves the file to Pillow, if there is anything unusual about it.
    """
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data)
        if color not in ("YCbCr", "RGB", "Gray"):
            return False
        check_pixels(width, height)
        turn = 1
        metadata = data[: _pixels_at(data)]
        if any(sign in metadata for sign in TURNING):
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                turn = _orientation(image)
        box, drawn = _fit_turned(width, height, turn, form)
        enough = _enough(box, drawn)
        # At exactly a part of the size, nothing would be filtered any more: it is decoded at the next larger one.
        part = next((part for part in (8, 4, 2) if part * enough < 1), 1)
        pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if form.color == "gray" else "RGB",
            min_width=-(-width // part),
            min_height=-(-height // part),
        )
    except (ValueError, UnidentifiedImageError):
        return False
    _draw(pixels, _at_part(box, part), _place(drawn, turn, form, out))
    return True


def _enough(box: Box, drawn: tuple[int, int]) -> float:
    """The scale at which the box of an image is as large as it is drawn."""
    return max(drawn[0] / (box[2] - box[0]), drawn[1] / (box[3] - box[1]))


def _at_part(box: Box, part: int) -> Box:
    """The box in an image that is decoded at a part of its size. The decoded sides are rounded up, so their last pixels
    may lie partly outside the image."""
    return box[0] / part, box[1] / part, box[2] / part, box[3] / part


def _draft(image: ImageFile, scale: float) -> None:
    """Make Pillow decode a JPEG at the smallest part of its size that is not below a scale."""
    image.draft(None, (math.ceil(scale * image.width), math.ceil(scale * image.height)))


def _pixels_at(data: bytes) -> int:
    """Where the pixels of a JPEG begin, after segments with a known length; its end if a segment has none."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF != data[at + 1]:
        if data[at + 1] == START_OF_SCAN:
            return at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return len(data)


def _decode(image: ImageFile, data: bytes, form: ImageForm, out: np.ndarray) -> Notes:
    """Decode any image with Pillow."""
    width, height = image.size
    check_pixels(width, height)
    notes: Notes = {}
    plain = has_eight_bits(image)
    rounded, deep = not plain and is_rounded(image), None if plain else read_deep(image, data, form)
    drafted = image.format == "JPEG"
    if not drafted:
        image.load()  # before EXIF: some formats read their pixels to find it, and a second load would hide errors
    turn = _orientation(image)
    box, drawn = _fit_turned(width, height, turn, form)
    if drafted:
        _draft(image, 2 * _enough(box, drawn))
        image.load()
    box = _at_part(box, round(width / image.width))
    pixels = _pixels(image, form) if deep is None else to_samples(deep, form)
    _draw(pixels, box, _place(drawn, turn, form, out))
    if rounded if deep is None else form.dtype == "uint8" and form.pixel_range is None:
        notes["rounded"] = 1
    if deep and form.pixel_range is None and deep.white in (DEEPEST, DEEPEST // 2):
        brightest = int(deep.values.max())
        notes["brightest"] = brightest if 2 * brightest <= deep.white else DEEPEST
    with suppress(*PILLOW_ERRORS):  # a damaged second page does not matter
        if getattr(image, "is_animated", False):
            notes["pages"] = 1
    return notes


def _decode_dicom(data: bytes, form: ImageForm, out: np.ndarray) -> Notes:
    """Decode the first frame of a DICOM file."""
    source, frames = read_dicom(data, form)
    notes: Notes = {"pages": 1} if frames > 1 else {}
    pixels = to_samples(source, form) if isinstance(source, Deep) else _pixels(source, form)
    if isinstance(source, Deep) and form.pixel_range is None:
        notes |= {"brightest": max(0, int(source.values.max()))} | ({"rounded": 1} if form.dtype == "uint8" else {})
    height, width = pixels.shape[:2]
    box, drawn = _fit_turned(width, height, 1, form)
    _draw(pixels, box, _place(drawn, 1, form, out))
    return notes


def check_pixels(width: int, height: int) -> None:
    """Raise ImageError for an image with so many pixels that it may be made to fill the memory."""
    if width * height > MOST_PIXELS:
        raise ImageError(f"the image has {width:,} x {height:,} pixels, more than the maximum of {MOST_PIXELS:,}")


def _fit_turned(width: int, height: int, turn: int, form: ImageForm) -> tuple[Box, tuple[int, int]]:
    """`fit_image` for an image that is stored with the EXIF orientation `turn`."""
    rows, columns = form.size if turn < 5 else form.size[::-1]
    return fit_image(width, height, columns, rows, form.fit)


def _place(drawn: tuple[int, int], turn: int, form: ImageForm, out: np.ndarray) -> np.ndarray:
    """The part of the sample `out` where the image is drawn, oriented as stored; the rest is filled."""
    across, down = drawn if turn < 5 else drawn[::-1]
    if (down, across) != form.size:
        out[...] = form.ground * (257 if form.dtype == "uint16" else 1)
    left, upper = round((form.size[1] - across) / 2), round((form.size[0] - down) / 2)
    return upright(out[:, upper : upper + down, left : left + across], turn)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) if it is missing or unreadable."""
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except PILLOW_ERRORS:
        return 1
    return turn if turn in range(1, 9) else 1


def _pixels(image: Image.Image, form: ImageForm) -> np.ndarray:
    """An image with 8 bits in gray or RGB, (height, width, channels) uint8, composited over the background if it is
    transparent."""
    if image.mode in TRANSPARENT or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, (form.ground,) * 3)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    mode = "L" if form.color == "gray" else "RGB"
    values = np.asarray(image if image.mode == mode else image.convert(mode))
    return values if values.ndim == 3 else values[..., None]


def _draw(pixels: np.ndarray, box: Box, out: np.ndarray) -> None:
    """Resize the box of `pixels` to all of `out`, (channels, height, width), which may have more bits."""
    size = out.shape[:0:-1]
    if size == pixels.shape[1::-1] and box == (0, 0, *size):
        drawn = pixels.transpose(2, 0, 1)
    elif pixels.dtype == np.uint16:
        planes = (Image.fromarray(plane.astype(np.float32)) for plane in pixels.transpose(2, 0, 1))
        resized = [np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box)) for plane in planes]
        drawn = np.rint(np.stack(resized)).astype(np.uint16)
    else:
        from .resize import resize  # here: importing numba takes 0.5 s, and many images need no resizing

        direct = out.dtype == np.uint8 and out.flags.c_contiguous
        drawn = out if direct else np.empty(out.shape, np.uint8)
        resize(np.ascontiguousarray(pixels), box, drawn)
        if direct:
            return
    out[...] = drawn * np.uint16(257) if out.dtype != drawn.dtype else drawn
