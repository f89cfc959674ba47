"""Lists in Parquet files that are decoded without Arrow: equal to what Arrow reads, and left to Arrow if they are not
plain."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from foldstream.storage.foreign.headers import DATA_PAGE_V2, DICTIONARY_PAGE
from foldstream.storage.foreign.pages import DICTIONARY, PLAIN, Column, place_lists, place_pages
from foldstream.storage.foreign.parquet import ColumnChunk, Footer
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

ROWS = 300
SMALL_PAGES = {"data_page_size": 1_000, "dictionary_pagesize_limit": 1 << 20, "write_batch_size": 64}
CODECS = ["none", "snappy", "zstd", "gzip", "brotli", "lz4"]


def of_shape(values: np.ndarray) -> pa.Array:
    """Rows as an array of lists, nested as deep as they have axes."""
    column = pa.array(values.reshape(-1))
    for size in values.shape[:0:-1]:
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def lists_of(kind: pa.DataType, depth: int) -> pa.DataType:
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


def chunk_of(file: Path, values: np.ndarray, group: int = 0) -> tuple[ColumnChunk, bytes] | None:
    """A row group of the column 'x', as it is stored."""
    chunk = Footer(str(file)).lists(group, "x", values.ndim - 1, values.dtype.name)
    return chunk and (chunk, file.read_bytes()[chunk.offset : chunk.offset + chunk.length])


def decoded(file: Path, values: np.ndarray) -> np.ndarray | None:
    """The first row group of the column 'x', None if it is left to Arrow."""
    found, out = chunk_of(file, values), np.full_like(values, 77)
    return out if found and place(*found, out) else None


def place(chunk: ColumnChunk, stored: bytes, out: np.ndarray) -> bool:
    return place_lists(chunk, stored, np.empty(chunk.decoded_bytes, np.uint8), out)


def written(folder: Path, column: Any, **options: Any) -> Path:
    parquet.write_table(
        pa.table({"before": pa.array([[1.5, 2.5]] * len(column)), "x": column}), folder / "t", **options
    )
    return folder / "t"


def random_rows(dtype: str, distinct: int, shape: tuple[int, ...], rows: int = ROWS) -> np.ndarray:
    """Rows with runs of equal values, of at most so many distinct ones, of which one is negative if it can be."""
    generator = np.random.default_rng(distinct)
    kinds = np.arange(distinct) - (0 if dtype.startswith("u") else 1)
    runs = generator.geometric(0.2, rows * prod(shape))
    return np.repeat(generator.choice(kinds, len(runs)), runs)[: rows * prod(shape)].astype(dtype).reshape(rows, *shape)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("dictionary", [True, False])
def test_lists_of_each_type_are_decoded_as_arrow_reads_them(dtype: str, dictionary: bool, tmp_path: Path) -> None:
    values = random_rows(dtype, 100, (12,))
    file = written(tmp_path, of_shape(values), use_dictionary=dictionary, **SMALL_PAGES)
    np.testing.assert_array_equal(decoded(file, values), values)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_pages_of_each_codec_and_version_are_decoded(
    codec: str, version: str, dictionary: bool, tmp_path: Path
) -> None:
    values = random_rows("uint8", 200, (5, 7))
    options = {"compression": codec, "data_page_version": version, "use_dictionary": dictionary, **SMALL_PAGES}
    np.testing.assert_array_equal(decoded(written(tmp_path, of_shape(values), **options), values), values)


@pytest.mark.parametrize("distinct", [1, 2, 3, 16, 128, 129, 200, 255, 256, 257, 5_000, 70_000])
def test_dictionaries_of_each_size_are_decoded(distinct: int, tmp_path: Path) -> None:
    values = random_rows("int32", distinct, (40,), rows=max(ROWS, distinct // 5))
    file = written(tmp_path, of_shape(values), dictionary_pagesize_limit=1 << 24)
    np.testing.assert_array_equal(decoded(file, values), values)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (1, 1), (4, 1, 5), (1, 6)])
@pytest.mark.parametrize("fixed", [True, False])
def test_lists_of_each_shape_are_decoded(shape: tuple[int, ...], fixed: bool, tmp_path: Path) -> None:
    values = random_rows("float32", 50, shape)
    column = of_shape(values) if fixed else pa.array(values.tolist(), lists_of(pa.float32(), len(shape)))
    np.testing.assert_array_equal(decoded(written(tmp_path, column, **SMALL_PAGES), values), values)


@pytest.mark.parametrize("optional", [False, True])
def test_required_lists_and_values_are_decoded(optional: bool, tmp_path: Path) -> None:
    values = random_rows("uint8", 30, (4,))
    kind = pa.list_(pa.field("item", pa.uint8(), nullable=optional))
    schema = pa.schema([pa.field("x", kind, nullable=False)])
    parquet.write_table(pa.table([pa.array(values.tolist(), kind)], schema=schema), tmp_path / "t", **SMALL_PAGES)
    np.testing.assert_array_equal(decoded(tmp_path / "t", values), values)


@pytest.mark.parametrize("codec", ["uncompressed", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("kind", ["array", "list"])
def test_files_of_another_writer_are_decoded(codec: Any, kind: str, tmp_path: Path) -> None:
    values = random_rows("uint8", 200, (12,), rows=5_000)
    dtype = pl.Array(pl.UInt8, 12) if kind == "array" else pl.List(pl.UInt8)
    frame = pl.DataFrame({"before": values[:, 0], "x": pl.Series(values.tolist(), dtype=dtype)})
    frame.write_parquet(tmp_path / "t", compression=codec, row_group_size=len(values), data_page_size=10_000)
    np.testing.assert_array_equal(decoded(tmp_path / "t", values), values)


def test_each_row_group_is_decoded_by_itself(tmp_path: Path) -> None:
    values = random_rows("int16", 60, (9,))
    file = written(tmp_path, of_shape(values), row_group_size=100)
    for group, rows in enumerate(np.split(values, 3)):
        found, out = chunk_of(file, rows, group), np.empty_like(rows)
        assert found
        assert place(*found, out)
        np.testing.assert_array_equal(out, rows)


def test_columns_are_found_by_name_whatever_is_before_them(tmp_path: Path) -> None:
    values = random_rows("uint8", 60, (2,), rows=4)
    mapped = pa.array([[(1, 2)]] * 4, pa.map_(pa.int8(), pa.int8()))
    before = {"x.list": [[3, 3]] * 4, "s": [{"a": 1, "b": [1]}] * 4, "m": mapped}
    parquet.write_table(pa.table({**before, "x": of_shape(values), "x.list.element": [1] * 4}), tmp_path / "t")
    np.testing.assert_array_equal(decoded(tmp_path / "t", values), values)


@pytest.mark.parametrize(
    ("column", "options"),
    [
        ([[1.0, 2.0], [None, 4.0]] * 50, {}),
        ([[1.0, 2.0], None] * 50, {}),
        ([[1.0, 2.0], []] * 50, {}),
        ([[1.0], [2.0, 3.0, 4.0]] * 50, {}),
        ([[[1.0, 2.0]], [[3.0, 4.0]]] * 50, {}),
        ([[1.0, 2.0]] * 100, {"use_dictionary": False, "use_byte_stream_split": True}),
    ],
    ids=["a missing value", "a missing list", "an empty list", "other lengths", "deeper", "another encoding"],
)
def test_what_is_not_plain_is_left_to_arrow(column: list[Any], options: dict[str, Any], tmp_path: Path) -> None:
    values = np.zeros((100, 2), np.float32)
    nested = lists_of(pa.float32(), 2 if isinstance((column[0] or [0])[0], list) else 1)
    assert decoded(written(tmp_path, pa.array(column, nested), **options), values) is None


@pytest.mark.parametrize("kind", [pa.bool_(), pa.float16(), pa.uint64()])
def test_types_that_are_stored_in_another_way_are_left_to_arrow(kind: pa.DataType, tmp_path: Path) -> None:
    column = pa.array([[1, 0]] * 20, pa.list_(pa.int8())).cast(pa.list_(kind))
    for dtype in ("uint8", "float32", "float64", "int32"):
        assert decoded(written(tmp_path, column), np.zeros((20, 2), dtype)) is None


GROUP, ONE_LIST = 1 << 1 | 1, 0b11111110  # eight packed values, and the levels of a list of eight


def place_eight(indices: bytes, out: np.ndarray) -> int:
    """Decode a page of one list, whose indices of eight bits are given as stored, into `out`."""
    dictionary, page = np.arange(256, dtype="<i4").tobytes(), bytes([GROUP, ONE_LIST, 8, *indices, *[99] * 30])
    data, cut = np.frombuffer(bytearray(dictionary + page), np.uint8), len(dictionary)
    pages = np.array(
        [
            (DICTIONARY_PAGE, 0, cut, cut, 256, PLAIN, 0, 0, 0),
            (DATA_PAGE_V2, cut, len(data), len(page), 8, DICTIONARY, 2, 0, 0),
        ]
    )
    column = Column(repetition=1, definition=0, value_bytes=4, snappy=False)
    return place_pages(data, pages, column, np.array([8], np.uint64), data[:0], out, 0)


def test_nothing_is_written_beside_the_values() -> None:
    """Groups are decoded in pairs, but the last one may have no second one."""
    out = np.full(20, 7, np.uint8)
    assert place_eight(bytes([GROUP, *range(8)]), out[:8]) == 8
    assert out.tolist() == [*range(8), *[7] * 12]


@pytest.mark.parametrize("nothing", [[0, 5], [1]], ids=["a run", "groups"])
def test_runs_of_no_values_are_left_to_arrow(nothing: list[int]) -> None:
    assert place_eight(bytes([*nothing, GROUP, *range(8)]), np.zeros(8, np.uint8)) == -1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("distinct", [100, 200, 300])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy"])
def test_damaged_bytes_never_give_values_that_arrow_does_not_read(
    distinct: int, version: str, codec: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Nor is anything written beside the array, whatever the bytes."""
    values = random_rows("uint16", distinct, (5,)) + np.uint16(1)
    folder = tmp_path_factory.mktemp("damaged")
    file = written(folder, of_shape(values), compression=codec, data_page_version=version, **SMALL_PAGES)
    found = chunk_of(file, values)
    assert found
    chunk, stored = found[0], bytearray(found[1])
    damages = data.draw(st.integers(1, 3))
    for _ in range(damages):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 254, 255]))
    around = np.full((len(values) + 200, 5), 7_777, np.uint16)
    plain = place(chunk, bytes(stored), around[100:-100])
    assert (around[:100] == 7_777).all()
    assert (around[-100:] == 7_777).all()
    if plain:
        whole = bytearray(file.read_bytes())
        whole[chunk.offset : chunk.offset + chunk.length] = stored
        try:
            read = parquet.read_table(pa.BufferReader(bytes(whole)), columns=["x"]).column(0).combine_chunks()
            values = read.flatten().to_numpy().reshape(-1, 5)
        except OSError:  # for something that does not change the values, such as the number of rows of a page
            if damages > 1:
                return
        np.testing.assert_array_equal(around[100:-100], values)
