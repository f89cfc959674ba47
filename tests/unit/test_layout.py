"""A layout of several parts, each of which begins with a new block and a new shard."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.blocks.writer import blocks_of, commit, create_arrays, write_shard
from foldstream.storage.dataset import StoredArrays, open_arrays
from foldstream.storage.format.arrays import ArraySpec
from foldstream.storage.format.layout import Layout
from foldstream.storage.format.manifest import Manifest
from foldstream.storage.places.json_files import parse_json, to_json
from foldstream.storage.places.locate import locate

ROWS = 113
LAYOUT = Layout(ROWS, block_rows=10, shard_blocks=2, parts=(45, 7, 61))
"""Shards of 20, 20 and 5 rows, of 7, and of 20, 20, 20 and 1."""
SPECS = (ArraySpec("x", "float32", (3,)), ArraySpec("y", "int64"))


def test_parts_begin_with_a_new_block_and_a_new_shard() -> None:
    assert [LAYOUT.shard_range(shard) for shard in range(LAYOUT.shards)] == [
        *((0, 20), (20, 40), (40, 45)),
        (45, 52),
        *((52, 72), (72, 92), (92, 112), (112, 113)),
    ]
    assert LAYOUT.block_sizes().tolist() == [10, 10, 10, 10, 5, 7, 10, 10, 10, 10, 10, 10, 1]
    assert [LAYOUT.part_of(shard) for shard in range(LAYOUT.shards)] == [0, 0, 0, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("layout", [LAYOUT, Layout(ROWS, 10, 2), Layout(40, 10, 2), Layout(3, 10, 2)])
def test_rows_blocks_and_shards_agree(layout: Layout) -> None:
    of_shards = [block for shard in range(layout.shards) for block in layout.blocks_of(shard)]
    assert of_shards == list(range(layout.blocks))
    ranges = [layout.block_range(block) for block in range(layout.blocks)]
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(layout.rows))
    assert layout.block_starts().tolist() == [start for start, _ in ranges]
    blocks, places = layout.blocks_at(np.arange(layout.rows))
    for row, block, place in zip(range(layout.rows), blocks.tolist(), places.tolist(), strict=True):
        assert ranges[block][0] + place == row
        start, stop = layout.shard_range(layout.shard_of(block))
        assert start <= row < stop


def test_a_layout_without_parts_is_stored_as_by_earlier_versions() -> None:
    assert to_json(Layout(7, 2, 3)) == b'{"block_rows":2,"rows":7,"shard_blocks":3}\n'
    assert Layout.from_json(parse_json(to_json(LAYOUT), "")) == LAYOUT


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).random((ROWS, 3), np.float32), "y": np.arange(ROWS)}


@pytest.fixture
def stored(tmp_path: Path, arrays: dict[str, np.ndarray]) -> StoredArrays:
    root = locate(tmp_path / "arrays")
    create_arrays(root, LAYOUT, SPECS, {})
    written = []
    for shard in range(LAYOUT.shards):
        rows = slice(*LAYOUT.shard_range(shard))
        written.append(write_shard(root, LAYOUT, SPECS, shard, {n: a[rows] for n, a in arrays.items()}, ("y",)))
    entries = tuple(one.entry for one in written)
    commit(root, Manifest("arrays", LAYOUT, SPECS, entries, {}, behind=("y",)), blocks_of(written, SPECS))
    return open_arrays(root, "arrays")


def test_blocks_of_all_parts_are_read(stored: StoredArrays, arrays: dict[str, np.ndarray]) -> None:
    for blocks in (range(LAYOUT.blocks), [12, 5, 0, 7, 4]):
        rows = np.concatenate([np.arange(*LAYOUT.block_range(block)) for block in blocks])
        read = BlockReader(stored, ["x", "y"]).read(list(blocks))
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array[rows])


def test_readers_of_zarr_see_a_group_for_each_part(stored: StoredArrays, arrays: dict[str, np.ndarray]) -> None:
    group = zarr.open_group(stored.root, mode="r", use_consolidated=True)
    parts = [np.asarray(group[f"{folder}x"]) for folder in ("", "parts/2/", "parts/3/")]
    assert [len(part) for part in parts] == list(LAYOUT.parts)
    np.testing.assert_array_equal(np.concatenate(parts), arrays["x"])
