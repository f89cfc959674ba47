"""Masks as targets: which files and pixels they are, how they are drawn, trained, scored and predicted."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
from foldstream.pipeline.images.targets.pixels import draw_mask, read_mask
from foldstream.pipeline.verify import find_damage, repair_shards
from foldstream.storage.errors import SourceError, UsageError
from foldstream.storage.format.dense import IGNORED
from foldstream.storage.format.images import ImageForm
from foldstream.storage.format.manifest import LEFT_OUT
from foldstream.storage.pictures.decode import ImageError, decode_image
from foldstream.storage.tasks import SerialExecutor
from PIL import Image

from ..executors import LastFirst

COUNT, SIDE = 24, 16


def scene(number: int, height: int = SIDE, width: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a bright rectangle and a dark one on gray noise, and the classes 0, 1 and 2 of its pixels."""
    draws = np.random.default_rng(number)
    pixels, mask = draws.integers(90, 130, (height, width, 3)), np.zeros((height, width), np.uint8)
    for code, brightness in ((1, 240), (2, 10)):
        top, left = draws.integers(0, (height // 2, width // 2))
        inside = slice(top, top + height // 2), slice(left, left + width // 3)
        pixels[inside], mask[inside] = brightness, code
    return pixels.astype(np.uint8), mask


def write_scenes(folder: Path, values: tuple[int, ...] = (0, 100, 200), count: int = COUNT) -> None:
    """Pictures in `photos/`, and masks in `masks/` whose classes have these pixel values."""
    for number in range(count):
        pixels, mask = scene(number)
        name = f"{'ab'[number % 2]}/{number:03d}"
        for place, image in ((f"photos/{name}.bmp", pixels), (f"masks/{name}.png", np.array(values, np.uint8)[mask])):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / place)


def convert(folder: Path, **options: Any) -> Any:
    usual = {"masks": folder / "masks", "shuffle": None, "size": SIDE}
    return fs.convert_images(folder / "photos", folder / options.pop("out", "data.zarr"), **{**usual, **options})


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def test_a_mask_is_the_class_of_each_pixel_of_its_image(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    data = convert(tmp_path)
    schema = data.schema
    assert (schema.task, schema.labels, schema.y_dtype, schema.classes) == ("segmentation", ("mask",), "uint8", ())
    assert schema.dense
    assert (schema.dense.classes, schema.target_shape, schema.output_shape) == (
        ("0", "100", "200"),
        (SIDE, SIDE),
        (3, SIDE, SIDE),
    )
    order = [int(path.rpartition("/")[2][:3]) for path in data.rows(COUNT)["path"]]
    np.testing.assert_array_equal(data[:].y, [scene(number)[1] for number in order])
    np.testing.assert_array_equal(data[0].x.transpose(1, 2, 0), scene(order[0])[0])
    assert [(column.kind, column.distinct) for column in data.columns() if column.role == "label"] == [("mask", 3)]
    assert convert(tmp_path).identity == data.identity
    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as archive:
        for path in sorted((tmp_path / "masks").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "masks"))
    packed = convert(tmp_path, masks=tmp_path / "masks.zip", out="packed.zarr")
    assert [shard.hashes for shard in packed.manifest.shards] == [shard.hashes for shard in data.manifest.shards]


def test_a_damaged_shard_of_masks_is_repaired(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    data = convert(tmp_path)
    damaged = next(path for path in (tmp_path / "data.zarr/y/c").rglob("*") if path.is_file())
    damaged.write_bytes(b"")
    damages = find_damage(data, SerialExecutor())
    assert [damage.array for damage in damages] == ["y"]
    repair_shards(data, damages, LastFirst())
    assert not find_damage(data, SerialExecutor())


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(40, 60), (61, 33), (7, 9)])
@pytest.mark.parametrize("turn", [1, 6])
def test_a_mask_is_drawn_where_its_image_is(fit: str, size: tuple[int, int], turn: int) -> None:
    """An image that is its own mask, apart from noise, has the same pixels in both, where they are not at an edge."""
    form = ImageForm((20, 30), "gray", fit)
    _, mask = scene(3, *size)
    upright = Image.fromarray(mask * 100 + 20)
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = upright.rotate(90, expand=True) if turn == 6 else upright
    sample, drawn = np.empty(form.sample_shape, np.uint8), np.empty(form.size, np.uint8)
    decode_image(encoded(stored, exif=exif), form, sample)
    classes = np.arange(3)
    draw_mask(read_mask(encoded(Image.fromarray(mask))), classes, np.array([], np.int64), size, form, drawn)
    codes = np.where(sample[0] == 255, IGNORED, np.searchsorted([70, 170], sample[0]))
    differ = codes != drawn
    assert differ.mean() < 0.2  # blurred edges between two classes look like the third one, or another one
    counts = drawn != IGNORED
    np.testing.assert_array_equal(counts.any(axis=0), (sample[0] != 255).any(axis=0))
    np.testing.assert_array_equal(counts.any(axis=1), (sample[0] != 255).any(axis=1))


def palette() -> Image.Image:
    image = Image.fromarray(scene(0)[1], "P")
    image.putpalette([*range(0, 9), *[0] * 759])
    return image


MASK = scene(0)[1]


@pytest.mark.parametrize(
    ("image", "scale"),
    [
        (palette(), 1),
        (Image.fromarray(MASK * 100), 100),
        (Image.fromarray(MASK.astype(np.uint16) * 1000), 1000),
        (Image.fromarray(MASK == 1), None),
        (Image.fromarray(np.stack([MASK] * 3, axis=-1)), 1),
    ],
    ids=["palette", "gray", "16 bits", "bilevel", "gray as RGB"],
)
def test_the_values_of_a_mask(image: Image.Image, scale: int | None) -> None:
    found = read_mask(encoded(image))
    np.testing.assert_array_equal(found, MASK == 1 if scale is None else MASK.astype(np.int64) * scale)


COLORS = np.stack([MASK, MASK * 2, MASK], axis=-1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(Image.fromarray(COLORS)), "a color image; write it as a PNG whose gray or palette values"),
        (encoded(Image.fromarray(MASK), "JPEG"), "a JPEG, which changes pixel values"),
        (encoded(Image.fromarray(MASK.astype(np.float32)), "TIFF"), "pixels of the kind F"),
        (encoded(Image.fromarray(np.stack([MASK, MASK], axis=-1))), "partly transparent"),
        (b"", "an empty file"),
        (b"no image", "its mask: the file is not an image"),
        (encoded(Image.fromarray(MASK))[:60], "its mask: the image cannot be decoded"),
    ],
)
def test_what_is_no_mask_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_mask(data)


