"""Arrow IPC, Feather and JSON lines as sources: the rows of the same Parquet file, and faults with their place."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from foldstream.pipeline import sample as sampling
from foldstream.pipeline.csv.options import CsvOptions
from foldstream.pipeline.sample import sample_texts
from foldstream.pipeline.tables import arrow
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import find_sources
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.errors import SourceError
from foldstream.storage.tasks import SerialExecutor
from pyarrow import feather, parquet

from ..conftest import contents, convert_file
from .test_archives import write_zip
from .test_csv import read_all
from .test_dataset import DyingExecutor, Killed


def rows(count: int) -> pa.Table:
    draws = np.random.default_rng(3)
    numbers = [None if row % 7 == 3 else row / 4 for row in range(count)]
    return pa.table(
        {
            "n": numbers,
            "e": [[row, row + 1] for row in range(count)],
            "k": draws.choice(["red", "blue"], count),
            "on": [f"2026-01-{row % 28 + 1:02d}" for row in range(count)],
            "y": draws.integers(0, 3, count),
        }
    )


def write_file(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, 40)


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, 40)


def write_feather(table: pa.Table, path: Path) -> None:
    feather.write_feather(table, str(path), chunksize=40)


def lines_of(table: pa.Table) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in table.to_pylist()).encode()


def write_lines(table: pa.Table, path: Path) -> None:
    path.write_bytes(lines_of(table))


def write_packed_lines(table: pa.Table, path: Path) -> None:
    path.write_bytes(gzip.compress(lines_of(table)))


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "file.arrow": write_file,
    "stream.arrow": write_stream,
    "t.feather": write_feather,
    "t.jsonl": write_lines,
    "t.ndjson.gz": write_packed_lines,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_dataset_of_the_same_parquet(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow, "PIECE_BYTES", 2_000)  # JSON lines in several blocks
    table = rows(150)
    WRITERS[name](table, tmp_path / name)
    parquet.write_table(table, tmp_path / "t.parquet")
    one = convert_file(tmp_path / "t.parquet", tmp_path / "one", label="y", shuffle=2)
    other = convert_file(tmp_path / name, tmp_path / "other", label="y", shuffle=2)
    assert other.schema.features == ("n", "e_0", "e_1", "k", "on")
    assert contents(one) == contents(other)
    assert not (other.root / ".work").exists()
    write_zip(tmp_path / "t.zip", {name: (tmp_path / name).read_bytes()})
    assert contents(convert_file(tmp_path / "t.zip", tmp_path / "zip", label="y", shuffle=2)) == contents(one)


@pytest.mark.parametrize("name", WRITERS)
def test_a_killed_conversion_resumes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "PIECE_BYTES", 2_000)
    WRITERS[name](rows(150), tmp_path / name)
    whole = convert_file(tmp_path / name, tmp_path / "whole", label="y")
    request = ConvertRequest(find_sources([str(tmp_path / name)]), labels=("y",))
    for tasks in (2, 7):
        with pytest.raises(Killed):
            convert(request, tmp_path / "killed", DyingExecutor(tasks))
    assert contents(convert(request, tmp_path / "killed", SerialExecutor())) == contents(whole)


def test_lines_may_have_other_columns_types_and_structs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "PIECE_BYTES", 40)
    lines = [
        {"a": 1, "s": {"x": 1}, "on": "2020-01-01"},
        {"s": {"z": 2.5, "x": 3}, "a": None, "on": "unknown", "new": True},
        {"a": 2.5, "on": "2020-01-03", "s": None, "e": []},
        {"a": 3, "on": "2020-01-03", "e": [1, 2]},
    ]
    (tmp_path / "t.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    dataset = convert_file(tmp_path / "t.jsonl", tmp_path / "out", ignore=("e",), id="on")
    assert dataset.schema.features == ("a", "s.x", "s.z", "new")
    assert dataset.schema.categories == {"new": ("", "true")}
    nan = float("nan")
    expected = [[1, 1, nan, 0], [nan, 3, 2.5, 1], [2.5, nan, nan, 0], [3, nan, nan, 0]]
    np.testing.assert_array_equal(read_all(dataset)["x"], expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\n [{"a": 1}]', r"is one JSON array; write one object per line, e\.g\. with jq"),
        ('{"a": 1}\n{"a": "x"}\n', "row 2: .*a.* changed from number to string; write one JSON object per line"),
        ('{"a": 1}\n' * 9 + '{"a": "x"}\n', "column 'a': some values are int64, others string"),
        ('{"a": 1}\n{"a": 2\n', "row 2: .*; write one JSON object per line"),
        ('{"a": 1}\n5\n', "row 2: .*changed from object to number"),
        ("a,b\n1,2\n", "row 1: Invalid value; write one JSON object per line"),
        ("\n\n", "has no rows"),
    ],
    ids=["array", "types", "types of blocks", "cut", "number", "CSV", "blank"],
)
def test_what_are_no_json_lines_is_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow, "PIECE_BYTES", 81)
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(SourceError, match=rf"t\.jsonl.*{message}"):
        convert_file(tmp_path / "t.jsonl", tmp_path / "out")


@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file_is_refused(name: str, tmp_path: Path) -> None:
    WRITERS[name](rows(100), tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for length in (len(data) // 2, len(data) - 9):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(SourceError, match=name):
            convert_file(tmp_path / name, tmp_path / "out", label="y")
    assert not (tmp_path / "out").exists()


def test_the_first_version_of_feather_and_other_files_are_refused(tmp_path: Path) -> None:
    for data, message in ((b"FEA1 and so on", "first version of Feather"), (b"nothing of Arrow", "not a complete")):
        (tmp_path / "t.feather").write_bytes(data)
        with pytest.raises(SourceError, match=message):
            convert_file(tmp_path / "t.feather", tmp_path / "out")


def test_the_index_of_pandas_and_names_that_occur_twice(tmp_path: Path) -> None:
    feather.write_feather(pa.Table.from_pandas(pd.DataFrame({"a": [1, 2]}, index=[5, 9])), str(tmp_path / "t.feather"))
    assert convert_file(tmp_path / "t.feather", tmp_path / "index").schema.features == ("a",)
    write_file(pa.table([pa.array([1, 2]), pa.array([3, 4]), pa.array([5, 6])], ["a", "b", "a"]), tmp_path / "t.arrow")
    dataset = convert_file(tmp_path / "t.arrow", tmp_path / "twice", label="b")
    assert dataset.schema.features == ("a", "a.1")
    assert read_all(dataset)["x"].tolist() == [[1, 5], [2, 6]]


@pytest.mark.parametrize("name", WRITERS)
def test_a_part_of_a_file_is_sampled(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](rows(3000), tmp_path / name)
    for most in (3_000, 1 << 24):
        monkeypatch.setattr(sampling, "TEXT_BYTES", most)
        monkeypatch.setattr(sampling, "PACKED_BYTES", most)
        (copies := tmp_path / str(most)).mkdir()
        sample = sample_texts(find_sources([str(tmp_path / name)]), CsvOptions(), copies)
        found = convert_file(Path(sample.places[0]), tmp_path / f"{most}.zarr", label="y")
        assert (len(found) < 1_500) == (sample.bytes < (sample.total or 0)) == (most == 3_000)
