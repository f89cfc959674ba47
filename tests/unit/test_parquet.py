"""Parquet files as sources: the rows of the same CSV, and faults by file, row and column."""

import base64
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from foldstream.pipeline.tables.parquet import ParquetTable
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.errors import FoldstreamError, RowError, SourceError
from pyarrow import csv as pa_csv
from pyarrow import parquet
from pyarrow.parquet import encryption

from ..conftest import contents, convert_file, table
from .test_csv import read_all


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
    for data in (b"PAR1 and then nothing of use PAR1", b"PAR1", b"no Parquet file at all"):
        (tmp_path / "broken.parquet").write_bytes(data)
        with pytest.raises(SourceError, match=r"broken\.parquet is not a complete Parquet file"):
            convert_file(tmp_path / "broken.parquet", tmp_path / "out")
    texts = pa.table({"a": [1, 2], "l": [["x"], ["y"]], "m": pa.array([[], []], pa.map_(pa.string(), pa.int64()))})
    parquet.write_table(texts, tmp_path / "texts.parquet")
    with pytest.raises(SourceError, match=r"column 'l': values of the type list<.*> cannot be columns; .*--ignore 'l'"):
        convert_file(tmp_path / "texts.parquet", tmp_path / "out")
    with pytest.raises(SourceError, match="column 'm': values of the type map<"):
        convert_file(tmp_path / "texts.parquet", tmp_path / "out", ignore=("l",))
    parquet.write_table(texts.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(SourceError, match="has no rows"):
        convert_file(tmp_path / "empty.parquet", tmp_path / "out")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.int16()), pa.list_(pa.float32(), 2)], ids=str
)
def test_the_numbers_of_lists_are_columns(kind: pa.DataType, tmp_path: Path) -> None:
    lists = pa.array([[1, 2], None, [5, 6]], kind)
    parquet.write_table(pa.table({"v": [7, 8, 9], "e": lists}), tmp_path / "t.parquet", row_group_size=2)
    dataset = convert_file(tmp_path / "t.parquet", tmp_path / "out")
    assert dataset.schema.features == ("v", "e_0", "e_1")
    np.testing.assert_array_equal(read_all(dataset)["x"], np.array([[7, 1, 2], [8, np.nan, np.nan], [9, 5, 6]]))
    assert convert_file(tmp_path / "t.parquet", tmp_path / "v", ignore=("e",)).schema.features == ("v",)
    assert convert_file(tmp_path / "t.parquet", tmp_path / "e", ignore=("v", "e_0")).schema.features == ("e_1",)


def test_lists_of_another_length_are_faults(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"v": [7, 8, 9, 1], "e": [[1, 2], [3], [5, 6], [1, 2, 3]]}), tmp_path / "t.parquet")
    message = "row 2, column 'e': the list has 1 values, but that of the first row has 2; .*--ignore 'e'"
    with pytest.raises(RowError, match=message):
        convert_file(tmp_path / "t.parquet", tmp_path / "out")
    dataset = convert_file(tmp_path / "t.parquet", tmp_path / "out", on_error="skip")
    assert read_all(dataset)["x"].tolist() == [[7, 1, 2], [9, 5, 6]]
    with pytest.raises(RowError, match=message):
        convert_file(tmp_path / "t.parquet", tmp_path / "second", ignore=("e_0",))


def test_structs_and_lists_of_lists_are_columns(tmp_path: Path) -> None:
    structs = pa.array([{"x": 1, "y": {"z": "u"}}, {"x": 2, "y": None}, {"x": 3, "y": {"z": "v"}}])
    matrices = [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[5, 6], [7, 9]]]
    parquet.write_table(pa.table({"s": structs, "m": matrices}), tmp_path / "t.parquet")
    dataset = convert_file(tmp_path / "t.parquet", tmp_path / "out")
    assert dataset.schema.features == ("s.x", "s.y.z", "m_0_0", "m_0_1", "m_1_0", "m_1_1")
    assert read_all(dataset)["x"].tolist() == [[1, 1, 1, 2, 3, 4], [2, 0, 5, 6, 7, 8], [3, 2, 5, 6, 7, 9]]
    label = convert_file(tmp_path / "t.parquet", tmp_path / "label", label="s.x", ignore=("m",))
    assert label.schema.classes == ("1", "2", "3")


