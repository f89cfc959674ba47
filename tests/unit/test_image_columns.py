"""Columns beside images: what is stored of them, and that models get them, standardized by the fold's training rows."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
from foldstream.pipeline.verify import find_damage, repair_shards
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import SourceError, UsageError
from foldstream.storage.tasks import SerialExecutor
from PIL import Image

LINES = [
    "name,sick,age,site,seen,code",
    "0.png,no,31,north,2024-05-01,7",
    "1.png,yes,,south,2024-05-02,8",
    "2.png,no,44.5,,,7",
    "3.png,yes,50,north,2024-05-04,9",
]
NAN = float("nan")


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.full((8, 8), number % 7, np.uint8)).save(folder / f"{number}.png")


def convert(folder: Path, lines: list[str], **options: Any) -> Dataset:
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    usual = {"labels": folder / "labels.csv", "shuffle": None, "size": 8, "color": "gray"}
    return fs.convert_images(folder / "photos", folder / "data.zarr", **{**usual, **options})


def test_columns_are_stored_as_numbers_dates_and_codes(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4)
    dataset = convert(tmp_path, LINES, feature=["age", "site", "seen"], category="code", group="site")
    table = dataset.schema.table
    assert table
    assert table.features == ("age", "site", "seen", "code")
    assert table.categories == {"site": ("", "north", "south"), "code": ("7", "8", "9")}
    assert table.dates == {"seen": "days"}
    x, _, _ = fs.open(tmp_path / "data.zarr")[:]
    assert x["image"].shape == (4, 1, 8, 8)
    expected = [[31, 1, 19844, 0], [NAN, 2, 19845, 1], [44.5, 0, NAN, 0], [50, 1, 19847, 2]]
    np.testing.assert_array_equal(x["table"], expected)
    statistics = dataset.statistics.table
    assert statistics
    assert statistics.missing == (1, 1, 1, 0)
    facts = {column.name: column for column in dataset.columns()}
    assert (facts["site"].role, facts["site"].kind, facts["site"].distinct) == ("feature, group", "category", 3)
    assert facts["age"].maximum == 50
    rows = fs.open(tmp_path / "data.zarr").rows()
    assert rows["site"].fillna("").tolist() == ["north", "south", "", "north"]
    assert convert(tmp_path, LINES, feature=["age", "site", "seen"], category="code", group="site") == dataset


def test_a_damaged_shard_of_columns_is_repaired(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4)
    dataset = convert(tmp_path, LINES, feature="age")
    file = next(path for path in (tmp_path / "data.zarr/table/c").rglob("*") if path.is_file())
    file.write_bytes(b"")
    damages = find_damage(dataset, SerialExecutor())
    assert [damage.array for damage in damages] == ["table"]
    repair_shards(dataset, damages, SerialExecutor())
    assert not find_damage(dataset, SerialExecutor())


def test_a_later_dataset_has_the_same_columns_and_codes(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4)
    dataset = convert(tmp_path, LINES, feature=["age", "site"])
    options = {"like": tmp_path / "data.zarr", "out": tmp_path / "later.zarr", "size": None, "labels": None}

    def later(lines: list[str], **more: Any) -> Dataset:
        (tmp_path / "later.csv").write_text("\n".join([LINES[0], *lines]) + "\n")
        given = {**options, "labels": tmp_path / "later.csv", **more}
        return fs.convert_images(tmp_path / "photos", given.pop("out"), **given)

    same = later(["3.png,no,1,south,,", "0.png,no,,north,,", "1.png,no,2,south,,", "2.png,no,3,south,,"])
    assert same.schema.table == dataset.schema.table
    wrong = ["0.png,no,1,south,,", "1.png,no,old,north,,", "2.png,no,2,west,,", "3.png,no,2,north,,"]
    other: dict[str, Any] = {"out": tmp_path / "other.zarr"}
    with pytest.raises(SourceError, match=r"1\.png: its 'age', 'old', is not a number \(and 1 more\)"):
        later(wrong, **other)
    skipped = later(wrong, **other, on_error="skip")
    assert len(skipped) == 2
    assert (
        "its 'site', 'west', does not occur in the training data" in (tmp_path / "other.zarr/left_out.csv").read_text()
    )
    with pytest.raises(UsageError, match=r"--like already selects the columns beside the images \(age, site\)"):
        later(wrong, out=tmp_path / "third.zarr", feature="seen")
    with pytest.raises(UsageError, match="name the CSV file that has those of these images with --labels"):
        fs.convert_images(tmp_path / "photos", tmp_path / "third.zarr", like=tmp_path / "data.zarr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature": "agee"}, "--feature: .* has no column 'agee'.*age"),
        ({"feature": "age", "label": "age"}, "'age' of .* already has another role"),
        ({"feature": "age", "labels": None}, "--feature selects columns of the CSV file given with --labels"),
    ],
)
def test_columns_that_do_not_exist_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4)
    with pytest.raises(UsageError, match=message):
        convert(tmp_path, LINES, **options)
