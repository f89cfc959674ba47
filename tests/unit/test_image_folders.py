"""Folders of images as people keep them: whatever classes are called, links, tool folders, splits, equal files."""

import hashlib
import io
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import foldstream as fs
import numpy as np
import pytest
from foldstream.cluster.listener import Listener
from foldstream.pipeline.images.convert import convert_images
from foldstream.pipeline.images.listing.list import ImageList, list_images
from foldstream.pipeline.images.spec import ImageConversionSpec, ImageRequest, specify_images
from foldstream.storage.errors import SourceError, UsageError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.format.manifest import LEFT_OUT
from foldstream.storage.tasks import SerialExecutor
from foldstream.training.splits.choose import choose_split
from foldstream.training.splits.split import SplitOptions
from PIL import Image

from .test_csv import read_all

FORM = ImageForm((4, 4), "gray")


def write_images(root: Path, names: Iterable[str]) -> Path:
    """Images that all differ, and whose files have the same size."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(root / name, "BMP")
    return root


def listed(folder: Path, *places: Path) -> ImageList:
    folder.mkdir(exist_ok=True)
    return list_images([str(place) for place in places], folder)


def specified(place: Path, tmp_path: Path, **options: Any) -> ImageConversionSpec:
    request = ImageRequest((str(place),), FORM, **{"shuffle": None, **options})
    return specify_images(request, listed(tmp_path / "list", place))


def paths_of(images: ImageList) -> list[str]:
    paths: list[str] = images.table["path"].to_pylist()
    return paths


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ([f"{number:03d}" for number in range(101)], [f"{number:03d}" for number in range(101)]),
        ([str(number) for number in range(101)], [str(number) for number in range(101)]),
        (["0.5", "1.0", "1", "2"], ["0.5", "1", "1.0", "2"]),
        (["2024-05-01", "2024-05-02"], ["2024-05-01", "2024-05-02"]),
        (["-1", "1e3", "inf"], ["-1", "1e3", "inf"]),
    ],
    ids=["zeros", "a hundred and one", "fractions", "dates", "numbers of all kinds"],
)
def test_folders_are_classes_whatever_they_are_called(names: list[str], classes: list[str], tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", [f"{name}/a.bmp" for name in names])
    schema = specified(photos, tmp_path).schema
    assert (schema.task, list(schema.classes)) == ("classification", classes)


@pytest.mark.parametrize("names", [["000", "007", "100"], ["0.5", "1.0"]])
def test_folders_are_regression_targets_if_asked_for(names: list[str], tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", [f"{name}/a.bmp" for name in names])
    spec = specified(photos, tmp_path, task="regression")
    assert spec.schema.task == "regression"
    assert spec.y.tolist() == [float(name) for name in names]


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", ["cat/a.bmp", "cat/b.bmp"])
    with pytest.raises(UsageError, match="all images are of the class 'cat', but a classifier needs two"):
        specified(photos, tmp_path)


def test_empty_class_folders_are_classes_without_images(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", ["cat/a.bmp", "dog/b.bmp"])
    (photos / "ant").mkdir()
    (photos / "bee").mkdir()
    (photos / "bee" / ".gitkeep").touch()
    (photos / "notes").mkdir()
    (photos / "notes" / "read.me").touch()  # no class: it has files, and none is an image
    warnings: list[str] = []
    dataset = fs.convert_images(
        photos,
        tmp_path / "out.zarr",
        size=4,
        listener=Listener(announce=lambda name, text: warnings.append(text)),
        client=SerialExecutor(),
    )
    assert dataset.schema.classes == ("ant", "bee", "cat", "dog")
    assert list(dataset.class_totals) == [0, 0, 1, 1]
    assert "2 class folders have no images: ant, bee" in warnings
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    with tarfile.open(tmp_path / "photos.tar", "w") as packed:
        packed.add(photos, "photos")
    (photos / "ant").rmdir()
    for name in ("photos.zip", "photos.tar"):
        assert specified(tmp_path / name, tmp_path).schema.classes == ("ant", "bee", "cat", "dog")
    assert specified(photos, tmp_path).schema.classes == ("bee", "cat", "dog")
    write_images(tmp_path / "parts", SPLIT)
    (tmp_path / "parts" / "train" / "bee").mkdir()
    (tmp_path / "parts" / "dev").mkdir()
    assert specified(tmp_path / "parts", tmp_path, split_folders=True).schema.classes == ("bee", "cat", "dog")


def test_linked_class_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", ["one.bmp", "inner/two.bmp"])
    photos = write_images(tmp_path / "photos", ["cat/a.bmp"])
    (photos / "dog").symlink_to(tmp_path / "elsewhere")
    (photos / "cat" / "all").symlink_to(photos)
    (photos / "again").symlink_to(photos)
    (photos / "cat" / "b.bmp").symlink_to("a.bmp")
    images = listed(tmp_path / "list", photos)
    assert paths_of(images) == ["cat/a.bmp", "cat/b.bmp", "dog/one.bmp", "dog/inner/two.bmp"]
    assert images.table["class"].to_pylist() == ["cat", "cat", "dog", "dog"]
    assert (images.tour.cycles, images.tour.empty) == (2, [])


def test_hidden_and_tool_folders_are_passed_over_and_counted(tmp_path: Path) -> None:
    tools = [".ipynb_checkpoints/a.bmp", "cat/@eaDir/a.bmp", "__MACOSX/cat/._a.bmp", ".git/a.bmp", "cat/.a.bmp"]
    photos = write_images(tmp_path / "photos", ["cat/a.bmp", "dog/b.bmp", *tools])
    for name in ("Thumbs.db", ".DS_Store"):
        (photos / "dog" / name).touch()
    (photos / "read.me").touch()
    images = listed(tmp_path / "list", photos)
    assert paths_of(images) == ["cat/a.bmp", "dog/b.bmp"]
    assert images.describe() == "images, 1 other files ignored, 7 hidden or tool folders and files passed over"
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*")):
            archive.write(path, path.relative_to(photos))
    assert paths_of(listed(tmp_path / "list", tmp_path / "photos.zip")) == ["cat/a.bmp", "dog/b.bmp"]
    assert paths_of(listed(tmp_path / "list", photos / "*" / "*.bmp")) == ["cat/a.bmp", "dog/b.bmp"]


def test_a_folder_that_wraps_the_class_folders_is_unwrapped(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", ["data/v1/cat/a.bmp", "data/v1/dog/b.bmp", ".cache/c.bmp"])
    (tmp_path / "photos" / "read.me").touch()
    images = listed(tmp_path / "list", tmp_path / "photos")
    assert paths_of(images) == ["cat/a.bmp", "dog/b.bmp"]
    assert images.name(1) == str(tmp_path / "photos/data/v1/dog/b.bmp")
    write_images(tmp_path / "flat", ["data/a.bmp", "data/b.bmp"])
    assert paths_of(listed(tmp_path / "list", tmp_path / "flat")) == ["data/a.bmp", "data/b.bmp"]


SPLIT = ["train/cat/a.bmp", "train/dog/b.bmp", "Valid/cat/c.bmp", "Valid/dog/d.bmp", "test/dog/e.bmp"]


@pytest.mark.parametrize("names", [SPLIT, ["training/a.bmp", "testing/b.bmp"], ["dev/a/a.bmp", "train/a/b.bmp"]])
def test_folders_of_a_split_are_no_classes(names: list[str], tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", names)
    first = min(name.split("/")[0] for name in names if name.startswith("train"))
    with pytest.raises(SourceError, match=rf"not classes; name one of them, e\.g\. .*photos/{first},.*--split-folders"):
        specified(photos, tmp_path)
    assert specified(photos, tmp_path, labelled=False).schema.task is None


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", ["train/a.bmp", "bus/b.bmp"])
    assert specified(photos, tmp_path).schema.classes == ("bus", "train")


def test_folders_of_a_split_are_taken_as_folds(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", SPLIT)
    options: dict[str, Any] = {"size": 4, "shuffle": None, "split_folders": True, "client": SerialExecutor()}
    dataset = fs.convert_images(photos, tmp_path / "out.zarr", **options)
    assert dataset.schema.classes == ("cat", "dog")
    assert fs.open(tmp_path / "out.zarr").rows()["split"].tolist() == [0, 0, 1, -1, -1]
    split = choose_split(dataset.schema, SplitOptions(), 0)
    assert (split.kind, split.column) == ("column", "split")
    places = [photos / "train", photos / "Valid"]
    alone = fs.convert_images(places, tmp_path / "alone.zarr", **options)
    assert alone.schema.classes == ("cat", "dog")
    assert fs.open(tmp_path / "alone.zarr").rows()["split"].tolist() == [-1, -1, 0, 0]
    with pytest.raises(UsageError, match="both give the folds"):
        fs.convert_images(photos, tmp_path / "other.zarr", fold="x", labels="x.csv", **options)
    with pytest.raises(UsageError, match=r"--split-folders: .* has no folders named train, training"):
        specified(write_images(tmp_path / "plain", ["cat/a.bmp", "dog/b.bmp"]), tmp_path, split_folders=True)


def test_the_same_source_twice_is_refused(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", ["cat/a.bmp", "dog/b.bmp"])
    with tarfile.open(photos / "more.tar", "w") as archive:
        archive.add(photos / "cat" / "a.bmp", "a.bmp")
    (tmp_path / "link").symlink_to(photos)
    pairs = [
        (photos, photos),
        (photos, tmp_path / "link"),
        (tmp_path / "link", photos),
        (photos, photos / "cat"),
        (photos / "cat", photos),
        (photos, photos / "cat" / "a.bmp"),
        (photos / "cat" / "a.bmp", photos),
        (photos / "cat" / "a.bmp", photos / "*" / "*.bmp"),
        (photos / "more.tar", photos / "more.tar"),
        (photos, photos / "more.tar"),
    ]
    for pair in pairs:
        with pytest.raises(SourceError, match=r"twice|both named|also in the source"):
            listed(tmp_path / "list", *pair)
    assert len(listed(tmp_path / "list", photos / "cat" / "*.bmp", photos / "dog" / "*.bmp")) == 2
    (photos / "hound").symlink_to("dog")
    with pytest.raises(SourceError, match=r"photos/hound: it is part of the sources twice, also as .*photos/dog"):
        listed(tmp_path / "list", photos)


def test_equal_files_are_counted_and_named(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", [f"{'ab'[i % 2]}/{i}.bmp" for i in range(8)])
    (photos / "b" / "copy.bmp").write_bytes((photos / "a" / "2.bmp").read_bytes())
    os.link(photos / "a" / "4.bmp", photos / "a" / "link.bmp")
    with tarfile.open(photos / "more.tar", "w") as archive:
        archive.add(photos / "b" / "1.bmp", "b/c.bmp")
        archive.add(photos / "b" / "1.bmp", "a/c.bmp")
    warnings: list[str] = []
    out = tmp_path / "out.zarr"
    convert_images(
        ImageRequest((str(photos),), FORM), out, SerialExecutor(), tell=lambda _, text: warnings.append(text)
    )
    (warning,) = warnings
    assert warning.startswith("4 files are equal to others, 2 of them with another label (")
    assert (out / "equal_files.csv").read_text().replace(f"{photos}/", "").splitlines() == [
        "file,equal_to",
        "b/copy.bmp,a/2.bmp",
        "a/link.bmp,a/4.bmp",
        "more.tar/b/c.bmp,b/1.bmp",
        "more.tar/a/c.bmp,b/1.bmp",
    ]


def add_links(path: Path, links: dict[str, str], hard: Iterable[str] = ()) -> None:
    """Append links to a tar archive: their targets by their names."""
    with tarfile.open(path, "a") as archive:
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.LNKTYPE if name in hard else tarfile.SYMTYPE
            member.linkname = target
            archive.addfile(member)


@pytest.mark.parametrize("prefix", ["", "./", "photos/"])
def test_links_in_an_archive_stand_for_what_they_lead_to(prefix: str, tmp_path: Path) -> None:
    names = ["cat/a.bmp", "dog/b.bmp", ".store/ant/c.bmp", ".store/d.bmp"]
    photos, packed = write_images(tmp_path / "photos", names), tmp_path / "photos.tar"
    add_links(packed, {f"{prefix}dog/later.bmp": "../cat/hard.bmp", f"{prefix}ant": ".store/ant"})
    with tarfile.open(packed, "a") as archive:
        for name in names:
            archive.add(photos / name, prefix + name)
    links = {"cat/hard.bmp": f"{prefix}dog/b.bmp", "dog/d.bmp": "../.store/d.bmp", "dog/up": "..",
             "cat/out.bmp": "../../cat/a.bmp", "cat/abs.bmp": "/etc/x.bmp", "cat/round.bmp": "round.bmp"}  # fmt: skip
    add_links(packed, {prefix + name: target for name, target in links.items()}, [f"{prefix}cat/hard.bmp"])
    warnings: list[str] = []
    request = ImageRequest((str(packed),), FORM, shuffle=None)
    dataset = convert_images(
        request, tmp_path / "out.zarr", SerialExecutor(), tell=lambda _, text: warnings.append(text)
    )
    rows = read_all(dataset)
    keys = [bytes(key).rstrip(b"\0").decode() for key in rows["key"]]
    found = dict(zip(keys, rows["x"][:, 0, 0, 0].tolist(), strict=True))
    assert found == {
        "cat/a.bmp": 0,
        "cat/hard.bmp": 1,
        "dog/b.bmp": 1,
        "dog/later.bmp": 1,
        "dog/d.bmp": 3,
        "ant/c.bmp": 2,
    }
    assert dataset.schema.classes == ("ant", "cat", "dog")
    assert warnings[0].startswith("3 links lead nowhere, so what was behind them is missing: ")
    assert all(name in warnings[0] for name in ("cat/out.bmp", "cat/abs.bmp", "cat/round.bmp"))
    add_links(packed, {f"{prefix}hound": "dog"})
    with pytest.raises(SourceError, match="hound is a link to a folder whose images are part of the archive twice"):
        listed(tmp_path / "list", packed)


def test_a_linked_image_of_a_shard_has_the_labels_beside_it(tmp_path: Path) -> None:
    photos, shard = write_images(tmp_path / "photos", ["0.bmp", "1.bmp"]), tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(photos / "0.bmp", ".store/x")
    add_links(shard, {"0.bmp": ".store/x"})
    with tarfile.open(shard, "a") as archive:
        for name, data in {"0.cls": b"up", "1.cls": b"down"}.items():
            (member := tarfile.TarInfo(name)).size = len(data)
            archive.addfile(member, io.BytesIO(data))
        archive.add(photos / "1.bmp", "1.bmp")
    images = listed(tmp_path / "list", shard)
    assert images.table["class"].to_pylist() == ["up", "down"]


@pytest.mark.parametrize("level", [None, 0], ids=["stored", "deflated"])
def test_a_damaged_image_in_a_zip_archive_cannot_be_decoded(level: int | None, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", [f"{name}/{name}.bmp" for name in "abc"])
    packed = tmp_path / "photos.zip"
    kind = zipfile.ZIP_STORED if level is None else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(packed, "w", kind, compresslevel=level) as archive:
        for path in sorted(photos.glob("*/*")):
            archive.write(path, path.relative_to(photos))
    data = bytearray(packed.read_bytes())
    image = (photos / "b" / "b.bmp").read_bytes()
    data[data.index(image) + len(image) - 1] ^= 4  # a pixel
    packed.write_bytes(data)
    request = ImageRequest((str(packed),), FORM)
    with pytest.raises(SourceError, match=r"photos\.zip/b/b\.bmp: .*the bytes do not match their checksum"):
        convert_images(request, tmp_path / "stop.zarr", SerialExecutor())
    out = tmp_path / "skip.zarr"
    dataset = convert_images(replace(request, on_error="skip"), out, SerialExecutor())
    assert (len(dataset), dataset.left_out) == (2, 1)
    assert "photos.zip/b/b.bmp,,,the file cannot be read (the archive is damaged" in (out / LEFT_OUT).read_text()


def test_files_that_only_end_alike_are_not_equal(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        pixels = np.zeros((100, 100), np.uint8)
        pixels[-1] = number  # BMP begins with the last line
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.bmp")
    warnings: list[str] = []
    convert_images(
        ImageRequest((str(tmp_path / "a"),), FORM),
        tmp_path / "o",
        SerialExecutor(),
        tell=lambda _, text: warnings.append(text),
    )
    assert warnings == []


def test_broken_links_and_names_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", ["cat/a.bmp", "dog/b.bmp"])
    (photos / "cat" / "gone.bmp").symlink_to("nowhere.bmp")
    (photos / "ant").symlink_to("nowhere")
    latin = os.fsencode(photos) + b"/dog/caf\xe9.bmp"
    with open(latin, "wb") as file:
        file.write((photos / "cat" / "a.bmp").read_bytes())
    with pytest.raises(SourceError, match=r"cat/gone\.bmp: it is a link to a file that does not exist \(and 1 more\)"):
        specified(photos, tmp_path)
    warnings: list[str] = []
    out = tmp_path / "out.zarr"
    request = ImageRequest((str(photos),), FORM, on_error="skip")
    dataset = convert_images(request, out, SerialExecutor(), tell=lambda _, text: warnings.append(text))
    assert (len(dataset), dataset.left_out) == (2, 2)
    lines = (out / LEFT_OUT).read_text().splitlines()[1:]
    assert [line.split("/")[-1] for line in lines] == [
        "gone.bmp,,,it is a link to a file that does not exist",
        "caf\\xe9.bmp,,,its name is not UTF-8",
    ]
    assert warnings[0] == f"1 links lead nowhere, so what was behind them is missing: {photos}/ant"


def test_time_and_memory_of_a_list_grow_with_the_number_of_files(tmp_path: Path) -> None:
    write_images(tmp_path, ["one.bmp", "other.bmp"])
    seconds, peaks = [], []
    for count in (200, 2000):
        photos = tmp_path / str(count)
        for name in ("a", "b"):
            (photos / name).mkdir(parents=True)
        for number in range(count):
            os.link(tmp_path / ("one.bmp" if number % 3 else "other.bmp"), photos / "ab"[number % 2] / f"{number}.bmp")
        tracemalloc.start()
        start = process_time()
        images = listed(tmp_path / "list", photos)
        seconds.append(process_time() - start)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(images) == count
    assert seconds[1] < 30 * seconds[0]
    assert peaks[1] < 1000 * 2000


def test_lists_and_requests_are_those_of_earlier_versions(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", ["cat/a.bmp", "cat/b/\u00e9'.bmp", "dog/b.bmp"])
    lines = [str(photos)]
    for path in ("cat/a.bmp", "cat/b/\u00e9'.bmp", "dog/b.bmp"):
        status = (photos / path).stat()
        fields = f"path={path!r}, offset=0, length={status.st_size}, packed=-1, name={path[:3]!r}"
        lines.append(f"Listed({fields}, changed={status.st_mtime_ns})")
    images = listed(tmp_path / "list", photos)
    assert images.digest == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    like = specified(photos, tmp_path).schema
    request = ImageRequest((str(photos),), FORM, like=like).to_json()
    earlier = "sources form labels label roles task labelled on_error shuffle like listing"
    assert set(request) == set(earlier.split())
    assert set(request["form"]) == set(request["like"]["image"]) == {"size", "color", "fit", "background", "dtype"}
    assert ImageRequest.from_json(request) == ImageRequest((str(photos),), FORM, like=like)
