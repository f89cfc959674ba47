"""Labels of images as people write them: tables of all kinds, paths of all kinds, names of files, WebDataset shards."""

import bz2
import gzip
import io
import json
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
from foldstream.pipeline.images.convert import convert_images
from foldstream.pipeline.images.spec import ImageConversionSpec, ImageRequest
from foldstream.pipeline.sample import sample_images
from foldstream.storage.errors import RowError, SourceError, UsageError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.places.json_files import same_json
from foldstream.storage.tasks import SerialExecutor
from PIL import Image

from .test_image_folders import specified, write_images

NAMES = ["cat/0.bmp", "cat/1.bmp", "dog/2.bmp", "dog/3.bmp"]
PATHS = pd.DataFrame({"path": NAMES, "kind": ["a", "b", "a", "b"], "site": [7, 7, 8, 8], "age": [1.5, 2.5, None, 4.0]})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", NAMES)


def labelled(photos: Path, text: str | bytes, file: str = "labels.csv", **options: Any) -> ImageConversionSpec:
    path = photos.parent / file
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return specified(photos, photos.parent, labels=str(path), **options)


def classes_of(spec: ImageConversionSpec) -> str:
    """The class of each image, in a word."""
    return "".join(spec.schema.classes[code] for code in spec.y)


def parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out)
    return out.getvalue()


def feather(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_feather(out)
    return out.getvalue()


TABLES: dict[str, tuple[str, Callable[[], str | bytes]]] = {
    "commas": ("l.csv", lambda: PATHS.to_csv(index=False)),
    "semicolons": ("l.csv", lambda: PATHS.to_csv(index=False, sep=";", decimal=",")),
    "tabs": ("l.tsv", lambda: PATHS.to_csv(index=False, sep="\t")),
    "spaces": ("l.txt", lambda: PATHS.fillna(9).to_csv(index=False, sep=" ")),
    "bars and no suffix": ("labels", lambda: PATHS.to_csv(index=False, sep="|")),
    "UTF-16": ("l.csv", lambda: PATHS.to_csv(index=False).encode("utf-16")),
    "a byte order mark": ("l.csv", lambda: PATHS.to_csv(index=False).encode("utf-8-sig")),
    "gzip": ("l.csv.gz", lambda: gzip.compress(PATHS.to_csv(index=False).encode())),
    "bzip2": ("l.csv.bz2", lambda: bz2.compress(PATHS.to_csv(index=False).encode())),
    "the index of pandas": ("l.csv", lambda: PATHS.to_csv()),
    "paths as the index of pandas": ("l.csv", lambda: PATHS.set_index("path").to_csv()),
    "paths as an index without a name": ("l.csv", lambda: PATHS.set_index("path").rename_axis(None).to_csv()),
    "paths in another column": ("l.csv", lambda: PATHS[["kind", "path", "site", "age"]].to_csv(index=False)),
    "Parquet": ("l.parquet", lambda: parquet(PATHS)),
    "Parquet with an index": ("l.parquet", lambda: parquet(PATHS.set_axis([9, 7, 5, 3]))),
    "Parquet with paths as the index": ("l.parquet", lambda: parquet(PATHS.set_index("path"))),
    "Parquet with categories": ("l.parquet", lambda: parquet(PATHS.astype({"kind": "category"}))),
    "Feather": ("l.feather", lambda: feather(PATHS)),
    "JSON lines": ("l.jsonl", lambda: PATHS.to_json(orient="records", lines=True)),
    "JSON lines, packed": ("l.jsonl.gz", lambda: gzip.compress(PATHS.to_json(orient="records", lines=True).encode())),
    "JSON records": ("l.json", lambda: PATHS.to_json(orient="records")),
}


@pytest.mark.parametrize("name", TABLES)
def test_labels_are_read_from_tables_of_all_kinds(name: str, photos: Path) -> None:
    file, text = TABLES[name]
    spec = labelled(photos, text(), file, roles={"feature": ("age",), "category": ("site",)})
    assert classes_of(spec) == "abab"
    assert spec.schema.labels == ("kind",)
    assert spec.table is not None
    missing = 9 if name == "spaces" else np.nan
    np.testing.assert_array_equal(spec.table, [[1.5, 0], [2.5, 0], [missing, 1], [4, 1]])


def test_numbers_are_not_taken_for_names_of_images(photos: Path) -> None:
    assert classes_of(labelled(photos, ",kind\n0.bmp,3\n1.bmp,2\n2.bmp,3\n3.bmp,2\n")) == "3232"
    assert classes_of(labelled(photos, "kind,image\n0,1.bmp\n1,0.bmp\n2,3.bmp\n3,2.bmp\n")) == "1032"
    with pytest.raises(SourceError, match=r"lists 1 images that do not exist; the first is '9\.bmp'"):
        labelled(photos, ",image,kind\n0,1.bmp,x\n1,0.bmp,y\n2,9.bmp,x\n3,2.bmp,y\n")


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("cat/0.bmp,x\ncat/1.bmp,y\ndog/2.bmp,x\ndog/3.bmp,y\n", "xyxy"),
        ("x;0\ny;1\nx;2\ny;3\n", "xyxy"),
        ("0,1\ncat/0.bmp,x\ncat/1.bmp,y\ndog/2.bmp,x\ndog/3.bmp,y\n", "xyxy"),  # a header of numbers
    ],
    ids=["paths", "stems", "a header of pandas"],
)
def test_a_table_needs_no_header_where_its_first_row_names_an_image(text: str, classes: str, photos: Path) -> None:
    assert classes_of(labelled(photos, text)) == classes


