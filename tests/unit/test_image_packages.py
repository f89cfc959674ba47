"""HEIC and DICOM are read where their packages are installed, and otherwise named with the remedy."""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foldstream.pipeline.images.formats import is_image
from foldstream.storage.format.images import ImageForm
from foldstream.storage.pictures.decode import ImageError, decode_image
from PIL import Image

HEIC = b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heicmiaf" + bytes(100)
DICOM = bytes(128) + b"DICM" + bytes(100)
SCAN = (np.arange(600, dtype=np.int16) * 5 - 1024).reshape(20, 30)


def decoded(data: bytes, **options: Any) -> np.ndarray:
    form = ImageForm((20, 30), **options)
    sample = np.empty(form.sample_shape, form.dtype)
    decode_image(data, form, sample)
    return sample


@pytest.mark.parametrize(
    ("data", "module", "message"),
    [
        (
            HEIC,
            "pillow_heif",
            r"a HEIC image, which needs the package pillow-heif; install it .*\(pip install pillow-heif\)",
        ),
        (DICOM, "pydicom", r"a DICOM file, which needs the package pydicom; install it .*, or convert the file to PNG"),
    ],
    ids=["HEIC", "DICOM"],
)
def test_a_format_whose_package_is_missing_is_named(data: bytes, module: str, message: str) -> None:
    with pytest.raises(ImageError, match="." if find_spec(module) else message):
        decoded(data)


def test_their_files_are_images() -> None:
    assert all(map(is_image, ("a.heic", "a.HEIF", "b/c.dcm", "a.dicom", "a.avif")))


def test_heic_is_read_through_pillow_heif() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    pixels = np.full((20, 30, 3), (200, 90, 30), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "HEIF", quality=95)
    assert np.abs(decoded(out.getvalue()).astype(int) - pixels.transpose(2, 0, 1)).max() <= 3


def dicom(values: np.ndarray, **elements: Any) -> bytes:
    """A DICOM file of frames (frames, rows, columns)."""
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    file = pydicom.Dataset()
    file.file_meta = meta
    bits = values.dtype.itemsize * 8
    usual = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Rows": values.shape[1],
        "Columns": values.shape[2],
        "NumberOfFrames": len(values),
        "SamplesPerPixel": 1,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": values.tobytes(),
    }
    for name, value in {**usual, **elements}.items():
        setattr(file, name, value)
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_dicom_is_read_through_pydicom() -> None:
    stored = (SCAN + 1024).astype(np.uint16)
    frames = np.stack([stored, stored[::-1]])
    scan = dicom(frames, BitsStored=12, HighBit=11, RescaleIntercept=-1024, RescaleSlope=1)
    np.testing.assert_array_equal(decoded(scan, color="gray", dtype="uint16")[0], stored)
    np.testing.assert_array_equal(decoded(scan, color="gray")[0], np.rint(stored * (255 / 4095)))
    window = {"color": "gray", "pixel_range": (-1024.0, 1971.0)}
    np.testing.assert_array_equal(decoded(scan, **window)[0], np.rint((SCAN + 1024) / 2995 * 255))
    negative = dicom(frames, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(decoded(negative, color="gray", dtype="uint16")[0], 4095 - stored)
    eight = (stored // 12).astype(np.uint8)
    np.testing.assert_array_equal(decoded(dicom(eight[None]))[1], eight)
    with pytest.raises(ImageError, match=r"negative, down to -1024; .* --pixel-range -1024,1971"):
        decoded(dicom(SCAN[None]))


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "SC_rgb_small_odd.dcm", "examples_palette.dcm"])
def test_files_of_pydicom_are_read(name: str) -> None:
    data = pytest.importorskip("pydicom.data")
    path = data.get_testdata_file(name, download=False)
    assert len(np.unique(decoded(Path(path).read_bytes(), dtype="uint16"))) > 8
