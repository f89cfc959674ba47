"""Our shards are Zarr's: what we write zarr-python reads, what zarr-python writes we read, to the byte."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import zarr
from foldstream.storage.blocks.shards import MISSING, decode_block, decode_index, encode_shard, index_bytes, shard_key
from foldstream.storage.blocks.writer import create_arrays
from foldstream.storage.errors import DamagedError
from foldstream.storage.format.arrays import ArraySpec
from foldstream.storage.format.layout import Layout
from foldstream.storage.places.locate import locate

SPECS = [
    ArraySpec("x", "uint8", (1, 4, 5)),
    ArraySpec("x", "float32", (7,)),
    ArraySpec("id", "int64"),
    ArraySpec("x", "float64", (2, 3)),
]
Sample = Callable[[ArraySpec, int], np.ndarray]
LAYOUT = Layout(rows=103, block_rows=10, shard_blocks=4)


def noise(spec: ArraySpec, rows: int) -> np.ndarray:
    """Rows that do not compress, so that their blocks are stored."""
    size = (rows, spec.row_bytes)
    return np.random.default_rng(0).integers(0, 256, size, np.uint8).view(spec.dtype).reshape(rows, *spec.row_shape)


def smooth(spec: ArraySpec, rows: int) -> np.ndarray:
    """Rows that compress: ten alike follow each other."""
    return np.repeat(noise(spec, -(-rows // 10)), 10, axis=0)[:rows]


@pytest.mark.parametrize("behind", [(), [b"", b"some", b"bytes", b"behind it"]], ids=["alone", "behind"])
@pytest.mark.parametrize("sample", [noise, smooth])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_zarr_python_reads_our_shards(spec: ArraySpec, sample: Sample, behind: Sequence[bytes], tmp_path: Path) -> None:
    rows = sample(spec, LAYOUT.rows)
    create_arrays(locate(tmp_path), LAYOUT, [spec], {})
    for shard in range(LAYOUT.shards):
        start, stop = LAYOUT.shard_range(shard)
        path = tmp_path / shard_key(spec, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(encode_shard(spec, LAYOUT, rows[start:stop], [], behind)))
    read = zarr.open_group(tmp_path, mode="r")[spec.name]
    assert isinstance(read, zarr.Array)
    np.testing.assert_array_equal(np.asarray(read[...]), rows)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_our_blocks_equal_those_of_zarr_python_to_the_byte(spec: ArraySpec, tmp_path: Path) -> None:
    rows = smooth(spec, LAYOUT.rows)
    create_arrays(locate(tmp_path), LAYOUT, [spec], {})
    array = zarr.open_array(tmp_path / spec.name, mode="r+", config={"write_empty_chunks": True})
    array[...] = rows
    for shard in range(LAYOUT.shards):
        start, stop = LAYOUT.shard_range(shard)
        theirs = (tmp_path / shard_key(spec, shard)).read_bytes()
        found: list[int] = []
        ours = b"".join(encode_shard(spec, LAYOUT, rows[start:stop], found))
        assert list(map(len, blocks(ours))) == found[::2]
        # zarr-python may lay the blocks of a shard in another order: each is compared where its index says.
        assert sorted(blocks(theirs)) == sorted(blocks(ours))
        for data, checksum, first in zip(
            blocks(theirs), found[1::2], range(start, stop, LAYOUT.block_rows), strict=True
        ):
            out = decode_block(data, checksum, spec.empty(LAYOUT.block_rows))
            expected = rows[first : min(stop, first + LAYOUT.block_rows)]
            np.testing.assert_array_equal(out[: len(expected)], expected)


def blocks(shard: bytes) -> list[bytes]:
    index = decode_index(shard[-index_bytes(LAYOUT) :], LAYOUT)
    return [shard[int(offset) : int(offset + length)] for offset, length in index if offset != MISSING]


def test_a_flipped_bit_anywhere_in_a_block_is_found() -> None:
    spec = ArraySpec("x", "uint8", (6,))
    layout = Layout(4, 4, 1)
    found: list[int] = []
    data = b"".join(encode_shard(spec, layout, noise(spec, 4), found))
    _, checksum = found
    block = bytearray(data[: -index_bytes(layout)])
    for position in range(len(block)):
        block[position] ^= 1
        with pytest.raises(DamagedError):
            decode_block(bytes(block), checksum, spec.empty(4))
        block[position] ^= 1


def test_a_damaged_index_is_found() -> None:
    spec, layout = ArraySpec("id", "int64"), Layout(8, 4, 2)
    tail = bytearray(b"".join(encode_shard(spec, layout, noise(spec, 8), []))[-index_bytes(layout) :])
    tail[3] ^= 4
    with pytest.raises(DamagedError):
        decode_index(bytes(tail), layout)
