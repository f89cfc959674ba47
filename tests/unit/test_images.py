"""Images: each state of a file ends as the reference decodes it or is refused; lists, labels, archives, skipping."""

import io
import os
import signal
import struct
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from foldstream.pipeline.images.convert import convert_images
from foldstream.pipeline.images.files import ImageFile
from foldstream.pipeline.images.spec import ImageRequest
from foldstream.pipeline.images.watchdog import decode_images
from foldstream.pipeline.verify import find_damage, repair_shards
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError, FoldstreamError, SourceError, UsageError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.format.manifest import LEFT_OUT
from foldstream.storage.pictures.decode import MOST_PIXELS, ImageError
from foldstream.storage.pictures.decode import decode_image as decode_into
from foldstream.storage.tasks import SerialExecutor
from PIL import Image, ImageOps

from ..conftest import contents, convert_file
from .test_csv import read_all

RGB = ImageForm((20, 30))
GRAY = ImageForm((20, 30), "gray")


def photo(width: int = 60, height: int = 40) -> Image.Image:
    """A smooth picture with all colours, and a different corner each."""
    y, x = np.mgrid[:height, :width]
    planes = (255 * x / width, 255 * y / height, 255 * (1 + np.sin(x / 9) * np.cos(y / 7)) / 2)
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def decode_image(data: bytes, form: ImageForm) -> np.ndarray:
    sample = np.full(form.sample_shape, 77, form.dtype)
    decode_into(data, form, sample)
    return sample


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def reference(image: Image.Image, form: ImageForm = RGB) -> np.ndarray:
    """What an image is to become, by Pillow's own ways to fit."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA"):
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    mode, size = "RGB" if form.color == "rgb" else "L", form.size[::-1]
    image = image.convert(mode)
    if form.fit == "pad":
        image = ImageOps.pad(image, size, Image.Resampling.BILINEAR, "white" if mode == "RGB" else 255)
    elif form.fit == "crop":
        image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    else:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(*form.size, -1).transpose(2, 0, 1)


def with_alpha(image: Image.Image) -> Image.Image:
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, 1)))
    image = image.copy()
    image.putalpha(alpha)
    return image


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(photo(), "JPEG", quality=95, exif=exif)


def animation(format: str) -> bytes:
    return encoded(photo(), format, save_all=True, append_images=[ImageOps.invert(photo())])


SOUND: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded(photo(), "JPEG", quality=95),
    "progressive JPEG": lambda: encoded(photo(), "JPEG", quality=95, progressive=True),
    "gray JPEG": lambda: encoded(photo().convert("L"), "JPEG", quality=95),
    "CMYK JPEG": lambda: encoded(photo().convert("CMYK"), "JPEG", quality=95),
    "a large JPEG, drawn small": lambda: encoded(photo(600, 400), "JPEG", quality=95),
    "a tall JPEG": lambda: encoded(photo(40, 200), "JPEG", quality=95),
    "one pixel": lambda: encoded(photo(1, 1), "PNG"),
    "a narrow PNG": lambda: encoded(photo(90, 4), "PNG"),
    "PNG": lambda: encoded(photo(), "PNG"),
    "PNG of the sample's size": lambda: encoded(photo(30, 20), "PNG"),
    "gray PNG": lambda: encoded(photo().convert("L"), "PNG"),
    "two colours PNG": lambda: encoded(photo().convert("1"), "PNG"),
    "palette PNG": lambda: encoded(photo().quantize(40), "PNG"),
    "palette PNG with a transparent colour": lambda: encoded(photo().quantize(40), "PNG", transparency=3),
    "RGBA PNG": lambda: encoded(with_alpha(photo()), "PNG"),
    "gray PNG with alpha": lambda: encoded(with_alpha(photo()).convert("LA"), "PNG"),
    "RGB PNG with a transparent colour": lambda: encoded(photo(), "PNG", transparency=(0, 0, 127)),
    "GIF": lambda: encoded(photo().quantize(60), "GIF"),
    "GIF with transparency": lambda: encoded(photo().quantize(60), "GIF", transparency=5),
    "animated GIF": lambda: animation("GIF"),
    "animated PNG": lambda: animation("PNG"),
    "BMP": lambda: encoded(photo(), "BMP"),
    "palette BMP": lambda: encoded(photo().quantize(60), "BMP"),
    "TIFF": lambda: encoded(photo(), "TIFF"),
    "TIFF with LZW": lambda: encoded(photo(), "TIFF", compression="tiff_lzw"),
    "CMYK TIFF": lambda: encoded(photo().convert("CMYK"), "TIFF"),
    "TIFF of two pages": lambda: animation("TIFF"),
    "WebP": lambda: encoded(photo(), "WEBP", quality=95),
    "lossless WebP with alpha": lambda: encoded(with_alpha(photo()), "WEBP", lossless=True),
    "animated WebP": lambda: animation("WEBP"),
    "AVIF": lambda: encoded(photo(), "AVIF", quality=95),
    "JPEG 2000": lambda: encoded(photo(), "JPEG2000"),
    "PPM": lambda: encoded(photo(), "PPM"),
    "PGM": lambda: encoded(photo().convert("L"), "PPM"),
    "ICO": lambda: encoded(photo(32, 32), "ICO", sizes=[(32, 32)]),
    "SGI": lambda: encoded(photo(), "SGI"),
    "bytes behind the end": lambda: encoded(photo(), "PNG") + b"more",
    **{f"EXIF orientation {value}": partial(orientation, value) for value in range(1, 9)},
    "EXIF orientation 77": lambda: orientation(77),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_an_image_becomes_what_the_reference_decoding_gives(name: str, fit: str) -> None:
    data = SOUND[name]()
    for color in ("rgb", "gray"):
        form = ImageForm((20, 30), color, fit)
        with Image.open(io.BytesIO(data)) as image:
            expected = reference(image, form).astype(int)
        found = decode_image(data, form)
        assert found.shape == form.sample_shape
        assert found.dtype == np.uint8
        off = np.abs(found.astype(int) - expected)
        if data.startswith(b"\xff\xd8"):  # JPEG is decoded at a part of its size
            assert off.mean() < 2
        else:
            assert off.max() <= 1


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than it has."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")


def flipped(data: bytes, at: float) -> bytes:
    """With one byte changed."""
    position = int(len(data) * at)
    return data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]


def half(name: str) -> bytes:
    data = SOUND[name]()
    return data[: len(data) // 2]


BROKEN: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "text": lambda: b"this is no image\n" * 20,
    "HTML of an error page": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><circle r="5"/></svg>',
    "EPS": lambda: encoded(photo(), "EPS"),
    "PDF": lambda: encoded(photo(), "PDF"),
    "TGA": lambda: encoded(photo(), "TGA"),
    "zeros": lambda: bytes(4000),
    "a JPEG's first bytes": lambda: SOUND["JPEG"]()[:3],
    "a PNG's signature alone": lambda: SOUND["PNG"]()[:8],
    "a PNG of 60,000 x 60,000": lambda: bomb(60_000, 60_000),
    "a PNG just above the bound": lambda: bomb(MOST_PIXELS // 1000 + 1, 1000),
    "a PNG that promises more than it has": lambda: bomb(3000, 2000),
    "a PNG without pixels": lambda: bomb(0, 0),
    "numbers of 32 bits": lambda: encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
    "whole numbers of 32 bits": lambda: encoded(Image.fromarray(np.ones((9, 9), np.int32)), "TIFF"),
    **{
        f"half of a {name}": partial(half, name)
        for name in ("JPEG", "progressive JPEG", "PNG", "palette PNG", "RGBA PNG", "GIF", "BMP", "TIFF",
                     "TIFF with LZW", "WebP", "AVIF", "PPM", "SGI", "a large JPEG, drawn small", "JPEG 2000")
    },
    "a PNG with a damaged byte": lambda: flipped(SOUND["PNG"](), 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_refused(name: str) -> None:
    with pytest.raises(ImageError):
        decode_image(BROKEN[name](), RGB)


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
@pytest.mark.parametrize("name", SOUND)
def test_a_damaged_image_is_refused_or_decoded_as_the_reference_does(name: str) -> None:
    data = SOUND[name]()
    for at in np.linspace(0.01, 0.99, 25):
        damaged = flipped(data, at)
        try:
            found = decode_image(damaged, RGB)
        except ImageError:
            continue
        with Image.open(io.BytesIO(damaged)) as image:
            expected = reference(image).astype(int)
        if not damaged.startswith(b"\xff\xd8"):
            assert np.abs(found.astype(int) - expected).max() <= 1


def test_sixteen_bits_of_gray_are_kept_or_rounded() -> None:
    deep = (np.arange(600, dtype=np.uint16) * 109).reshape(20, 30)
    data = encoded(Image.fromarray(deep), "PNG")
    np.testing.assert_array_equal(decode_image(data, ImageForm((20, 30), "gray", dtype="uint16"))[0], deep)
    np.testing.assert_array_equal(decode_image(data, GRAY)[0], np.rint(deep / 257).astype(np.uint8))
    eight = decode_image(encoded(photo(30, 20), "PNG"), ImageForm((20, 30), dtype="uint16"))
    np.testing.assert_array_equal(eight, decode_image(encoded(photo(30, 20), "PNG"), RGB) * np.uint16(257))


def test_transparency_and_padding_take_the_background() -> None:
    clear = encoded(Image.new("RGBA", (10, 20), (255, 0, 0, 0)), "PNG")
    assert (decode_image(clear, RGB) == 255).all()
    assert (decode_image(clear, ImageForm((20, 30), background="black")) == 0).all()


@pytest.fixture
def pipe(tmp_path: Path) -> ImageFile:
    """A file whose reading never ends."""
    os.mkfifo(tmp_path / "pipe.png")
    return ImageFile(str(tmp_path / "pipe.png"), 0, 100)


def write_image(path: Path, data: bytes) -> ImageFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return ImageFile(str(path), 0, len(data))


def test_a_decoder_that_hangs_is_ended_and_the_file_named(pipe: ImageFile, tmp_path: Path) -> None:
    sound = write_image(tmp_path / "sound.png", SOUND["PNG"]())
    with decode_images([sound, pipe, sound], RGB, seconds=3) as decoded:
        assert decoded.errors == {1: "decoding timed out after 3 s"}
        for number in (0, 2):
            np.testing.assert_array_equal(decoded.samples[number], decode_image(SOUND["PNG"](), RGB))


def test_a_decoder_that_dies_twice_at_a_file_is_followed_by_another(pipe: ImageFile, tmp_path: Path) -> None:
    sound = write_image(tmp_path / "sound.png", SOUND["PNG"]())
    broken = write_image(tmp_path / "broken.png", b"")

    killed: list[int] = []

    def kill_one() -> bool:
        for decoder in psutil.Process().children():
            with suppress(psutil.Error):
                if decoder.pid not in killed and has_open(decoder.pid, pipe.place):
                    os.kill(decoder.pid, signal.SIGKILL)
                    killed.append(decoder.pid)
                    return True
        return False

    def kill() -> None:
        while len(killed) < 2:
            with suppress(OSError), open_for_writing(pipe.place):  # somebody reads it: the decoder has come to it
                while not kill_one():  # held open, or the decoder would come to the file's end
                    time.sleep(0.01)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    with decode_images([broken, sound, pipe, sound], RGB, seconds=60) as decoded:
        killer.join()
        assert decoded.errors == {0: "the file is empty", 2: "the decoder crashed (SIGKILL)"}
        np.testing.assert_array_equal(decoded.samples[3], decode_image(SOUND["PNG"](), RGB))


def test_a_decoder_that_ended_with_the_thread_that_started_it_is_followed_by_another(tmp_path: Path) -> None:
    sound = write_image(tmp_path / "sound.png", SOUND["PNG"]())

    def decode() -> None:
        with decode_images([sound], RGB) as decoded:
            assert not decoded.errors
            np.testing.assert_array_equal(decoded.samples[0], decode_image(SOUND["PNG"](), RGB))

    for _ in range(2):
        other = threading.Thread(target=decode)
        other.start()
        other.join()
    decode()


def test_a_decoder_grows_with_what_it_is_asked_for(tmp_path: Path) -> None:
    one, other = (write_image(tmp_path / f"{name}.png", SOUND[name]()) for name in ("PNG", "BMP"))
    for count in (1, 9, 3):
        with decode_images([one, *[other] * count], RGB) as decoded:
            assert not decoded.errors
            np.testing.assert_array_equal(decoded.samples[0], decode_image(SOUND["PNG"](), RGB))
            np.testing.assert_array_equal(decoded.samples[count], decode_image(SOUND["BMP"](), RGB))


def has_open(process: int, path: str) -> bool:
    """Whether a process has a file open."""
    return any(os.readlink(link) == path for link in Path(f"/proc/{process}/fd").iterdir())


@contextmanager
def open_for_writing(pipe: str) -> Iterator[None]:
    """Raises OSError as long as nobody reads the pipe."""
    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        yield
    finally:
        os.close(descriptor)


def convert_folder(place: Path, out: Path, **options: object) -> Dataset:
    form = options.pop("form", GRAY)
    return convert_images(ImageRequest((str(place),), form, **options), out, SerialExecutor())  # type: ignore[arg-type]


def write_folder(root: Path, count: int = 40) -> list[tuple[str, bytes]]:
    """Images in folders of three classes, and some files that are none. Returns the images' paths and bytes."""
    files = []
    for i in range(count):
        path, data = f"{'abc'[i % 3]}/{i:03d}.png", encoded(photo(20 + i, 30), "PNG")
        write_image(root / path, data)
        files.append((path, data))
    (root / "notes.txt").write_text("no image")
    (root / "a" / ".hidden.png").write_bytes(b"")
    return sorted(files)


