"""The pixels of targets, drawn exactly where their images are drawn: values of masks, as stored in the file, become
codes of classes."""

import io

import numpy as np
from PIL import Image, ImageOps

from ....storage.format.dense import IGNORED
from ....storage.format.images import ImageForm
from ....storage.pictures.decode import ImageError, check_pixels, decode_image, upright_size, with_a_reason
from ....storage.pictures.fit import fit_image
from ....storage.pictures.foreign import formats_of

WHOLE = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I;16N", "I")
"""The modes of images with one whole number per pixel; of a palette it is the index."""
REMEDY = "write it as a PNG whose gray or palette values are the numbers of the classes"


def read_mask(data: bytes) -> np.ndarray:
    """The pixel values of a mask, (height, width) int64, as the image is looked at. Raises ImageError for a file that
    cannot be decoded, or whose pixels are not whole numbers that were stored without loss."""
    if not data:
        raise ImageError("its mask is an empty file")
    with with_a_reason("its mask: "), Image.open(io.BytesIO(data), formats=formats_of(data)) as image:
        check_pixels(*image.size)
        if image.format == "JPEG":
            raise ImageError(f"its mask is a JPEG, which changes pixel values; {REMEDY}")
        image.load()
        values = np.asarray(ImageOps.exif_transpose(image))
        mode = image.mode
    if mode in ("RGB", "RGBA", "LA"):
        values = _gray(values, mode)
    elif mode not in WHOLE:
        raise ImageError(f"its mask has pixels of the kind {mode}, not whole numbers; {REMEDY}")
    return values.astype(np.int64)


def _gray(values: np.ndarray, mode: str) -> np.ndarray:
    """The values of an opaque image whose channels are all equal, as some programs store masks."""
    channels = values[..., :-1] if mode.endswith("A") else values
    if mode.endswith("A") and (values[..., -1] != 255).any():
        raise ImageError(f"its mask is partly transparent; {REMEDY}")
    if (channels != channels[..., :1]).any():
        raise ImageError(f"its mask is a color image; {REMEDY}")
    first: np.ndarray = channels[..., 0]
    return first


def draw_mask(
    values: np.ndarray,
    classes: np.ndarray,
    ignored: np.ndarray,
    size: tuple[int, int],
    form: ImageForm,
    out: np.ndarray,
) -> None:
    """Draw a mask of an image of this (height, width) into `out`, (height, width) uint8 of the form, as the image is
    drawn, by nearest neighbor: codes of its values among `classes`, and IGNORED for those in `ignored` and the padding;
    both are sorted, (n,) int64.

    Raises ImageError for another size, and for a value that is neither.
    """
    height, width = values.shape
    if (height, width) != size:
        raise ImageError(
            f"its mask has {height:,} x {width:,} pixels (height x width), but the image {size[0]:,} x {size[1]:,}"
        )
    (left, upper, right, lower), (across, down) = fit_image(width, height, form.size[1], form.size[0], form.fit)
    chosen = values[nearest(upper, lower, down, height)][:, nearest(left, right, across, width)]
    codes = np.minimum(np.searchsorted(classes, chosen), len(classes) - 1)
    counts = ~np.isin(chosen, ignored)
    if (unknown := counts & (classes[codes] != chosen)).any():
        raise ImageError(
            f"its mask has the pixel value {chosen[unknown][0]}, which does not occur in the training data"
        )
    out[...] = IGNORED
    top, start = round((form.size[0] - down) / 2), round((form.size[1] - across) / 2)
    out[top : top + down, start : start + across] = np.where(counts, codes, IGNORED)


def draw_target(data: bytes, size: tuple[int, int], form: ImageForm, out: np.ndarray) -> None:
    """Decode the target of an image of this (height, width) into `out`, (channels, height, width), as the image is
    decoded. Raises ImageError, also for a target of another shape: it may be larger or smaller than the image."""
    try:
        height, width = upright_size(data)
        decode_image(data, form, out)
    except ImageError as error:
        raise ImageError(f"its target: {error}") from None
    if abs(height * size[1] - width * size[0]) >= max(height, width, *size):  # as if a side had another pixel
        raise ImageError(
            f"its target has {height:,} x {width:,} pixels (height x width), but the image {size[0]:,} x {size[1]:,}, "
            "which is another shape"
        )


def nearest(low: float, high: float, count: int, size: int) -> np.ndarray:
    """The pixels, out of `size`, at the centers of `count` equal parts from `low` to `high`, (count,) int64."""
    at = np.floor(low + (np.arange(count) + 0.5) * (high - low) / count).astype(np.int64)
    return np.clip(at, 0, size - 1)