def test_names_that_occur_twice_are_told_apart(tmp_path: Path) -> None:
    arrays = [pa.array(values) for values in ([1, 2], [3, 4], [5, 6], [7, 8])]
    parquet.write_table(pa.table(arrays, names=["a", "b", "a", "a.1"]), tmp_path / "t.parquet")
    dataset = convert_file(tmp_path / "t.parquet", tmp_path / "out", label="a.2")
    assert dataset.schema.features == ("a", "b", "a.1")
    assert read_all(dataset)["x"].tolist() == [[1, 3, 7], [2, 4, 8]]
    assert ParquetTable("t", ("a", "a.2"), renamed=("a.2",)).describe().endswith("names that occur several times: a.2")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()], ids=str)
def test_text_that_is_not_utf8_is_a_fault_of_its_row(kind: pa.DataType, tmp_path: Path) -> None:
    offsets = np.array([0, 1, 2, 3, 3], np.int64 if kind == pa.large_string() else np.int32)
    texts = pa.Array.from_buffers(kind, 4, [None, pa.py_buffer(offsets), pa.py_buffer(b"a\xffb")])
    parquet.write_table(pa.table({"t": texts, "v": [1, 2, 3, 4]}), tmp_path / "t.parquet")
    with pytest.raises(RowError, match=r"t\.parquet, row 2, column 't': the text is not UTF-8; .*--ignore 't'"):
        convert_file(tmp_path / "t.parquet", tmp_path / "out")
    dataset = convert_file(tmp_path / "t.parquet", tmp_path / "out", on_error="skip")
    assert dataset.schema.categories == {"t": ("", "a", "b")}
    assert len(dataset) == 3


class OpenKeys(encryption.KmsClient):  # type: ignore[misc]
    """A store of keys that keeps no secret."""

    def wrap_key(self, key_bytes: bytes, _: str) -> bytes:
        return base64.b64encode(key_bytes)


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_an_encrypted_file_is_refused(plaintext_footer: bool, tmp_path: Path) -> None:
    ways = encryption.EncryptionConfiguration(
        footer_key="k", column_keys={"c": ["a"]}, plaintext_footer=plaintext_footer
    )
    factory = encryption.CryptoFactory(lambda _: OpenKeys())
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), ways)
    with parquet.ParquetWriter(
        tmp_path / "t.parquet", (rows := pa.table({"a": [1], "b": [2]})).schema, encryption_properties=properties
    ) as writer:
        writer.write_table(rows)
    with pytest.raises(SourceError, match=r"t\.parquet is encrypted \(.*\); decrypt it first"):
        convert_file(tmp_path / "t.parquet", tmp_path / "out")


def test_damage_anywhere_is_an_error_with_the_file(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    rows = pa.table({"a": draws.random(2000), "t": draws.integers(0, 9, 2000).astype(str), "l": [[1, 2]] * 2000})
    parquet.write_table(rows, tmp_path / "t.parquet", write_page_checksum=True, row_group_size=700)
    whole = (tmp_path / "t.parquet").read_bytes()
    refused = 0
    for number in range(60):
        data = bytearray(whole)
        for at in draws.integers(len(whole) - 2500 if number % 2 else 4, len(whole), 3):
            data[at] ^= int(draws.integers(1, 256))
        (tmp_path / "t.parquet").write_bytes(data[: len(data) // 2] if number == 0 else data)
        try:
            convert_file(tmp_path / "t.parquet", tmp_path / f"{number}.zarr")
        except FoldstreamError as error:
            assert "t.parquet" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 50
