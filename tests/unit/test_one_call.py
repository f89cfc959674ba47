"""Blocks that are read in one call of compiled code are those that are read step by step, and damage is found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foldstream.storage.blocks import one_call, reader
from foldstream.storage.blocks.one_call import read_parts
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import DamagedError
from foldstream.storage.format.layout import Layout

from ..datasets import write_dataset

ROWS, LAYOUT = 1000, Layout(1000, 128, 4)
LIMITS = {"compressed": 3, "as they are": 256}


@pytest.fixture(params=LIMITS)
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """Features that are compressed, or stored as they are because compression would not pay."""

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        seed = np.random.default_rng(start)
        x = seed.integers(0, LIMITS[request.param], (stop - start, 3, 40, 41), np.uint8)
        return x, seed.integers(0, 10, stop - start)

    return write_dataset(tmp_path / "d.zarr", ROWS, make, layout=LAYOUT)


@pytest.mark.skipif(one_call._functions() is None, reason="this machine reads block by block")
@pytest.mark.parametrize("arrays", [("x", "y", "id"), ("x",), ("x", "id"), ("y", "id")])
def test_one_call_reads_what_the_single_steps_read(
    arrays: tuple[str, ...], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bool] = []

    def noted(*given: Any) -> bool:
        used.append(read_parts(*given))
        return used[-1]

    monkeypatch.setattr(reader, "LONG", 0)  # y and id, from two files, are short
    monkeypatch.setattr(reader, "read_parts", noted)
    own = BlockReader(dataset, arrays)
    found = own.read(range(dataset.layout.blocks))
    assert used == [True] * dataset.layout.blocks, "every block in one call"
    monkeypatch.setattr(reader, "read_parts", lambda *_: False)
    stepwise = BlockReader(dataset, arrays)
    for name, column in stepwise.read(range(dataset.layout.blocks)).items():
        assert found[name].tobytes() == column.tobytes()
    assert own.bytes_read == stepwise.bytes_read


def test_short_blocks_do_not_wait_until_compiled_code_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((stop - start, 3)), np.zeros(stop - start, int)

    small = write_dataset(tmp_path / "d.zarr", 100, make)
    monkeypatch.delattr(reader, "read_parts")
    assert len(BlockReader(small, ("x", "y", "id")).read(range(small.layout.blocks))["x"]) == 100


@pytest.mark.parametrize(
    ("array", "place"), [("x", 0), ("x", 3), ("x", -5), ("x", -1), ("y", 1), ("id", 0), ("id", -1)]
)
def test_a_changed_byte_of_any_part_is_noticed(array: str, place: int, dataset: Dataset) -> None:
    """The blocks of y and id follow that of x."""
    (shard,) = (path for path in (Path(dataset.root) / "x" / "c" / "1").rglob("*") if path.is_file())
    data, block = bytearray(shard.read_bytes()), LAYOUT.shard_blocks + 1
    lengths = {name: int(dataset.index.tables[name][block, 0]) for name in ("x", "y", "id")}
    start = int(dataset.index.offsets["x"][block])
    for name, length in lengths.items():
        if name == array:
            data[start + place % length] ^= 1
            break
        start += length
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match=r"does not match its checksum \(rows 640 to 767 of x\)"):
        BlockReader(dataset, ("x", "y", "id")).read([block])
    assert len(BlockReader(dataset, ("x", "y", "id")).read([block - 1])["x"]) == 128
