"""The size of samples that is chosen if none is given."""

import zipfile
from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
from PIL import Image

from .test_images import photo

TURNED = 6  # the EXIF orientation of a camera that was held upright


def converted(photos: Path, **options: Any) -> tuple[tuple[int, ...], list[str]]:
    """The shape of samples, and what was said of the size."""
    told: list[str] = []
    listener = fs.Listener(announce=lambda name, what: told.append(what) if name == "size" else None)
    dataset = fs.convert_images(photos, photos.with_suffix(".zarr"), listener=listener, **options)
    return dataset.schema.sample_shape, told


def save(folder: Path, sizes: list[tuple[int, int]], turn: int = 1) -> Path:
    """Photos of (width, height), half of each class."""
    exif = Image.Exif()
    exif[0x0112] = turn
    for number, size in enumerate(sizes):
        file = folder / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(*size).save(file, exif=exif)
    return folder


@pytest.mark.parametrize(
    ("sizes", "turn", "shape", "said"),
    [
        ([(20, 28)] * 4, 1, (3, 28, 20), "28 x 20, as the images"),
        ([(20, 28)] * 4, TURNED, (3, 20, 28), "20 x 28, as the images"),
        ([(30, 20), (20, 40), (24, 24), (50, 22)], 1, (3, 21, 21), "21 x 21, the images have about 23 x 27 pixels"),
        ([(200, 150)] * 4, 1, (3, 64, 64), "64 x 64, the images have about 150 x 200 pixels; size= keeps more of them"),
    ],
    ids=["small", "turned", "different", "large"],
)
def test_it_follows_from_the_images(
    sizes: list[tuple[int, int]], turn: int, shape: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    got, told = converted(save(tmp_path / "photos", sizes, turn))
    assert got == shape
    assert len(told) == 1
    assert told[0].startswith(said)


def test_a_size_that_is_given_is_kept(tmp_path: Path) -> None:
    assert converted(save(tmp_path / "photos", [(200, 150)] * 4), size=(12, 16)) == ((3, 12, 16), [])


def test_images_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    photos = save(tmp_path / "photos", [(20, 28)] * 4)
    (photos / "a" / "broken.jpg").write_bytes(b"no image")
    assert converted(photos, on_error="skip")[0] == (3, 28, 20)


def test_the_same_command_finds_what_it_converted(tmp_path: Path) -> None:
    photos = save(tmp_path / "photos", [(20, 28)] * 6)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in sorted(photos.rglob("*.jpg")):
            archive.write(file, file.relative_to(photos))
    first = fs.convert_images(tmp_path / "packed.zip", tmp_path / "packed.zarr")
    again = fs.convert_images(tmp_path / "packed.zip", tmp_path / "packed.zarr")
    assert first.schema.sample_shape == (3, 28, 20)
    assert again.identity == first.identity
    like = fs.convert_images(save(tmp_path / "other", [(90, 70)]), tmp_path / "other.zarr", like=first)
    assert like.schema.sample_shape == (3, 28, 20)
