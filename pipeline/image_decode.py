"""One image file to one sample: bytes in, an array of the size and colour that were asked for out.

Whatever cannot be decoded to what it shows is refused with a reason; nothing is guessed.
"""

import io
import struct
import warnings
import zlib

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from ..storage.format import ImageForm
from .image_resize import Box, resize

# Formats with a signature of their own, decoded in this process: Pillow's others start programs (EPS) or take any file
# for theirs (TGA). Not all are built in everywhere.
KNOWN = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "SGI", "TIFF", "WEBP")
Image.init()
FORMATS = tuple(name for name in KNOWN if name in Image.OPEN)
MOST_PIXELS = 200_000_000
FAULTS = (OSError, ValueError, SyntaxError, RuntimeError, struct.error, zlib.error, EOFError, LookupError, TypeError)
"""What Pillow raises for files that are not what they seem."""
JPEG = b"\xff\xd8\xff"
TURNING = (b"Exif\0", b"tiff:Orientation")  # without these in it, a JPEG lies as it is shown
TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
WITHOUT_RANGE = ("I", "F")
MIRRORED = {
    1: (False, False),
    2: (True, False),
    3: (True, True),
    4: (False, True),
    5: (False, False),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}
"""By the value of EXIF's orientation, whether an image lies in its file with left and right, or up and down exchanged,
once height and width have been."""


class ImageError(Exception):
    """Why a file gives no sample."""


def decode_image(data: bytes, form: ImageForm, out: np.ndarray) -> None:
    """Put the first frame of an image file into `out`, (channels, height, width) of the form's dtype.

    Raises ImageError.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that is not used
            if not (data.startswith(JPEG) and _decode_jpeg(data, form, out)):
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    _decode(image, form, out)
    except UnidentifiedImageError:
        raise ImageError("it is no image of a known format") from None
    except MemoryError:
        raise ImageError("it needs more memory than there is") from None
    except (*FAULTS, Image.DecompressionBombError) as error:
        raise ImageError(f"it cannot be decoded ({error or type(error).__name__})") from None


def _decode_jpeg(data: bytes, form: ImageForm, out: np.ndarray) -> bool:
    """Decode a JPEG at a half, a quarter or an eighth of its size, where that is enough for what is drawn.

    Returns False, and leaves it to Pillow to say what it is, if there is anything unusual about it.
    """
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data)
        if color not in ("YCbCr", "RGB", "Gray"):
            return False
        _check_pixels(width, height)
        turn = 1
        if any(sign in data for sign in TURNING):
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                turn = _orientation(image)
        box, drawn = _fit_turned(width, height, turn, form)
        enough = max(drawn[0] / (box[2] - box[0]), drawn[1] / (box[3] - box[1]))
        part = next((part for part in (8, 4, 2) if part * enough <= 1), 1)
        pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if form.color == "gray" else "RGB",
            min_width=-(-width // part),
            min_height=-(-height // part),
        )
    except (ValueError, UnidentifiedImageError):
        return False
    scale = pixels.shape[1] / width, pixels.shape[0] / height
    box = box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1]
    _draw(pixels, box, _place(drawn, turn, form, out))
    return True


def _decode(image: Image.Image, form: ImageForm, out: np.ndarray) -> None:
    """Decode any image with Pillow."""
    width, height = image.size
    _check_pixels(width, height)
    image.load()  # before EXIF: some formats would read their pixels to find it, and a second load hides what was wrong
    turn = _orientation(image)
    box, drawn = _fit_turned(width, height, turn, form)
    _draw(_pixels(image, form), box, _place(drawn, turn, form, out))


def _check_pixels(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ImageError(f"it has {width:,} x {height:,} pixels, more than {MOST_PIXELS:,}")


def _fit_turned(width: int, height: int, turn: int, form: ImageForm) -> tuple[Box, tuple[int, int]]:
    """`fit_image` for an image that lies in its file by EXIF's orientation `turn`."""
    rows, columns = form.size if turn < 5 else form.size[::-1]
    return fit_image(width, height, columns, rows, form.fit)


