"""Formats that need a package which may not be installed: HEIC through pillow-heif, DICOM through pydicom.

The packages are imported at the first file that needs one.
"""

import io
from importlib import import_module
from types import ModuleType

import numpy as np
from PIL import Image

from ..format.images import ImageForm
from .depth import Deep, DepthError

# Formats that have a signature and are decoded in this process: Pillow's others start programs (EPS) or accept any file
# (TGA). Some are missing from some builds of Pillow.
KNOWN = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "SGI", "TIFF", "WEBP")
Image.init()
FORMATS = tuple(name for name in KNOWN if name in Image.OPEN)
HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
AVIF_BRANDS = frozenset((b"avif", b"avis"))


def formats_of(data: bytes) -> tuple[str, ...]:
    """The formats by which Pillow may open a file. Raises DepthError if a package for it is missing."""
    if data[4:8] != b"ftyp":
        return FORMATS
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
    if brands & AVIF_BRANDS and "AVIF" not in FORMATS:
        raise DepthError(
            "it is an AVIF image, which this build of Pillow cannot read; install another one (pip install --upgrade "
            "pillow), or convert the image to PNG"
        )
    if brands & AVIF_BRANDS or not brands & HEIF_BRANDS:
        return FORMATS
    _import("pillow_heif", "a HEIC image", "pillow-heif", "JPEG").register_heif_opener()
    return ("HEIF",)


def is_dicom(data: bytes) -> bool:
    """Whether a file is DICOM."""
    return data[128:132] == b"DICM"


def read_dicom(data: bytes, form: ImageForm) -> tuple[Image.Image | Deep, int]:
    """The first frame of a DICOM file, an image with 8 bits or values with more, and the number of frames.

    Values are those that are stored; with a range, or if some are negative, they are rescaled to their units, e.g.
    Hounsfield's. Raises DepthError for a file without pixels, and if pydicom is missing.
    """
    pydicom = _import("pydicom", "a DICOM file", "pydicom", "PNG with 16 bits")
    pixels = import_module("pydicom.pixels")
    file = pydicom.dcmread(io.BytesIO(data))
    try:
        values = pixels.pixel_array(file, index=0)
    except AttributeError as error:  # an element is missing
        raise DepthError(f"it is a DICOM file without pixels ({error})") from None
    frames = int(file.get("NumberOfFrames") or 1)
    kind, signed, bits = file.PhotometricInterpretation, file.PixelRepresentation == 1, file.BitsStored
    if kind == "PALETTE COLOR":
        values = pixels.apply_color_lut(values, file)
        signed, bits = False, values.dtype.itemsize * 8
    white = 2 ** (bits - signed) - 1
    if form.pixel_range or values.min() < 0:
        values = values * float(file.get("RescaleSlope") or 1) + float(file.get("RescaleIntercept") or 0)
    if kind == "MONOCHROME1":  # its lowest value is white
        values = (sum(form.pixel_range) if form.pixel_range else white) - values
    if bits == 8 and not signed and values.dtype == np.uint8:
        return Image.fromarray(values), frames
    return Deep(values.reshape(*values.shape[:2], -1), white), frames


def size_of_dicom(data: bytes) -> tuple[int, int]:
    """The height and width in pixels of a DICOM file. Raises DepthError if pydicom is missing."""
    pydicom = _import("pydicom", "a DICOM file", "pydicom", "PNG with 16 bits")
    head = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    return int(head.get("Rows") or 0), int(head.get("Columns") or 0)


def _import(module: str, what: str, package: str, other: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        raise DepthError(
            f"it is {what}, which needs the package {package}; install it where images are decoded (pip install "
            f"{package}), or convert the file to {other}"
        ) from None
