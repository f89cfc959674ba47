"""Parquet files as sources: the rows of the same CSV, and faults by file, row and column."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from foldstream.pipeline.csv.options import CsvOptions
from foldstream.storage.errors import RowError, SourceError
from foldstream.storage.reader import BlockReader
from pyarrow import csv as pa_csv
from pyarrow import parquet

from ..conftest import contents, convert_file, table


def both(text: str, folder: Path, group: int = 100) -> tuple[Path, Path]:
    """The same table as CSV and as Parquet, in row groups of `group` rows."""
    (folder / "t.csv").write_text(text)
    parquet.write_table(pa_csv.read_csv(folder / "t.csv"), folder / "t.parquet", row_group_size=group)
    return folder / "t.csv", folder / "t.parquet"


@pytest.mark.parametrize("group", [7, 100, 10_000])
def test_parquet_gives_the_dataset_of_the_same_csv(group: int, tmp_path: Path) -> None:
    text = table(1000) + "70000,1,2,3,a\n"  # what a sample of the first rows does not show
    plain, packed = both(text, tmp_path, group)
    one = convert_file(plain, tmp_path / "one", label="label")
    other = convert_file(packed, tmp_path / "other", label="label")
    assert contents(one) == contents(other)
    assert one.statistics == other.statistics


def test_dates_categories_keys_and_missing_values_come_as_from_csv(tmp_path: Path) -> None:
    lines = [f"{i}.5,{'red' if i % 3 else 'blue'},2026-01-{i % 28 + 1:02d},k{i},{i % 2}" for i in range(60)]
    lines[7] = ",red,2026-01-01,k,1"
    plain, packed = both("a,colour,day,name,label\n" + "\n".join(lines) + "\n", tmp_path, 11)
    options = {"label": "label", "id": "name", "shuffle": 3}
    one, other = (convert_file(path, tmp_path / path.suffix[1:], **options) for path in (plain, packed))
    assert contents(one) == contents(other)
    assert other.statistics.missing == (1, 0, 0)
    assert other.schema.dates == {"day": "days"}


def test_an_invalid_row_is_named_or_skipped(tmp_path: Path) -> None:
    x = pa.array([*range(10), None, *range(11, 30)])
    parquet.write_table(pa.table({"x": x, "y": np.arange(30) % 2}), tmp_path / "t.parquet", row_group_size=4)
    with pytest.raises(RowError, match=r"t\.parquet, row 11, column 'x': the value is missing"):
        convert_file(tmp_path / "t.parquet", tmp_path / "out", label="y", missing="error")
    dataset = convert_file(tmp_path / "t.parquet", tmp_path / "out", label="y", missing="error", on_error="skip")
    assert (len(dataset), dataset.left_out) == (29, 1)
    rows = BlockReader(dataset, ("x",)).read(range(dataset.layout.blocks))["x"][:, 0]
    assert rows.tolist() == [i for i in range(30) if i != 10]


def test_what_is_no_table_of_values_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing of use PAR1")
    with pytest.raises(SourceError, match="is not a complete Parquet file"):
        convert_file(tmp_path / "broken.parquet", tmp_path / "out")
    lists = pa.table({"a": [1, 2], "l": [[1], [2]]})
    parquet.write_table(lists, tmp_path / "lists.parquet")
    with pytest.raises(SourceError, match="column 'l'"):
        convert_file(tmp_path / "lists.parquet", tmp_path / "out", csv=CsvOptions())
    parquet.write_table(lists.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(SourceError, match="has no rows"):
        convert_file(tmp_path / "empty.parquet", tmp_path / "out")
