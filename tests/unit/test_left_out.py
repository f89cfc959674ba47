"""Invalid rows: by default the first one stops the conversion, else they are skipped and listed."""

import csv
from pathlib import Path

import pytest
from foldstream.pipeline.csv import cut as csv_cut
from foldstream.storage.errors import RowError, SourceError

from ..conftest import contents, convert_file, table

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
