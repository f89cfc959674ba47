"""Images with more than 8 bits are read as they are with uint16; otherwise they are scaled, and that is said."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import foldstream as fs
import numpy as np
import pytest
from foldstream.cluster.listener import Listener
from foldstream.storage.errors import SourceError, UsageError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.pictures.decode import ImageError, decode_image
from foldstream.storage.tasks import SerialExecutor
from PIL import Image

HEIGHT, WIDTH = 20, 30
DEEP = (np.arange(600, dtype=np.uint16) * 109).reshape(HEIGHT, WIDTH)
COLORS = np.stack([DEEP, DEEP[::-1], np.full_like(DEEP, 1000)], axis=2)


def decoded(data: bytes, **options: Any) -> np.ndarray:
    form = ImageForm((HEIGHT, WIDTH), **{"color": "gray", "dtype": "uint16", **options})
    sample = np.empty(form.sample_shape, form.dtype)
    decode_image(data, form, sample)
    return sample


def encoded(values: np.ndarray, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, format, **options)
    return out.getvalue()


def ppm(values: np.ndarray, most: int = 65535, plain: bool = False) -> bytes:
    """A PGM or PPM file."""
    kind = {(1, False): "P5", (3, False): "P6", (1, True): "P2", (3, True): "P3"}[np.atleast_3d(values).shape[2], plain]
    head = f"{kind} {WIDTH} {HEIGHT} {most}\n".encode()
    return head + (" ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes())


def png(values: np.ndarray) -> bytes:
    """A PNG file with 16 bits, which Pillow does not write in color."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[np.atleast_3d(values).shape[2]]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, order: Literal["<", ">"] = "<", packed: bool = False) -> bytes:
    """A TIFF file of numbers of any kind, with one strip."""
    channels = np.atleast_3d(values).shape[2]
    pixels = np.ascontiguousarray(values.astype(values.dtype.newbyteorder(order))).tobytes()
    data = zlib.compress(pixels) if packed else pixels
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = values.dtype.itemsize * 8
    fields = [
        (256, values.shape[1]),
        (257, values.shape[0]),
        (259, 8 if packed else 1),
        (262, 2 if channels > 2 else 1),
    ]
    fields += [(273, 8), (277, channels), (278, values.shape[0]), (279, len(data)), (284, 1)]
    longs = [struct.pack(f"{order}HHII", tag, 4, 1, number) for tag, number in fields]
    at = 8 + len(data)
    for tag, number in ((258, bits), (339, kind)):
        if channels == 1:
            longs.append(struct.pack(f"{order}HHIHH", tag, 3, 1, number, 0))
        else:
            data += struct.pack(f"{order}{channels}H", *[number] * channels)
            longs.append(struct.pack(f"{order}HHII", tag, 3, channels, at))
            at += 2 * channels
    if channels == 4:
        longs.append(struct.pack(f"{order}HHIHH", 338, 3, 1, 2, 0))
    entries = sorted(longs, key=lambda entry: struct.unpack(f"{order}H", entry[:2]))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)


