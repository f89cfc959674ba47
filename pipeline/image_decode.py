"""One image file to one sample: bytes in, an array of the size and colour that were asked for out.

Whatever cannot be decoded to what it shows is refused with a reason; nothing is guessed.
"""

import io
import math
import struct
import warnings
import zlib

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..storage.format import ImageForm

# Formats with a signature of their own, decoded in this process: Pillow's others start programs (EPS) or take any file
# for theirs (TGA). Not all are built in everywhere.
KNOWN = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "SGI", "TIFF", "WEBP")
Image.init()
FORMATS = tuple(name for name in KNOWN if name in Image.OPEN)
MOST_PIXELS = 200_000_000
FAULTS = (OSError, ValueError, SyntaxError, RuntimeError, struct.error, zlib.error, EOFError, LookupError, TypeError)
"""What Pillow raises for files that are not what they seem."""
TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
WITHOUT_RANGE = ("I", "F")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the value of EXIF's orientation, what puts the image upright."""


class ImageError(Exception):
    """Why a file gives no sample."""


def decode_image(data: bytes, form: ImageForm) -> np.ndarray:
    """The first frame of an image file as (channels, height, width) of the form's dtype. Raises ImageError."""
    if not data:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that is not used
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _sample(image, form)
    except UnidentifiedImageError:
        raise ImageError("it is no image of a known format") from None
    except MemoryError:
        raise ImageError("it needs more memory than there is") from None
    except (*FAULTS, Image.DecompressionBombError) as error:
        raise ImageError(f"it cannot be decoded ({error or type(error).__name__})") from None


def _sample(image: Image.Image, form: ImageForm) -> np.ndarray:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(f"it has {width:,} x {height:,} pixels, more than {MOST_PIXELS:,}")
    if image.format not in ("JPEG", "MPO"):
        image.load()  # first: some formats would read their pixels to find EXIF, and a second load hides what was wrong
    turn = _orientation(image)
    rows, columns = form.size if turn < 5 else form.size[::-1]  # as the image lies in the file
    box, drawn = fit_image(width, height, columns, rows, form.fit)
    inside = box[2] - box[0], box[3] - box[1]
    enough = math.ceil(width * drawn[0] / inside[0]), math.ceil(height * drawn[1] / inside[1])
    image.draft(image.mode, enough)  # JPEG only: decoded at half, a quarter or an eighth where that is enough
    image.load()
    colored = _color(image, form)
    across, down = colored.width / width, colored.height / height
    box = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    if drawn != colored.size or box != (0, 0, *colored.size):
        colored = colored.resize(drawn, Image.Resampling.BILINEAR, box)
    if turn in TURNS:
        colored = colored.transpose(TURNS[turn])
    return _array(_padded(colored, form), form)


def fit_image(
    width: int, height: int, columns: int, rows: int, fit: str
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
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
    return turn if turn in TURNS else 1


def _color(image: Image.Image, form: ImageForm) -> Image.Image:
    """The image in gray or RGB, transparency over the background; with 16 bits as numbers of 32 (mode "F")."""
    if image.mode in WITHOUT_RANGE:
        raise ImageError("its numbers of 32 bits have no range that is known; save it with 8 or 16 bits")
    if image.mode in DEEP:
        deep = np.asarray(image).astype(np.uint16)
        if form.dtype == "uint16":
            return Image.fromarray(deep.astype(np.float32))
        image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, (form.ground,) * 3)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    mode = "L" if form.color == "gray" else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _padded(image: Image.Image, form: ImageForm) -> Image.Image:
    """The image in the middle of the sample's size."""
    rows, columns = form.size
    if image.size == (columns, rows):
        return image
    ground = form.ground * 257 if image.mode == "F" else form.ground
    canvas = Image.new(image.mode, (columns, rows), (ground,) * 3 if image.mode == "RGB" else ground)
    canvas.paste(image, (round((columns - image.width) / 2), round((rows - image.height) / 2)))
    return canvas


def _array(image: Image.Image, form: ImageForm) -> np.ndarray:
    values = np.asarray(image)
    if image.mode == "F":
        values = np.rint(values).astype(np.uint16)
    elif form.dtype == "uint16":
        values = values * np.uint16(257)
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return np.broadcast_to(planes, form.sample_shape)