def test_the_options_of_a_csv_file_are_those_of_convert_csv(photos: Path) -> None:
    table = photos.parent / "labels.csv"
    table.write_bytes("image;kind\n0;grün\n1;blau\n2;grün\n3;?\n".encode("latin-1"))
    options: dict[str, Any] = {"size": 4, "labels": table, "client": SerialExecutor()}
    with pytest.raises(RowError, match=r"not UTF-8 .* use csv={\"encoding\": \"latin-1\"}"):
        fs.convert_images(photos, photos.parent / "a.zarr", **options)
    options |= {"csv": {"encoding": "latin-1", "missing": ("?",)}, "on_error": "skip"}
    dataset = fs.convert_images(photos, photos.parent / "b.zarr", **options)
    assert (dataset.schema.classes, dataset.left_out) == (("blau", "grün"), 1)
    repaired = ImageRequest.from_json(dataset.request)
    assert same_json(repaired.to_json(), dataset.request)
    assert repaired.csv.encoding == "latin-1"
    with pytest.raises(UsageError, match=r"missing.* describes a CSV file given with labels=; set labels= too"):
        fs.convert_images(photos, photos.parent / "c.zarr", **{**options, "labels": None})


WAYS: dict[str, Callable[[str], str]] = {
    "relative": str,
    "name": lambda name: Path(name).name,
    "stem": lambda name: Path(name).stem,
    "path without suffix": lambda name: name.removesuffix(".bmp"),
    "dot": lambda name: f"./{name}",
    "prefixed": lambda name: f"data/2019/{name}",
    "absolute elsewhere": lambda name: f"/mnt/data/{name}",
    "Windows": lambda name: "C:\\data\\" + name.replace("/", "\\"),
    "with the folder of the source": lambda name: f"photos/{name}",
}