def keys_of(dataset: Dataset) -> list[str]:
    return [bytes(key).rstrip(b"\0").decode() for key in read_all(dataset)["key"]]


def test_folders_are_classes_and_the_order_is_by_seed(tmp_path: Path) -> None:
    files = write_folder(tmp_path / "images")
    dataset = convert_folder(tmp_path / "images", tmp_path / "plain", shuffle=None)
    arrays = read_all(dataset)
    assert keys_of(dataset) == [path for path, _ in files]
    assert (dataset.schema.classes, dataset.schema.labels) == (("a", "b", "c"), ("class",))
    np.testing.assert_array_equal(arrays["y"], ["abc".index(path[0]) for path, _ in files])
    np.testing.assert_array_equal(arrays["x"], [decode_image(data, GRAY) for _, data in files])
    shuffled = convert_folder(tmp_path / "images", tmp_path / "shuffled", shuffle=3)
    again = convert_folder(tmp_path / "images", tmp_path / "again", shuffle=3)
    assert contents(shuffled) == contents(again)
    assert keys_of(shuffled) != keys_of(dataset)
    assert sorted(keys_of(shuffled)) == keys_of(dataset)
    by_key = dict(zip(keys_of(shuffled), read_all(shuffled)["y"], strict=True))
    assert by_key == dict(zip(keys_of(dataset), arrays["y"], strict=True))


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_archives_give_what_their_folders_give(tmp_path: Path) -> None:
    files = write_folder(tmp_path / "images")
    plain = convert_folder(tmp_path / "images", tmp_path / "plain", shuffle=None)
    write_tar(tmp_path / "a.tar", [(f"images/{name}", data) for name, data in files])
    for packed, name in ((zipfile.ZIP_STORED, "stored.zip"), (zipfile.ZIP_DEFLATED, "deflated.zip")):
        with zipfile.ZipFile(tmp_path / name, "w", packed) as archive:
            for path, data in files:
                archive.writestr(path, data)
    for name in ("a.tar", "stored.zip", "deflated.zip"):
        dataset = convert_folder(tmp_path / name, tmp_path / f"{name}.zarr", shuffle=None)
        assert contents(dataset) == contents(plain)