def test_invalid_masks_stop_or_are_skipped(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    masks = tmp_path / "masks"
    (masks / "a/000.png").unlink()
    Image.fromarray(scene(1)[1][:, :10]).save(masks / "b/001.png")
    (masks / "a/002.png").write_bytes(b"nothing")
    Image.fromarray(np.arange(512).astype(np.uint16).reshape(16, 32)).save(masks / "b/003.png")
    with pytest.raises(SourceError, match=r"000\.bmp: it has no mask of the same path .and 2 more"):
        convert(tmp_path)
    data = convert(tmp_path, on_error="skip")
    assert (len(data), data.left_out) == (COUNT - 4, 4)
    listed = (tmp_path / "data.zarr" / LEFT_OUT).read_text()
    for reason in (
        "no mask",
        "16 x 10 pixels .* but the image 16 x 16",
        "mask: the file is not",
        "512 pixel values",
    ):
        assert re.search(reason, listed), reason


@pytest.mark.parametrize("count", [1, 4])
def test_an_image_with_several_masks_says_which(count: int, tmp_path: Path) -> None:
    write_scenes(tmp_path, count=4)
    for mask in sorted((tmp_path / "masks").rglob("*.png"))[:count]:
        mask.with_suffix(".tif").write_bytes(mask.read_bytes())
    whole = "none of the 4 images has a valid mask: e.g. " if count == 4 else ""
    with pytest.raises(SourceError, match=f"{whole}.*000.bmp: it has several masks: a/000.png and a/000.tif"):
        convert(tmp_path)


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [
        ((0, 0, 0), {}, UsageError, "all pixels of the masks have the value 0"),
        ((0, 100, 200), {"label_pattern": "(a)"}, UsageError, "both say what the targets are"),
        ((0, 100, 200), {"masks": None, "mask_ignore": 255}, UsageError, "there are no masks"),
        ((0, 100, 200), {"masks": "elsewhere"}, SourceError, "does not exist"),
    ],
)
def test_what_makes_no_sense_is_refused(
    values: tuple[int, ...], options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    write_scenes(tmp_path, values, 4)
    with pytest.raises(error, match=message):
        convert(tmp_path, **options)


def test_too_many_values_are_no_classes(tmp_path: Path) -> None:
    for number in range(2):
        for place in ("photos", "masks"):
            (tmp_path / place).mkdir(exist_ok=True)
            values = (np.arange(256) + 256 * number).astype(np.uint16).reshape(16, 16)
            Image.fromarray(values).save(tmp_path / place / f"{number}.png")
    with pytest.raises(SourceError, match=r"512 different pixel values .0, 1, 2, 3, 4, ….*at most 255 classes"):
        convert(tmp_path)


def test_pixels_that_do_not_count_and_a_later_dataset(tmp_path: Path) -> None:
    write_scenes(tmp_path, (0, 7, 255))
    data = convert(tmp_path, mask_ignore=255)
    assert data.schema.dense.classes == ("0", "7")
    y = data[:].y
    assert {*np.unique(y)} == {0, 1, IGNORED}
    later = convert(tmp_path, like=data, size=None, out="later.zarr")
    assert later.schema.dense == data.schema.dense
    np.testing.assert_array_equal(later[:].y, y)
    write_scenes(tmp_path, (0, 8, 255))
    with pytest.raises(SourceError, match="its mask has the pixel value 8, which does not occur in the training data"):
        convert(tmp_path, like=data, size=None, out="other.zarr")