@pytest.mark.parametrize("way", WAYS)
def test_images_are_found_by_paths_of_all_kinds(way: str, photos: Path) -> None:
    rows = "".join(f"{WAYS[way](name)},{'xy'[number % 2]}\n" for number, name in enumerate(NAMES))
    assert classes_of(labelled(photos, f"image,kind\n{rows}")) == "xyxy"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_composed_and_decomposed_letters_are_equal(form: Any, in_table: Any, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", [unicodedata.normalize(form, "Ä/é.bmp"), "b/c.bmp"])
    text = unicodedata.normalize(in_table, "image,kind\nÄ/é.bmp,x\nc,y\n")
    assert sorted(classes_of(labelled(photos, text))) == ["x", "y"]


def test_absolute_paths_tell_sources_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_images(tmp_path / name, ["a/0.bmp"])
    table = tmp_path / "labels.csv"
    table.write_text(f"image,kind\n{tmp_path}/one/a/0.bmp,x\n{tmp_path}/two/a/0.bmp,y\n")
    places = [tmp_path / "one", tmp_path / "two"]
    dataset = fs.convert_images(
        places, tmp_path / "o.zarr", size=4, labels=table, shuffle=None, client=SerialExecutor()
    )
    assert fs.open(tmp_path / "o.zarr").rows()["kind"].tolist() == ["x", "y"]
    assert len(dataset) == 2


ROWS = "cat/0.bmp,x\ncat/1.bmp,y\ndog/2.bmp,x\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"image,kind\n{ROWS}", r"dog/3\.bmp: .*labels\.csv has no label for it"),
        (f"image,kind\n{ROWS}3,y\n9.bmp,y\n", r"lists 1 images that do not exist; the first is '9\.bmp'"),
        (f"image,kind\n{ROWS}3,y\n2,x\n", r"'dog/2\.bmp' and '2' are the same image, which is listed more than once"),
        (f"image,kind\n{ROWS}3,\n", r"dog/3\.bmp: its label 'kind' in .* is empty"),
        ("image,kind\nu.bmp,x\nv.bmp,y\n", r"none of its 2 rows names an image; it has 'u\.bmp', .* 'cat/0\.bmp'"),
        (f"image,kind\n{ROWS}3,y,z\n", r"line 5: the row has 3 fields but the header has 2; fix or remove the row"),
    ],
    ids=["a file without a row", "a row without a file", "two rows", "an empty label", "other images", "an odd row"],
)
def test_rows_and_files_that_do_not_fit_are_named(text: str, message: str, photos: Path) -> None:
    with pytest.raises((SourceError, RowError), match=message):
        labelled(photos, text)