def _place(drawn: tuple[int, int], turn: int, form: ImageForm, out: np.ndarray) -> np.ndarray:
    """The part of the sample `out` where the image is drawn, as it lies in its file; the rest is filled."""
    across, down = drawn if turn < 5 else drawn[::-1]
    if (down, across) != form.size:
        out[...] = form.ground * (257 if form.dtype == "uint16" else 1)
    left, upper = round((form.size[1] - across) / 2), round((form.size[0] - down) / 2)
    return _lying(out[:, upper : upper + down, left : left + across], turn)


def fit_image(width: int, height: int, columns: int, rows: int, fit: str) -> tuple[Box, tuple[int, int]]:
    """Which box of an image is drawn (left, upper, right, lower), and how large (width, height).

    "stretch" draws all of it on all of the sample, "pad" all of it as large as it fits, "crop" so much of its middle
    that the sample is full.
    """
    if fit == "pad":
        scale = min(columns / width, rows / height)
        return (0, 0, width, height), (max(1, round(width * scale)), max(1, round(height * scale)))
    if fit == "stretch":
        return (0, 0, width, height), (columns, rows)
    scale = max(columns / width, rows / height)
    left, upper = max(0.0, (width - columns / scale) / 2), max(0.0, (height - rows / scale) / 2)
    return (left, upper, width - left, height - upper), (columns, rows)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) where there is none or none that can be read."""
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except FAULTS:
        return 1
    return turn if turn in range(1, 9) else 1


def _lying(out: np.ndarray, turn: int) -> np.ndarray:
    """A view of the sample `out` in which an image lies as in its file, so that what is drawn there is upright.

    `turn` is EXIF's orientation: from 5 on, height and width are exchanged; then left and right, or up and down are.
    """
    if turn >= 5:
        out = out.swapaxes(1, 2)
    across, down = MIRRORED[turn]
    return out[:, :: -1 if down else 1, :: -1 if across else 1]


def _pixels(image: Image.Image, form: ImageForm) -> np.ndarray:
    """The image in gray or RGB, (height, width, channels), transparency over the background; of uint16 where there
    are 16 bits and the form keeps them, else of uint8."""
    if image.mode in WITHOUT_RANGE:
        raise ImageError("its numbers of 32 bits have no range that is known; save it with 8 or 16 bits")
    if image.mode in DEEP:
        deep = np.asarray(image).astype(np.uint16)
        if form.dtype == "uint16":
            return np.repeat(deep[..., None], form.sample_shape[0], axis=2)
        image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, (form.ground,) * 3)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    mode = "L" if form.color == "gray" else "RGB"
    values = np.asarray(image if image.mode == mode else image.convert(mode))
    return values if values.ndim == 3 else values[..., None]


def _draw(pixels: np.ndarray, box: Box, out: np.ndarray) -> None:
    """Draw the box of `pixels` on all of `out`, (channels, height, width), which may have more bits."""
    size = out.shape[:0:-1]
    if size == pixels.shape[1::-1] and box == (0, 0, *size):
        drawn = pixels.transpose(2, 0, 1)
    elif pixels.dtype == np.uint16:
        planes = (Image.fromarray(plane.astype(np.float32)) for plane in pixels.transpose(2, 0, 1))
        resized = [np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box)) for plane in planes]
        drawn = np.rint(np.stack(resized)).astype(np.uint16)
    else:
        direct = out.dtype == np.uint8 and out.flags.c_contiguous
        drawn = out if direct else np.empty(out.shape, np.uint8)
        resize(np.ascontiguousarray(pixels), box, drawn)
        if direct:
            return
    out[...] = drawn * np.uint16(257) if out.dtype != drawn.dtype else drawn
