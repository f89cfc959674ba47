"""Foreign chunks are decoded as rarely as possible, and what has changed or is damaged is an error that names it."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import foldstream as fs
import numpy as np
import pytest
import zarr
from foldstream.pipeline.adopt.layout import fitting_layout
from foldstream.pipeline.adopt.speed import ReadingSpeed, compare_speed
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import DamagedError, SourceError
from foldstream.storage.foreign.cache import DecodedChunks
from foldstream.storage.foreign.format import Chunked, Description, Foreign, Groups
from foldstream.storage.foreign.reader import ForeignReader

ROWS = 600
X = np.random.default_rng(0).normal(size=(ROWS, 20)).astype(np.float32)


def write_store(folder: Path, chunk: int = 60) -> Path:
    group = zarr.open_group(folder / "store.zarr", mode="w")
    group.create_array("x", shape=X.shape, chunks=(chunk, 20), dtype="float32")[...] = X
    return folder / "store.zarr"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A Zarr array of 10 chunks, each a file, in place."""
    return fs.adopt(write_store(tmp_path), tmp_path / "adopted.zarr", progress=False)


def chunk_file(dataset: Dataset, number: int) -> Path:
    assert dataset.foreign
    return Path(dataset.foreign.files[number])


def read_all(dataset: Dataset) -> np.ndarray:
    return BlockReader(dataset, ["x"]).read(range(dataset.layout.blocks))["x"]


def touch(file: Path) -> None:
    """The same bytes, but written later."""
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def test_a_file_that_has_changed_is_an_error_that_names_it(dataset: Dataset) -> None:
    assert read_all(dataset).tobytes() == X.tobytes()
    file = chunk_file(dataset, 3)
    touch(file)
    with pytest.raises(DamagedError, match=f"{file} has changed since it was adopted"):
        read_all(dataset)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(DamagedError, match=r"it has .* bytes, and had"):
        read_all(dataset)
    file.unlink()
    with pytest.raises(DamagedError, match=f"{file}: the file is missing"):
        read_all(dataset)


def test_a_file_that_changes_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    reader = BlockReader(fs.adopt(tmp_path / "x.npy", tmp_path / "adopted.zarr", progress=False))
    reader.read([0])
    touch(tmp_path / "x.npy")
    with pytest.raises(DamagedError, match="has changed since it was adopted"):
        reader.read([1])


def test_a_damaged_chunk_is_an_error_that_names_it(dataset: Dataset) -> None:
    file = chunk_file(dataset, 5)
    status, data = file.stat(), bytearray(file.read_bytes())
    data[:12] = b"\xff" * 12
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DamagedError, match=f"{file}: the chunk of .* bytes at 0 of 'x' cannot be decoded"):
        read_all(dataset)
    (damage,) = {(one.path, one.array) for one in fs.verify(dataset)}
    assert damage == (str(file), "x")


def test_verify_compares_hashes_where_there_are_some(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    plain = fs.adopt(tmp_path / "x.npy", tmp_path / "plain.zarr", progress=False)
    hashed = fs.adopt(tmp_path / "x.npy", tmp_path / "hashed.zarr", hash=True, progress=False)
    assert fs.verify(plain) == fs.verify(hashed) == []
    status = (tmp_path / "x.npy").stat()
    np.save(tmp_path / "x.npy", X + 1)
    os.utime(tmp_path / "x.npy", ns=(status.st_atime_ns, status.st_mtime_ns))  # as a careless copy would
    assert fs.verify(plain) == []
    (damage,) = fs.verify(hashed)
    assert (damage.first_row, damage.last_row) == (0, ROWS - 1)
    assert "content differs" in damage.reason
    with pytest.raises(SourceError, match=r"was made by fs.adopt"):
        fs.verify(hashed, repair=True)


def test_verify_names_the_rows_of_a_changed_file(dataset: Dataset) -> None:
    touch(chunk_file(dataset, 4))
    (damage,) = fs.verify(dataset)
    assert (damage.path, damage.first_row, damage.last_row) == (str(chunk_file(dataset, 4)), 240, 299)


def test_a_chunk_that_several_threads_need_is_decoded_once() -> None:
    chunks, entered, decoded = DecodedChunks(), Event(), list[int]()

    def decode() -> np.ndarray:
        decoded.append(1)
        assert entered.wait(10)
        return np.zeros(4)

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(chunks.get, "chunk", decode) for _ in range(3)]
        entered.set()
        assert {id(one.result()) for one in waiting} == {id(waiting[0].result())}
    assert len(decoded) == 1


