"""Invalid rows: by default the first one stops the conversion, else they are skipped and listed."""

import csv
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
from foldstream.pipeline.csv import cut as csv_cut
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.fill import write_shard_task
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.dataset import open_dataset
from foldstream.storage.errors import RowError, SourceError
from foldstream.storage.places.json_files import write_json
from foldstream.storage.places.local import LOCK, LocalPlace
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor

from ..conftest import contents, convert_file, table
from ..executors import LastFirst

INVALID = {
    3: (b"1,2,3,a", None, "the row has 4 fields but the header has 5"),
    7: (b"1,2,x,4,b", "c2", "'x' is not a number"),
    8: (b"1,,3,4,b", "c1", "the value is missing"),
    40: (b"1,2,3,4,", "label", "the value is missing"),
    41: (b"1,2,3,4,\xff\xfe", "label", "the text is not UTF-8 (if the file is Latin-1, use --encoding latin-1)"),
    77: (b"1,2,inf,4,c", "c2", "'inf' is not a finite number"),
    78: (b'1,2,"3,4,5",6,c', "c2", "'3,4,5' is not a number"),
}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file with the invalid rows at their lines, and one without them."""
    lines = table(100).encode().splitlines()
    sound = tmp_path / "sound.csv"
    sound.write_bytes(b"\n".join(lines) + b"\n")
    for line, (text, _, _) in INVALID.items():
        lines.insert(line - 1, text)
    invalid = tmp_path / "invalid.csv"
    invalid.write_bytes(b"\n".join(lines) + b"\n")
    return invalid, sound


@pytest.mark.parametrize("piece_bytes", [100, 1000, 8 << 20])
def test_invalid_rows_are_skipped_and_listed(
    piece_bytes: int, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_cut, "PIECE_BYTES", piece_bytes)
    invalid, sound = files
    dataset = convert_file(invalid, tmp_path / "out", label="label", missing="error", on_error="skip")
    expected = convert_file(sound, tmp_path / "expected", label="label")
    assert contents(dataset) == contents(expected)
    assert dataset.statistics.mean == pytest.approx(expected.statistics.mean, rel=1e-12)
    assert dataset.class_totals == expected.class_totals
    assert dataset.left_out == len(INVALID)
    positions = [line - 2 for line in range(2, 102 + len(INVALID)) if line not in INVALID]
    assert dataset.source_rows(np.arange(100)).tolist() == positions
    with open(dataset.root / "left_out.csv", newline="") as listed:
        rows = list(csv.DictReader(listed))
    assert [(int(r["line"]), r["column"] or None, r["reason"]) for r in rows] == [
        (line, column, reason) for line, (_, column, reason) in INVALID.items()
    ]
    assert {row["file"] for row in rows} == {str(invalid)}


def test_by_default_the_first_invalid_row_stops_before_anything_is_written(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(RowError, match="line 3: the row has 4 fields but the header has 5; fix or remove the row"):
        convert_file(files[0], tmp_path / "out", label="label")
    assert not (tmp_path / "out").exists()


def test_nothing_is_listed_where_nothing_is_invalid(files: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = convert_file(files[1], tmp_path / "out", label="label", missing="error", on_error="skip")
    assert dataset.left_out == 0
    assert not (dataset.root / "left_out.csv").exists()


def test_a_file_of_invalid_rows_alone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "invalid.csv"
    path.write_text("a,b,label\n1,2,c,9\n1,2\n")
    with pytest.raises(SourceError, match=r"has no valid rows \(2 are invalid\)"):
        convert_file(path, tmp_path / "out", label="label", missing="error", on_error="skip")


class StoppedExecutor(SerialExecutor):
    """Stops before the first shard is written, as if the process were killed."""

    def map(self, function: Any, tasks: Iterable[Any]) -> Iterator[Any]:
        if function is write_shard_task:
            raise KeyboardInterrupt
        return super().map(function, tasks)


@pytest.mark.parametrize("stopped", ["after the spec", "before the spec"])
def test_lists_of_an_earlier_attempt_are_not_those_of_the_next(
    stopped: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    request = ConvertRequest((describe_source(str(files[0])),), ("label",), missing="error", on_error="skip")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(request, out, StoppedExecutor())
    assert list((out / ".work" / "faults").iterdir())
    if stopped == "before the spec":
        (out / ".work" / "plan.json").unlink()
    sound = ConvertRequest((describe_source(str(files[1])),), ("label",))
    assert convert(sound, out, SerialExecutor(), overwrite=True).left_out == 0
    assert not (out / "left_out.csv").exists()


@pytest.mark.parametrize("stopped", ["after the spec", "before the spec"])
def test_a_list_has_nothing_of_an_earlier_attempt(
    stopped: str, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", tmp_path / "other.csv"
    other.write_bytes(files[1].read_bytes() + b"1,2\n")
    first, second = (
        ConvertRequest((describe_source(str(path)),), ("label",), missing="error", on_error="skip")
        for path in (files[0], other)
    )
    with monkeypatch.context() as patch:
        patch.setattr(csv_cut, "PIECE_BYTES", 100)
        with pytest.raises(KeyboardInterrupt):
            convert(first, out, StoppedExecutor())
    assert len(list((out / ".work" / "faults").iterdir())) > 1
    if stopped == "before the spec":
        (out / ".work" / "plan.json").unlink()
    assert convert(second, out, SerialExecutor(), overwrite=True).left_out == 1
    assert [line.split(",")[0] for line in (out / "left_out.csv").read_text().splitlines()] == ["file", str(other)]


def test_an_attempt_that_is_replaced_loses_its_spec_last(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    sound = ConvertRequest((describe_source(str(files[1])),), ("label",))
    convert(sound, tmp_path / "fresh", SerialExecutor())
    shutil.copytree(tmp_path / "fresh", out)
    (out / "manifest.json").unlink()
    for name in ("receipts/00000000.json", "faults/00000000.csv", "lists/00000000.arrow", "unpacked/000000"):
        locate(out / ".work" / name).write(b"{}")
    write_json(locate(out / ".work" / "plan.json"), {"request": {"sources": "of another attempt"}})
    with monkeypatch.context() as patch:
        patch.setattr(LocalPlace, "remove", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(sound, out, SerialExecutor(), overwrite=True)
    assert [path.name for path in (out / ".work").iterdir() if path.name != LOCK] == ["plan.json"]
    assert contents(convert(sound, out, SerialExecutor(), overwrite=True)) == contents(open_dataset(tmp_path / "fresh"))


def test_nothing_of_the_dataset_before_is_left(files: tuple[Path, Path], tmp_path: Path) -> None:
    before = convert_file(files[0], tmp_path / "out", label="label", missing="error", on_error="skip")
    for name in ("equal_files.csv", "plans/own/plan.json", "column_old/c/0"):
        locate(before.root / name).write(b"{}")
    sound = ConvertRequest((describe_source(str(files[1])),), ("label",))
    convert(sound, tmp_path / "out", SerialExecutor(), overwrite=True)
    convert(sound, tmp_path / "fresh", SerialExecutor())
    one, other = (
        {str(path.relative_to(root)) for path in root.rglob("*")} for root in (tmp_path / "out", tmp_path / "fresh")
    )
    assert one == other


def test_rows_with_values_that_do_not_occur_in_the_training_data_are_skipped_on_demand(tmp_path: Path) -> None:
    known, new = tmp_path / "known.csv", tmp_path / "new.csv"
    known.write_text("a,city,y\n" + "1,Ulm,u\n2,Bonn,v\n" * 9)
    new.write_text("a,city,y\n1,Ulm,u\n2,Trier,v\n3,Bonn,w\n4,Bonn,v\n")
    like = fs.convert_csv(known, tmp_path / "known.zarr", label="y").root
    with pytest.raises(RowError, match="'Trier' does not occur in the training data"):
        fs.convert_csv(new, tmp_path / "stopped.zarr", label="y", like=like, unknown="error")
    dataset = fs.convert_csv(new, tmp_path / "new.zarr", label="y", like=like, unknown="error", on_error="skip")
    assert (len(dataset), dataset.left_out) == (2, 2)
    listed = (tmp_path / "new.zarr" / "left_out.csv").read_text()
    assert "'Trier' does not occur" in listed
    assert "'w' does not occur" in listed


def test_the_first_invalid_row_is_named_whichever_shard_finds_one_first(tmp_path: Path) -> None:
    known, new = tmp_path / "known.csv", tmp_path / "new.csv"
    known.write_text("a,city,y\n" + "1,Ulm,u\n2,Bonn,v\n" * 9)
    new.write_text("a,city,y\n1,Ulm,u\n2,Trier,v\n3,Bonn,w\n4,Bonn,v\n")
    like = convert_file(known, tmp_path / "known.zarr", label="y").schema
    request = ConvertRequest((describe_source(str(new)),), ("y",), like=like, unknown="error")
    with pytest.raises(RowError) as raised:
        convert(request, tmp_path / "new.zarr", LastFirst())
    assert [(one.line, one.reason) for one in (raised.value, *raised.value.others)] == [
        (3, "'Trier' does not occur in the training data"),
        (4, "'w' does not occur in the training data"),
    ]