def test_webdataset_shards_have_classes_beside_their_images(tmp_path: Path) -> None:
    for shard in range(2):
        samples = []
        for i in range(10):
            key = f"{shard}-{i:04d}"
            samples += [(f"{key}.cls", str(i % 2).encode()), (f"{key}.json", b"{}"), (f"{key}.png", SOUND["PNG"]())]
        write_tar(tmp_path / f"shard-{shard}.tar", samples)
    dataset = convert_folder(tmp_path, tmp_path / "out.zarr", shuffle=None)
    assert (len(dataset), dataset.schema.classes) == (20, ("0", "1"))
    np.testing.assert_array_equal(read_all(dataset)["y"], np.arange(20) % 2)


def test_labels_come_from_a_csv_by_path_name_or_stem(tmp_path: Path) -> None:
    files = write_folder(tmp_path / "images")
    for part in (str, lambda path: Path(path).name, lambda path: Path(path).stem):
        rows = [f"{part(path)},{len(path) + i},{i / 3},x" for i, (path, _) in enumerate(files)]
        (tmp_path / "labels.csv").write_text("\n".join(["image,size,weight,note", *reversed(rows)]))
        options = {"labels": str(tmp_path / "labels.csv"), "label": ("weight", "size"), "shuffle": None}
        dataset = convert_folder(tmp_path / "images", tmp_path / "out", **options)
        assert dataset.schema.labels == ("weight", "size")
        np.testing.assert_allclose(read_all(dataset)["y"][:, 0], np.arange(len(files)) / 3)
        (tmp_path / "out" / "manifest.json").unlink()
        (tmp_path / "out").rename(tmp_path / f"out-{rows[0]}".replace("/", "-"))


