"""Small files as people have them, each of which was once read wrong: the values, or the message."""

import zipfile
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
from foldstream.storage.errors import FoldstreamError
from foldstream.storage.format.arrays import keys_of

from .test_csv import read_all

CASES = Path(__file__).parents[1] / "data" / "cases.zip"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    with zipfile.ZipFile(CASES) as archive:
        archive.extractall(folder)
    return folder


def seconds(*dates: str) -> list[list[float]]:
    return [[np.datetime64(date, "us").astype(int) / 1e6] for date in dates]


@pytest.mark.parametrize(
    ("file", "options", "features", "x"),
    [
        ("01_int_header.csv", {"label": "3"}, "0 1 2", [[5.1, 3.5, 1.4], [4.9, 3, 1.4], [6.2, 3.1, 5]]),
        ("02_pandas_index.parquet", {"label": "y"}, "a", [[1.5], [2.5], [3.5], [4.5]]),
        ("03_nan_label.parquet", {"label": "y"}, "v", [[1.5], [2.5]]),
        ("03_nan_label.parquet", {"label": "y", "on_error": "skip"}, "v", [[1.5], [2.5]]),
        ("06_hive", {"label": "day"}, "a y", [[1, 0], [3, 0], [2, 1], [4, 1]]),
        ("08_zulu.csv", {"ignore": "v"}, "t", seconds("2020-01-01", "2020-03-01T10:00", "2019-03-01T10:00")),
        ("08b_offset.csv", {"ignore": "v"}, "t", seconds("2019-12-31T23:00", "2020-03-01T15:00")),
        ("09e_id_zeros.csv", {"id": "k"}, "v", [[1], [2]]),
        ("10_r_row_names.csv", {}, "a b", [[1, 2], [3, 4]]),
        ("11_german.csv", {}, "price", [[0.5 + row] for row in range(30)]),
        ("13_spark", {}, "a y", [[1, 0], [2, 1]]),
        ("15_embedding.parquet", {}, "v e_0 e_1", [[1, 1, 2], [2, 3, 4], [3, 5, 6]]),
        ("21_money.csv", {"number": ["p", "q"]}, "p q v", [[74.69, 0.12, 1], [7, 0.035, 2], [1200.5, 1, 3]]),
        ("22e.csv.zip", {}, "a b", [[1, 2], [3, 4]]),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_table_is_read_as_meant(
    file: str, options: dict[str, Any], features: str, x: list[list[float]], cases: Path, tmp_path: Path
) -> None:
    dataset = fs.convert_csv(cases / "csv" / file, tmp_path / "out", **options)
    assert dataset.schema.features == tuple(features.split())
    np.testing.assert_allclose(read_all(dataset)["x"], x, rtol=1e-6)


def test_dates_of_parquet_keep_their_fractions(cases: Path, tmp_path: Path) -> None:
    dataset = fs.convert_csv(cases / "csv" / "08i_timestamp_us.parquet", tmp_path / "out", ignore="v")
    assert dataset.schema.dates == {"t": "seconds"}
    times = read_all(dataset)["x"][:, 0]
    assert times.dtype == np.float64
    assert (times % 1 > 0).any()


def test_keys_and_folders_keep_their_text(cases: Path, tmp_path: Path) -> None:
    keyed = fs.convert_csv(cases / "csv" / "09e_id_zeros.csv", tmp_path / "keys", id="k")
    assert keys_of(read_all(keyed)["key"]) == ["00012", "0013"]
    days = fs.convert_csv(cases / "csv" / "06_hive", tmp_path / "days", label="day")
    assert days.schema.classes == ("mon", "tue")


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("03_nan_label.parquet", {"label": "y", "missing": "error"}, "row 3, column 'y': the value is missing"),
        ("12_tab_one_short_row.tsv", {}, "line 3: the row has 2 fields but the header has 3"),
    ],
)
def test_a_fault_is_named(file: str, options: dict[str, Any], message: str, cases: Path, tmp_path: Path) -> None:
    with pytest.raises(FoldstreamError, match=message):
        fs.convert_csv(cases / "csv" / file, tmp_path / "out", **options)


def test_a_jpeg_at_reduced_scale_shows_what_the_png_shows(cases: Path, tmp_path: Path) -> None:
    folder, shown = cases / "images" / "jpeg-geometry", []
    for name in ("bars.jpg", "bars.png"):
        dataset = fs.convert_images(folder / name, tmp_path / name, size=(48, 48), fit="stretch")
        shown.append(read_all(dataset)["x"].astype(int))
    assert np.abs(shown[0] - shown[1]).mean() < 2


def test_images_are_read_as_meant(cases: Path, tmp_path: Path) -> None:
    images = cases / "images"
    with pytest.raises(FoldstreamError, match="are parts of a split, not classes"):
        fs.convert_images(images / "splits", tmp_path / "splits", size=(8, 8))
    labels = images / "labels"
    named = fs.convert_images(labels / "imgs", tmp_path / "named", labels=labels / "semicolon.csv", size=(8, 8))
    assert named.schema.classes == ("a", "b")
    shard = fs.convert_images(images / "webdataset-json.tar", tmp_path / "shard", label="label", size=(8, 8))
    assert shard.schema.classes == ("0", "1")
    deep = fs.convert_images(images / "depth", tmp_path / "deep", color="gray", dtype="uint16", size=(4, 4))
    assert read_all(deep)["x"].max() > 255
