"""Which files a conversion reads: paths, folders, patterns, compressed or not."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import find_sources
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import RowError, SourceError, UsageError
from foldstream.storage.format.arrays import keys_of
from foldstream.storage.tasks import SerialExecutor

from ..conftest import WriteCsv, contents, convert_file, table
from .test_csv import read_all


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def convert_places(out: Path, *places: Path | str) -> Dataset:
    return convert(ConvertRequest(find_sources(list(map(str, places))), labels=("label",)), out, SerialExecutor())


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_source_gives_what_the_plain_one_does(suffix: str, tmp_path: Path) -> None:
    text = table(500).encode()
    plain, packed = tmp_path / "rows.csv", tmp_path / f"rows.csv{suffix}"
    plain.write_bytes(text)
    packed.write_bytes(COMPRESS[suffix](text))
    one, other = convert_places(tmp_path / "one", plain), convert_places(tmp_path / "other", packed)
    assert contents(one) == contents(other)
    assert not (other.root / ".work").exists()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_two_compressed_files_joined_give_the_rows_of_both(suffix: str, tmp_path: Path) -> None:
    header, _, rows = table(500).encode().partition(b"\n")
    joined = tmp_path / f"rows.csv{suffix}"
    joined.write_bytes(COMPRESS[suffix](header + b"\n" + rows) + COMPRESS[suffix](rows))
    assert convert_places(tmp_path / "out", joined).layout.rows == 1000


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_broken_compressed_source_is_an_error(suffix: str, damage: str, tmp_path: Path) -> None:
    packed = tmp_path / f"rows.csv{suffix}"
    data = COMPRESS[suffix](table(5000).encode())
    packed.write_bytes(data[:-30] if damage == "cut" else b"no stream of this kind, but long enough to be one")
    with pytest.raises(SourceError, match=f"rows.csv{suffix} is not a complete {suffix} file"):
        convert_places(tmp_path / "out", packed)
    assert not (tmp_path / "out").exists()


def test_folders_and_patterns_name_their_files_in_order(tmp_path: Path) -> None:
    for name in ("b/2.csv", "b/1.CSV.gz", "a.csv", "notes.txt", ".hidden.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [Path(source.path).relative_to(tmp_path) for source in find_sources([str(tmp_path)])]
    assert list(map(str, found)) == ["a.csv", "b/1.CSV.gz", "b/2.csv"]
    assert [Path(s.path).name for s in find_sources([f"{tmp_path}/**/*.csv"])] == ["a.csv", "2.csv"]


@pytest.mark.parametrize("pattern", ["", "/**/*.csv"], ids=["folder", "pattern"])
def test_linked_files_and_folders_are_read_but_not_in_circles_or_twice(pattern: str, tmp_path: Path) -> None:
    for name in ("elsewhere/b.csv", "elsewhere/below/c.csv", "data/a.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "data" / "link.csv").symlink_to("a.csv")
    (tmp_path / "data" / "part").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "gone.csv").symlink_to("nowhere")
    (tmp_path / "elsewhere" / "below" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "self").symlink_to(".")
    place = f"{tmp_path}/data{pattern}"
    found = [str(Path(source.path).relative_to(tmp_path / "data")) for source in find_sources([place])]
    assert found == ["a.csv", "link.csv", "part/b.csv", "part/below/c.csv"]
    (tmp_path / "data" / "again").symlink_to("part")
    with pytest.raises(SourceError, match=r"part/b\.csv is also .*again/b\.csv, through a link"):
        find_sources([place])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["empty"], r"empty contains no CSV files \(\*\.csv"),
        (["*.json"], "contains no CSV files"),
        (["a.csv", "."], r"a\.csv is named more than once"),
        (["b.csv"], r"b\.csv cannot be read: No such file"),
    ],
    ids=["empty folder", "pattern", "twice", "missing"],
)
def test_places_without_files_are_refused(places: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(SourceError, match=message):
        find_sources([str(tmp_path / place) for place in places])


def test_an_index_of_pandas_is_no_feature(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5, 4.0], "y": [0, 1, 0]}, index=[907, 3, 41])
    frame.to_parquet(tmp_path / "t.parquet")
    dataset = convert_file(tmp_path / "t.parquet", tmp_path / "out", label="y")
    assert dataset.schema.features == ("a",)
    assert dataset.schema.left_out == {"__index_level_0__": "the index of a pandas DataFrame"}
    kept = convert_file(tmp_path / "t.parquet", tmp_path / "id", label="y", id="__index_level_0__")
    assert keys_of(read_all(kept)["key"]) == [907, 3, 41]
    frame.rename_axis("place").to_parquet(tmp_path / "named.parquet")
    assert convert_file(tmp_path / "named.parquet", tmp_path / "named", label="y").schema.features == ("a",)


def test_a_missing_label_of_parquet_is_missing(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.5, 2.5, 4.0], "y": [0, 1, None]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(RowError, match="row 3, column 'y': the value is missing"):
        convert_file(tmp_path / "t.parquet", tmp_path / "out", label="y", missing="error")
    dataset = convert_file(tmp_path / "t.parquet", tmp_path / "out", label="y")
    assert dataset.schema.classes == ("0", "1")
    assert len(dataset) == 2


@pytest.mark.parametrize("texts", [["00012", "0013"], ["7", "007"], ["12", "0"]], ids=["zeros", "one", "none"])
def test_an_id_with_leading_zeros_stays_text(texts: list[str], write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(
        write_csv("k,v\n" + "\n".join(f"{t},{i}" for i, t in enumerate(texts)) + "\n"), tmp_path / "out", id="k"
    )
    assert keys_of(read_all(dataset)["key"]) == (texts if texts[0] != "12" else [12, 0])


def test_an_empty_part_of_a_folder_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "spark"
    folder.mkdir()
    rows = pd.DataFrame({"a": [1.5, 2.5, 4.0], "y": ["u", "v", "u"]})
    for number, part in enumerate((rows[:0], rows[:2], rows[:0], rows[2:])):
        part.to_parquet(folder / f"part-{number}.parquet", index=False)
    dataset = fs.convert_csv(folder, tmp_path / "out", label="y")
    assert read_all(dataset)["x"].ravel().tolist() == [1.5, 2.5, 4.0]
    for path in folder.glob("*[13].parquet"):
        path.unlink()
    with pytest.raises(SourceError, match=r"part-0\.parquet has no rows; there is nothing to convert"):
        fs.convert_csv(folder, tmp_path / "none", label="y")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_empty_csv_parts_of_a_folder_are_passed_over_and_counted(suffix: str, tmp_path: Path) -> None:
    parts = [b"", b"a,label\n", b"a,label\n1,x\n2,y\n", b"", b"a,label\n3,x\n"]
    for number, text in enumerate(parts):
        (tmp_path / f"part-{number}.csv{suffix}").write_bytes(gzip.compress(text) if text and suffix else text)
    request = ConvertRequest(find_sources([str(tmp_path)]), labels=("label",))
    said: list[str] = []
    dataset = convert(request, tmp_path / "out", SerialExecutor(), lambda stage, *rest: said.append(f"{stage}: {rest}"))
    assert read_all(dataset)["x"].ravel().tolist() == [1, 2, 3]
    assert any("passed over" in line and "3 files without rows" in line for line in said)
    (tmp_path / "out" / "y" / "c" / "0").write_bytes(b"damaged")
    assert fs.verify(tmp_path / "out", repair=True)
    for number in (2, 4):
        (tmp_path / f"part-{number}.csv{suffix}").unlink()
    with pytest.raises(SourceError, match=r"part-1\.csv.* has a header but no rows"):
        convert_places(tmp_path / "none", tmp_path)
    with pytest.raises(SourceError, match=r"part-0\.csv.* is empty"):
        find_sources([str(tmp_path / f"part-0.csv{suffix}")])


@pytest.mark.parametrize(
    ("text", "unnamed"),
    [
        ('"","a","b"\n"r1",1,2\n"r2",3,4\n', ["Unnamed: 0"]),
        (",a,b\n0,1,2\n1,3,4\n", ["Unnamed: 0"]),
        ("a,b,\n1,2,\n3,4,\n", ["Unnamed: 2"]),
        ("\n\na, ,b,\n1,x,2,9\n3,y,4,9\n", ["Unnamed: 1", "Unnamed: 3"]),
        ("a,b\n1,2,\n3,4,\n", ["Unnamed: 2"]),
        ('"a","b"\n"r1",1,2\n"r2",3,4\n', ["Unnamed: 0"]),
    ],
    ids=["R", "pandas", "trailing", "several", "trailing in rows", "R without a name"],
)
def test_columns_without_a_name_are_dropped(text: str, unnamed: list[str], write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(write_csv(text), tmp_path / "out")
    assert dataset.schema.features == ("a", "b")
    assert read_all(dataset)["x"].tolist() == [[1, 2], [3, 4]]
    assert dataset.schema.left_out == dict.fromkeys(unnamed, "a column without a name")
    if unnamed != ["Unnamed: 2"]:  # it has no values
        kept = convert_file(write_csv(text), tmp_path / "id", id=unnamed[0])
        assert kept.schema.key == unnamed[0]


def test_dates_with_a_zone_are_those_of_utc(write_csv: WriteCsv, tmp_path: Path) -> None:
    texts = ["2020-01-01T00:00:00Z", "2020-03-01T10:00:00-05:00", "2020-01-01 00:00:00+01:00", "2020-01-01T00:00:00Z"]
    path = write_csv("t,v\n" + "\n".join(f"{text},{i}" for i, text in enumerate(texts)) + "\n")
    dataset = convert_file(path, tmp_path / "out")
    assert dataset.schema.dates == {"t": "seconds"}
    expected = [pd.Timestamp(text).timestamp() for text in texts]
    assert read_all(dataset)["x"][:, 0].tolist() == expected
    mixed = convert_file(write_csv(path.read_text() + "2021-01-01,9\n"), tmp_path / "mixed")
    assert read_all(mixed)["x"][:, 0].tolist() == [*expected, pd.Timestamp("2021-01-01").timestamp()]


def convert_all(out: Path, **options: Any) -> Dataset:
    """Convert the folder beside `out`, whose label is y."""
    request = ConvertRequest(find_sources([str(out.parent)]), labels=("y",), **options)
    return convert(request, out, SerialExecutor())


def test_files_whose_columns_differ(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b,y\n1,2,u\n3,4,v\n")
    (tmp_path / "2.csv").write_text("c,a,y\n1.5,6,u\nNA,7,u\n")
    pd.DataFrame({"a": [8], "y": ["v"], "d": ["text"]}).to_parquet(tmp_path / "3.parquet")
    message = r"2\.csv does not have .*: missing: 'b'; unexpected: 'c'; .*--columns union or"
    with pytest.raises(UsageError, match=message):
        convert_all(tmp_path / "same")
    union = convert_all(tmp_path / "union", columns="union")
    assert union.schema.features == ("a", "b", "c", "d")
    assert union.schema.categories == {"d": ("", "text")}
    nan = float("nan")
    expected = [[1, 2, nan, 0], [3, 4, nan, 0], [6, nan, 1.5, 0], [7, nan, nan, 0], [8, nan, nan, 1]]
    np.testing.assert_array_equal(read_all(union)["x"], expected)
    assert union.statistics.missing == (0, 3, 4, 4)
    first = convert_all(tmp_path / "first", columns="first")
    np.testing.assert_array_equal(read_all(first)["x"], [row[:2] for row in expected])
    with pytest.raises(RowError, match=r"1\.csv, rows from 2, column 'd': the value is missing"):
        convert_all(tmp_path / "error", columns="union", missing="error")
    request = ConvertRequest(find_sources([str(tmp_path / "2.csv")]), like=union.schema, columns="union")
    other = convert(request, tmp_path / "like", SerialExecutor())
    np.testing.assert_array_equal(read_all(other)["x"], expected[2:4])


def test_a_label_or_id_that_a_file_lacks_is_missing_there(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,y,k\n1,u,x\n3,v,z\n")
    (tmp_path / "2.csv").write_text("a\n6\n")
    with pytest.raises(RowError, match=r"2\.csv, rows from 2, column 'y': the value is missing"):
        convert_all(tmp_path / "out", id="k", columns="union", missing="error")
    dataset = convert_all(tmp_path / "out", id="k", columns="union")
    assert (len(dataset), dataset.left_out) == (2, 1)
    assert "columns" not in ConvertRequest(find_sources([str(tmp_path)])).to_json()