def test_labels_that_do_not_fit_the_images_are_named(tmp_path: Path) -> None:
    files = write_folder(tmp_path / "images")
    labels = tmp_path / "labels.csv"
    options = {"labels": str(labels)}
    labels.write_text("image,label\n" + "".join(f"{path},{path[0]}\n" for path, _ in files[1:]))
    with pytest.raises(SourceError, match=f"{files[0][0]}: .* has no label for it"):
        convert_folder(tmp_path / "images", tmp_path / "out", **options)
    dataset = convert_folder(tmp_path / "images", tmp_path / "out", on_error="skip", **options)
    assert (len(dataset), dataset.left_out) == (39, 1)
    labels.write_text("image,label\ngone.png,x\n" + "".join(f"{path},{path[0]}\n" for path, _ in files))
    with pytest.raises(SourceError, match="1 images that do not exist; the first is 'gone"):
        convert_folder(tmp_path / "images", tmp_path / "other", **options)
    with pytest.raises(UsageError, match="did you mean 'label'"):
        convert_folder(tmp_path / "images", tmp_path / "other", label=("labl",), **options)


def test_invalid_images_stop_the_conversion_or_are_skipped_and_listed(tmp_path: Path) -> None:
    files = write_folder(tmp_path / "images", 60)
    bad = [path for path, _ in files[10:50:9]]
    for path in bad:
        (tmp_path / "images" / path).write_bytes(b"broken")
    with pytest.raises(SourceError, match="is not an image of a supported format") as stopped:
        convert_folder(tmp_path / "images", tmp_path / "out")
    assert "--on-error skip" in str(stopped.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(ConflictError, match="other options"):
        convert_folder(tmp_path / "images", tmp_path / "out", on_error="skip")
    dataset = convert_folder(tmp_path / "images", tmp_path / "skipped", on_error="skip")
    assert (len(dataset), dataset.left_out) == (60 - len(bad), len(bad))
    assert set(keys_of(dataset)) == {path for path, _ in files} - set(bad)
    listed = (tmp_path / "skipped" / LEFT_OUT).read_text().splitlines()
    assert [line.split(",")[0] for line in listed[1:]] == [str(tmp_path / "images" / path) for path in bad]
    sound = dict(files)
    for key, x in zip(keys_of(dataset), read_all(dataset)["x"], strict=True):
        np.testing.assert_array_equal(x, decode_image(sound[key], GRAY))


@pytest.mark.parametrize("broken", [False, True])
def test_damaged_shards_are_written_again_from_the_images(broken: bool, tmp_path: Path) -> None:
    files = write_folder(tmp_path / "images")
    if broken:
        (tmp_path / "images" / files[7][0]).write_bytes(b"broken")
    dataset = convert_folder(tmp_path / "images", tmp_path / "out", on_error="skip")
    before = contents(dataset)
    shard = sorted(path for path in (tmp_path / "out" / "x" / "c").rglob("*") if path.is_file())[-1]
    shard.write_bytes(b"damaged")
    damages = find_damage(dataset, SerialExecutor())
    assert [damage.path for damage in damages] == [str(shard)]
    repair_shards(dataset, damages, SerialExecutor())
    assert find_damage(dataset, SerialExecutor()) == []
    assert contents(dataset) == before
    shard.write_bytes(b"damaged")
    write_image(tmp_path / "images" / files[0][0], SOUND["PNG"]())
    with pytest.raises(SourceError, match="have changed"):
        repair_shards(dataset, damages, SerialExecutor())


def test_a_folder_that_has_changed_is_another_source(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    first = convert_folder(tmp_path / "images", tmp_path / "out")
    assert contents(convert_folder(tmp_path / "images", tmp_path / "out")) == contents(first)
    write_image(tmp_path / "images" / "a" / "new.png", SOUND["PNG"]())
    with pytest.raises(ConflictError, match="--overwrite"):
        convert_folder(tmp_path / "images", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": ("x",)}, "--labels"),
        ({"task": "regression"}, "'class' contains text"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    with pytest.raises(UsageError, match=message):
        convert_folder(tmp_path / "images", tmp_path / "out", **options)


def test_places_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no more")
    for place, message in (
        ("nowhere", "does not exist"),
        ("empty", "contains no images"),
        ("bad.zip", "as an archive"),
    ):
        with pytest.raises(FoldstreamError, match=message):
            convert_folder(tmp_path / place, tmp_path / "out")


def test_digits_as_images_give_what_their_csv_gives(digits_csv: Path, digits: Dataset, tmp_path: Path) -> None:
    rows = np.loadtxt(digits_csv, np.uint8, delimiter=",", skiprows=1)
    for i, row in enumerate(rows):
        Image.fromarray(row[1:].reshape(28, 28)).save(tmp_path / f"{i:04d}.png")
    (tmp_path / "labels.csv").write_text("name,label\n" + "".join(f"{i:04d},{row[0]}\n" for i, row in enumerate(rows)))
    options = {"form": ImageForm((28, 28), "gray"), "labels": str(tmp_path / "labels.csv")}
    plain = convert_folder(tmp_path, tmp_path / "plain.zarr", shuffle=None, **options)
    shuffled = convert_folder(tmp_path, tmp_path / "shuffled.zarr", shuffle=4, **options)
    by_csv = convert_file(digits_csv, tmp_path / "csv.zarr", label="label", shape=(1, 28, 28), shuffle=4)
    for images, expected in ((plain, digits), (shuffled, by_csv)):
        for name in ("x", "y"):  # each block has the same bytes
            np.testing.assert_array_equal(images.index.tables[name], expected.index.tables[name])
        assert images.statistics == expected.statistics


def stripes(width: int, height: int, at: int) -> bytes:
    """A JPEG with waves, and a dark bar whose center is at `at`."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / 23), 128 + 100 * np.cos(y / 17), 128 + 60 * np.sin((x + y) / 31)]
    pixels = np.stack(waves, axis=2) * (np.abs(x - at) > 6)[..., None]
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


@pytest.mark.parametrize("side", [32, 48, 64])
@pytest.mark.parametrize(
    ("width", "height"), [(650, 470), (257, 257), (515, 771), (128, 256), (384, 384), (97, 1025), (33, 65)], ids=str
)
def test_a_jpeg_at_reduced_scale_is_not_stretched(width: int, height: int, side: int) -> None:
    data = stripes(width, height, at=width - 40 if width > 100 else width // 2)
    out = np.empty((3, side, side), np.uint8)
    decode_into(data, ImageForm((side, side), "rgb", "stretch"), out)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(out.transpose(1, 2, 0).astype(int) - expected).mean() < 2


def draft_and_resize(data: bytes, side: int, gap: int) -> np.ndarray:
    """What Pillow makes of a JPEG: decoded at a part of its size, at least `gap` times the sample's, and resized."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        image.draft("RGB", (gap * side, gap * side))
        part = round(width / image.width)
        box = 0, 0, min(width / part, image.width), min(height / part, image.height)
        small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box)
    return np.asarray(small).astype(int)


def stretched(data: bytes, side: int) -> np.ndarray:
    out = np.empty((3, side, side), np.uint8)
    decode_into(data, ImageForm((side, side), "rgb", "stretch"), out)
    return out.transpose(1, 2, 0).astype(int)


def test_jpegs_of_odd_sizes_are_as_pillow_drafts_and_resizes_them() -> None:
    draws = np.random.default_rng(0)
    for number in range(200):
        width, height = (draws.integers(8, 180, 2) * 2 + 1).tolist()
        y, x = np.mgrid[:height, :width]
        pixels = 128 + 100 * np.sin(np.stack([x / 5, y / 7, (x + y) / 9], axis=2) / draws.uniform(0.5, 5))
        pixels *= [1, ((x // 9 + y // 7) % 2)[..., None], (np.abs(x - 0.8 * width) > 4)[..., None]][number % 3]
        data = encoded(
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG", quality=90, subsampling=number // 3 % 3
        )
        for side in (32, 48, 64):
            off = np.abs(stretched(data, side) - draft_and_resize(data, side, gap=1)).mean()
            assert off < 2, f"{width} x {height} to {side}"


@pytest.mark.parametrize("part", [2, 4, 8])
def test_a_jpeg_of_exactly_a_multiple_of_the_size_is_filtered(part: int) -> None:
    y, x = np.mgrid[: 32 * part, : 32 * part]
    pixels = 128 + 100 * np.sin(np.stack([x, y, x + y], axis=2) * 2.5 / part)
    data = encoded(Image.fromarray(pixels.astype(np.uint8)), "JPEG", quality=95)
    found = stretched(data, 32)
    assert np.abs(found - draft_and_resize(data, 32, gap=2)).mean() < 1
    assert np.abs(found - draft_and_resize(data, 32, gap=1)).mean() > 2


def test_a_jpeg_that_pillow_decodes_is_drafted_too() -> None:
    y, x = np.mgrid[:256, :256]
    pixels = 128 + 100 * np.sin(np.stack([x, y, x + y], axis=2) * 0.6)
    data = encoded(Image.fromarray(pixels.astype(np.uint8)).convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        whole = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    drafted = draft_and_resize(data, 32, gap=2)
    assert np.abs(stretched(data, 32) - drafted).mean() < 1
    assert np.abs(whole - drafted).mean() > 1.5
