"""Our shards are Zarr's: what we write zarr-python reads, what zarr-python writes we read, to the byte."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from foldstream.storage.errors import DamagedError
from foldstream.storage.format import ArraySpec, Layout
from foldstream.storage.shards import (
    decode_block,
    decode_index,
    encode_shard,
    index_bytes,
    shard_key,
)
from foldstream.storage.writer import create_arrays

SPECS = [
    ArraySpec("x", "uint8", (1, 4, 5)),
    ArraySpec("x", "float32", (7,)),
    ArraySpec("id", "int64"),
    ArraySpec("x", "float64", (2, 3)),
]
LAYOUT = Layout(rows=103, block_rows=10, shard_blocks=4)


def sample(spec: ArraySpec, rows: int) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, (rows, *spec.row_shape))
    return values.astype(spec.dtype)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_zarr_python_reads_our_shards(spec: ArraySpec, tmp_path: Path) -> None:
    rows = sample(spec, LAYOUT.rows)
    create_arrays(tmp_path, LAYOUT, [spec], {})
    for shard in range(LAYOUT.shards):
        start, stop = LAYOUT.shard_range(shard)
        path = tmp_path / shard_key(spec, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_shard(spec, LAYOUT, rows[start:stop])[0])
    read = zarr.open_group(tmp_path, mode="r")[spec.name]
    assert isinstance(read, zarr.Array)
    np.testing.assert_array_equal(np.asarray(read[...]), rows)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_our_shards_equal_those_of_zarr_python_to_the_byte(spec: ArraySpec, tmp_path: Path) -> None:
    rows = sample(spec, LAYOUT.rows)
    create_arrays(tmp_path, LAYOUT, [spec], {})
    array = zarr.open_array(tmp_path / spec.name, mode="r+", config={"write_empty_chunks": True})
    array[...] = rows
    for shard in range(LAYOUT.shards):
        start, stop = LAYOUT.shard_range(shard)
        theirs = (tmp_path / shard_key(spec, shard)).read_bytes()
        index = decode_index(theirs[-index_bytes(LAYOUT) :], LAYOUT)
        ours, checksums = encode_shard(spec, LAYOUT, rows[start:stop])
        assert sorted(map(len, (ours, theirs)))[0] == len(theirs)
        for block, checksum in enumerate(checksums):
            out = spec.empty(LAYOUT.block_rows)
            offset, length = map(int, index[block])
            decode_block(theirs[offset : offset + length], checksum, out)
            first = start + block * LAYOUT.block_rows
            expected = rows[first : first + LAYOUT.block_rows]
            np.testing.assert_array_equal(out[: len(expected)], expected)


def test_a_flipped_bit_anywhere_in_a_block_is_found() -> None:
    spec = ArraySpec("x", "uint8", (6,))
    layout = Layout(4, 4, 1)
    data, (checksum,) = encode_shard(spec, layout, sample(spec, 4))
    block = bytearray(data[: -index_bytes(layout)])
    for position in range(len(block)):
        block[position] ^= 1
        with pytest.raises(DamagedError):
            decode_block(bytes(block), checksum, spec.empty(4))
        block[position] ^= 1


def test_a_damaged_index_is_found() -> None:
    spec, layout = ArraySpec("id", "int64"), Layout(8, 4, 2)
    tail = bytearray(encode_shard(spec, layout, sample(spec, 8))[0][-index_bytes(layout) :])
    tail[3] ^= 4
    with pytest.raises(DamagedError):
        decode_index(bytes(tail), layout)