def test_decoded_chunks_stay_within_their_bytes_and_errors_do_not_stay() -> None:
    chunks, decoded = DecodedChunks(limit=100), list[int]()

    def get(key: int) -> np.ndarray:
        def decode() -> np.ndarray:
            decoded.append(key)
            return np.zeros(5)  # 40 bytes

        return chunks.get(key, decode)

    for key in (1, 2, 1, 3, 1, 2):
        get(key)
    assert decoded == [1, 2, 3, 2]  # of three, the one that was used longest ago has left
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            chunks.get("bad", lambda: np.zeros(1 // 0))
    assert len(chunks.get("bad", lambda: np.zeros(3))) == 3


def chunked(rows: int, chunk: int, codecs: bool = True) -> Chunked:
    table = np.zeros((-(-rows // chunk), 3), np.int64)
    return Chunked((rows, 250), (chunk, 250), "<f4", table, codecs=({"id": "zlib"},) if codecs else ())


def groups(*rows: int) -> Groups:
    bounds = np.cumsum([0, *rows])
    return Groups("parquet", ("x",), (250,), "float32", np.zeros((len(rows), 3), np.int64), bounds)


def test_blocks_are_made_of_whole_chunks_or_divide_them() -> None:
    rows = 1_000_000  # of 1,000 bytes: blocks of about 2,097 rows
    assert fitting_layout(rows, 1000, None).block_rows == 2_097
    assert fitting_layout(rows, 1000, chunked(rows, 100)).block_rows == 2_000
    assert (
        fitting_layout(rows, 1000, chunked(rows, 4_000)).block_rows == 4_000
    )  # as few rows as possible are read twice
    assert fitting_layout(rows, 1000, chunked(rows, 60_000)).block_rows == 2_000
    assert fitting_layout(rows, 1000, chunked(rows, rows, codecs=False)).block_rows == 2_097  # read in any ranges


def test_each_file_of_row_groups_is_a_part() -> None:
    layout = fitting_layout(250_000, 1000, groups(40_000, 40_000, 20_000, 40_000, 40_000, 20_000, 40_000, 10_000))
    assert layout.parts == (100_000, 100_000, 50_000)
    assert 40_000 % layout.block_rows == 0


def test_a_copy_is_advised_where_reading_in_place_is_slow(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare_speed(dataset) == ReadingSpeed(None)  # it stays in memory
    assert "--copy" not in ReadingSpeed(0.9).describe()
    assert re.search("decoded 30 times an epoch; .*--copy", ReadingSpeed(0.05, 30).describe())
    monkeypatch.setattr("foldstream.pipeline.adopt.speed.SMALL_BYTES", 0)
    monkeypatch.setattr("foldstream.pipeline.adopt.speed.CACHE_BYTES", 0)
    speed = compare_speed(dataset)
    assert speed
    assert speed.share
    assert 0 < speed.share < 5
    assert speed.decodings == dataset.layout.blocks / 10  # as a chunk of 60 rows has several blocks


def test_a_description_survives_its_files() -> None:
    arrays: dict[str, Description] = {"x": chunked(100, 10), "y": groups(40, 60)}
    foreign = Foreign(("/a b/ü", "s3://bucket/c"), np.array([[1, 2], [3, 4]]), arrays)
    again = Foreign.of(foreign.to_json(), foreign.to_bytes())
    assert (again.files, again.to_json()) == (foreign.files, foreign.to_json())
    assert again.to_bytes() == foreign.to_bytes()


def test_a_reader_refuses_rows_of_another_number_of_values(dataset: Dataset) -> None:
    assert dataset.foreign
    with pytest.raises(ValueError, match="cannot reshape"):
        ForeignReader(dataset.foreign).read("x", 0, 10, np.empty((10, 7), np.float32))