def test_a_row_that_fits_two_files_is_named(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", ["cat/0.bmp", "cat/1.bmp", "dog/0.bmp"])
    text = "image,kind\n0.bmp,x\n1.bmp,y\n"
    with pytest.raises(SourceError, match=r"'0\.bmp' fits .*cat/0\.bmp and .*dog/0\.bmp; write more of the path"):
        labelled(photos, text)
    text += "cat/0.bmp,x\n"
    spec = labelled(photos, text, on_error="skip")
    assert sorted(spec.errors) == [2]
    exact = write_images(tmp_path / "exact", ["0.bmp", "cat/0.bmp"])
    assert classes_of(labelled(exact, "image,kind\n0.bmp,x\ncat/0.bmp,y\n")) == "xy"


def test_label_pattern_takes_the_class_from_the_name_of_a_file(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", ["cat_01.bmp", "in/cat_02.bmp", "in/dog_03.bmp"])
    assert classes_of(specified(photos, tmp_path, label_pattern="^([a-z]+)_")) == "catcatdog"
    spec = specified(photos, tmp_path, label_pattern=r"_(\d+)")
    assert (spec.schema.task, spec.schema.classes) == ("classification", ("01", "02", "03"))
    spec = specified(photos, tmp_path, label_pattern=r"_(?P<tens>\d)(?P<units>\d)", task="regression")
    assert (spec.schema.labels, spec.y.tolist()) == (("tens", "units"), [[0, 1], [0, 2], [0, 3]])
    with pytest.raises(SourceError, match=r"cat_01\.bmp: its name does not match --label-pattern \(dog\) \(and 1 more"):
        specified(photos, tmp_path, label_pattern="(dog)")
    for pattern, message in (("cat", "needs a group"), ("(", "not a regular expression")):
        with pytest.raises(UsageError, match=f"label_pattern=.*{message}"):
            fs.convert_images(photos, tmp_path / "out.zarr", size=4, label_pattern=pattern)
    with pytest.raises(UsageError, match="label_pattern, labels: both say what the labels are"):
        fs.convert_images(photos, tmp_path / "out.zarr", size=4, label_pattern="(.)", labels="x.csv")


def picture(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(*suffixes: str) -> dict[str, bytes]:
    """Four samples of a shard, with the files of these suffixes beside a picture."""
    files: dict[str, bytes] = {}
    for number in range(4):
        fields = {"label": "ab"[number % 2], "age": number + 0.5, "sick": number % 2 == 0, "box": [1, 2]}
        label = {"cls": str(number % 2), "txt": f"{'yn'[number % 2]}\n", "json": json.dumps(fields)}
        files |= {
            f"in.1/{number:03d}.{one}": label[one].encode() if one in label else picture(number) for one in suffixes
        }
    return files


def test_the_fields_of_a_json_are_labels_and_columns(tmp_path: Path) -> None:
    place = shard(tmp_path / "a.tar", samples("png", "json", "txt"))
    spec = specified(place, tmp_path, label=("label",), roles={"feature": ("age",), "group": ("sick",)})
    assert classes_of(spec) == "abab"
    assert spec.table is not None
    assert spec.table[:, 0].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert next(iter(spec.beside.values())).to_pylist() == ["true", "false", "true", "false"]
    assert specified(place, tmp_path, label=("age",), task="regression").y.tolist() == [0.5, 1.5, 2.5, 3.5]
    with pytest.raises(
        UsageError, match=r"--label: a \.json beside the images has no column 'lable'; did you mean 'label'"
    ):
        specified(place, tmp_path, label=("lable",))
    with pytest.raises(SourceError, match=r"000\.png: its 'box' in the archive is not a text or a number"):
        specified(place, tmp_path, label=("box",))
    files = samples("png", "json") | {"in.1/002.json": b"{broken"}
    with pytest.raises(SourceError, match=r"002\.png: its archive has no label 'label' for it"):
        specified(shard(tmp_path / "b.tar", files), tmp_path, label=("label",))


def test_fields_that_are_not_used_are_said(tmp_path: Path) -> None:
    warnings: list[str] = []
    request = ImageRequest((str(shard(tmp_path / "a.tar", samples("png", "json"))),), ImageForm((4, 4)))
    dataset = convert_images(
        request, tmp_path / "out.zarr", SerialExecutor(), tell=lambda _, text: warnings.append(text)
    )
    assert dataset.schema.labels == ()
    assert warnings == ["the images have no labels; --label takes one of the fields beside them: label, age, sick, box"]


def test_the_classes_of_a_shard_are_in_cls_or_txt(tmp_path: Path) -> None:
    assert classes_of(specified(shard(tmp_path / "a.tar", samples("cls", "png", "json")), tmp_path)) == "0101"
    assert classes_of(specified(shard(tmp_path / "b.tar", samples("png", "txt")), tmp_path)) == "ynyn"
    both = shard(tmp_path / "c.tar", samples("png", "txt", "cls"))
    assert classes_of(specified(both, tmp_path)) == "0101"
    assert classes_of(specified(both, tmp_path, label=("txt",))) == "ynyn"


def test_masks_in_a_shard_are_no_pictures(tmp_path: Path) -> None:
    masks = ("mask.png", "seg.png", "sky_mask_1.PNG", "depth.png")
    spec = specified(shard(tmp_path / "a.tar", samples("png", "cls", *masks)), tmp_path)
    assert spec.images.table["path"].to_pylist() == [f"{number:03d}.png" for number in range(4)]
    assert spec.images.tour.ignored == 5 * 4
    two = specified(shard(tmp_path / "b.tar", samples("left.png", "right.png", "cls")), tmp_path)
    assert classes_of(two) == "00110011"
    alone = specified(shard(tmp_path / "c.tar", samples("mask.png", "cls")), tmp_path)
    assert len(alone.images) == 4


def test_a_sample_of_a_shard_keeps_its_labels(tmp_path: Path) -> None:
    place = shard(tmp_path / "a.tar", samples("png", "json"))
    (tmp_path / "copies").mkdir()
    sample = sample_images([str(place)], tmp_path / "copies")
    (copy,) = sample.places
    assert classes_of(specified(Path(copy), tmp_path, label=("label",))) == "abab"