GRAYS: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded(DEEP, "PNG"),
    "PGM": lambda: ppm(DEEP),
    "plain PGM": lambda: ppm(DEEP, plain=True),
    "PGM with another white": lambda: ppm(DEEP, int(DEEP.max())),
    "TIFF": lambda: tiff(DEEP),
    "TIFF of Motorola": lambda: tiff(DEEP, ">"),
    "packed TIFF": lambda: tiff(DEEP, packed=True),
    "signed TIFF": lambda: tiff((DEEP // 2).astype(np.int16)),
    "signed TIFF of Motorola": lambda: tiff((DEEP // 2).astype(np.int16), ">"),
    "twelve bits": lambda: encoded(DEEP // 16, "PNG"),
    "PGM of twelve bits": lambda: ppm(DEEP // 16, 4095),
}


@pytest.mark.parametrize("name", GRAYS)
def test_gray_values_are_kept(name: str) -> None:
    part = 2 if "signed" in name else 16 if "twelve" in name else 1
    np.testing.assert_array_equal(decoded(GRAYS[name]())[0], DEEP // part)
    np.testing.assert_array_equal(decoded(GRAYS[name](), color="rgb"), np.stack([DEEP // part] * 3))


COLORED: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: png(COLORS),
    "PPM": lambda: ppm(COLORS),
    "plain PPM": lambda: ppm(COLORS, plain=True),
    "TIFF": lambda: tiff(COLORS),
    "TIFF of Motorola": lambda: tiff(COLORS, ">"),
    "packed TIFF": lambda: tiff(COLORS, packed=True),
}


@pytest.mark.parametrize("name", COLORED)
def test_colors_with_16_bits_are_kept(name: str) -> None:
    np.testing.assert_array_equal(decoded(COLORED[name](), color="rgb"), COLORS.transpose(2, 0, 1))
    gray = decoded(COLORED[name]())[0]
    assert np.abs(gray - COLORS @ [0.299, 0.587, 0.114]).max() <= 1
    eight = decoded(COLORED[name](), color="rgb", dtype="uint8")
    assert np.abs(eight - COLORS.transpose(2, 0, 1) / 257).max() <= 1


@pytest.mark.parametrize("file", [png, tiff])
def test_transparent_colors_with_16_bits_take_the_background(file: Callable[[np.ndarray], bytes]) -> None:
    alpha = np.zeros_like(DEEP)
    alpha[:, :10], alpha[:, 10:20] = 65535, 32768
    found = decoded(file(np.concatenate([COLORS, alpha[..., None]], axis=2)), color="rgb").transpose(1, 2, 0)
    np.testing.assert_array_equal(found[:, :10], COLORS[:, :10])
    assert np.abs(found[:, 10:20].astype(int) - (COLORS[:, 10:20] / 2 + 32767.5)).max() <= 2
    assert (found[:, 20:] == 65535).all()


def test_a_range_is_scaled_to_all_values() -> None:
    twelve = encoded(DEEP // 16, "PNG")
    np.testing.assert_array_equal(
        decoded(twelve, dtype="uint8", pixel_range=(0, 4095))[0], np.rint(DEEP // 16 / 4095 * 255)
    )
    np.testing.assert_array_equal(decoded(twelve, pixel_range=(0, 4095))[0], np.rint(DEEP // 16 / 4095 * 65535))
    scan = (DEEP.astype(np.int32) - 1024).clip(-1024, 3071)
    expected = np.rint((scan + 1024) / 4095 * 255)
    for values in (scan.astype(np.int16), scan.astype(np.int32), scan.astype(np.float32)):
        np.testing.assert_array_equal(decoded(tiff(values), dtype="uint8", pixel_range=(-1024, 3071))[0], expected)
    holes = np.where(DEEP > 9000, np.nan, DEEP).astype(np.float32)
    found = decoded(tiff(holes), dtype="uint8", pixel_range=(0, 9000))[0]
    np.testing.assert_array_equal(found, np.rint(np.where(DEEP > 9000, 0, DEEP) / 9000 * 255))
    bright = decoded(png(COLORS), color="rgb", pixel_range=(0, 1000))
    np.testing.assert_array_equal(bright[2], np.full_like(DEEP, 65535))
    eight = encoded((DEEP // 257).astype(np.uint8), "PNG")
    np.testing.assert_array_equal(decoded(eight, pixel_range=(0, 10)), decoded(eight))  # its range is known


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((DEEP // 20).astype(np.int16) - 1024, r"negative, down to -1024; .* e\.g\. --pixel-range -1024,2240"),
        ((DEEP // 257).astype(np.int8), r"negative, down to -128"),
        (DEEP.astype(np.int32), r"range of its 32-bit pixel values is unknown; .* --pixel-range 0,65291"),
        (DEEP.astype(np.float32), r"range of its 32-bit pixel values is unknown"),
    ],
    ids=["int16", "int8", "int32", "float32"],
)
def test_values_without_a_range_are_refused(values: np.ndarray, message: str) -> None:
    for dtype in ("uint8", "uint16"):
        with pytest.raises(ImageError, match=message):
            decoded(tiff(values), dtype=dtype)


def test_what_was_scaled_and_left_out_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "colors.png").write_bytes(png(COLORS))
    (folder / "twelve.pgm").write_bytes(encoded(DEEP // 16, "PNG"))
    pages = [Image.fromarray((DEEP // 257 + page).astype(np.uint8)) for page in range(3)]
    for number, suffix in enumerate(("tif", "gif", "png", "webp")):
        pages[0].save(folder / f"{number}.{suffix}", save_all=True, append_images=pages[1:])
    warnings: list[str] = []
    listener = Listener(announce=lambda name, text: warnings.append(text))
    options: dict[str, Any] = {"size": (HEIGHT, WIDTH), "color": "gray", "shuffle": None, "client": SerialExecutor()}
    fs.convert_images(folder, tmp_path / "a.zarr", listener=listener, **options)
    said = [
        "4 images have several pages or frames; the first one of each was taken",
        '2 images have more than 8 bits and were scaled to 8; dtype="uint16" keeps 16',
        "the images with 16 bits have values of at most 4,080, so they are dark; pixel_range=0,4095 makes 4,095 white",
    ]
    assert warnings == said
    x, _, _ = fs.open(tmp_path / "a.zarr")[:]
    assert np.abs(x[0, 0].astype(int) - pages[0]).max() <= 0
    warnings.clear()
    fs.convert_images(
        folder, tmp_path / "b.zarr", dtype="uint16", listener=listener, **{**options, "pixel_range": "0,4095"}
    )
    assert warnings == said[:1]
    assert fs.open(tmp_path / "b.zarr").schema.image == ImageForm(
        (HEIGHT, WIDTH), "gray", dtype="uint16", pixel_range=(0.0, 4095.0)
    )
    with pytest.raises(UsageError, match="pixel_range=5,5: must be two numbers, the lower one first"):
        fs.convert_images(folder, tmp_path / "c.zarr", **{**options, "pixel_range": "5,5"})
    with pytest.raises(SourceError, match=r"0\.tif: it has several pages or frames, which strict=True refuses"):
        fs.convert_images(folder, tmp_path / "d.zarr", strict=True, **options)
    skipped = fs.convert_images(folder, tmp_path / "e.zarr", strict=True, on_error="skip", dtype="uint16", **options)
    assert (len(skipped), skipped.left_out) == (2, 4)
    with pytest.raises(ImageError, match="it has more bits than are kept, which --strict refuses"):
        decoded(png(COLORS), dtype="uint8", strict=True)
