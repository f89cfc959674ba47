"""Zarr v3 shards as bytes: blocks compressed one by one, an index at the end, and a CRC for each part.

This is the `sharding_indexed` codec of the Zarr v3 specification (index at the end, inner codecs bytes, blosc,
crc32c, or for image files vlen-bytes, crc32c), implemented here so that a shard can be encoded, hashed and stored as
one object, and a block decoded directly into a caller's buffer. `tests/contracts` compares it with zarr-python in both
directions.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce

import google_crc32c
import numcodecs
import numpy as np
from numcodecs import blosc

from ..errors import DamagedError
from ..format.arrays import ArraySpec
from ..format.layout import Layout
from .checksum import crc32c
from .files import pack_files

Rows = np.ndarray | Sequence[bytes]
"""Rows to be stored: an array, (rows, *row_shape), or image files."""
CHECKSUM_BYTES = 4
ENTRY_BYTES = 16
RESIDUE = 0x48674BC7  # the CRC-32C of any data followed by its own CRC-32C
MISSING = 2**64 - 1
PARTS = "parts"

# Outside the main thread blosc would lock its own threads: with contexts, our threads decode in parallel.
blosc.use_threads = False


LEVEL = 9  # of blosc, at which LZ4 leaves nothing out: a tenth smaller than at 5, and faster to decode
WORTHWHILE = 1.25
"""Smallest compression ratio worth having: below it, LZ4 takes more time than its savings are worth."""
STORED = numcodecs.Blosc(clevel=0)
BLOSC_HEADER = 16
FLAGS_AT, COPIED = 2, 0x02  # in blosc's header: its data are uncompressed
PROBE_BYTES = 64 << 10
HOPELESS = 1.15  # if the start of a block compresses by less, the rest is not tried


def compressor(spec: ArraySpec) -> numcodecs.Blosc:
    """The compressor for an array's blocks: LZ4, with a byte shuffle for items of several bytes."""
    shuffle = blosc.NOSHUFFLE if np.dtype(spec.dtype).itemsize == 1 else blosc.SHUFFLE
    return numcodecs.Blosc(cname="lz4", clevel=LEVEL, shuffle=shuffle)


def index_bytes(layout: Layout) -> int:
    """Length in bytes of the index at the end of a shard."""
    return layout.shard_blocks * ENTRY_BYTES + CHECKSUM_BYTES


def encode_shard(
    spec: ArraySpec, layout: Layout, rows: Rows, blocks: list[int], behind: Sequence[bytes] = ()
) -> Iterator[bytes | memoryview]:
    """Encode one shard, block by block, and yield its bytes in parts.

    `rows` is (n, *row_shape) of the array's dtype, or n image files, n at most `layout.shard_rows`. The length as
    stored and the CRC-32C of each block are appended to `blocks`. A short last block is padded with zeros, as the
    format requires, or with empty files. After each block come the bytes `behind` it, which readers of Zarr pass over.
    """
    codec = compressor(spec)
    index = np.full((layout.shard_blocks, 2), MISSING, "<u8")
    offset = 0
    for number, start in enumerate(range(0, len(rows), layout.block_rows)):
        parts = _encoded(spec, layout, rows[start : start + layout.block_rows], codec)
        length, checksum = sum(map(len, parts)), reduce(google_crc32c.extend, parts, 0)
        yield from (part if isinstance(part, bytes) else part.data for part in parts)
        yield struct.pack("<I", checksum)
        index[number] = offset, length + CHECKSUM_BYTES
        blocks += (length + CHECKSUM_BYTES, checksum)
        offset += length + CHECKSUM_BYTES
        if behind:
            yield behind[number]
            offset += len(behind[number])
    tail = index.tobytes()
    yield tail + struct.pack("<I", google_crc32c.value(tail))


def _encoded(spec: ArraySpec, layout: Layout, rows: Rows, codec: numcodecs.Blosc) -> tuple[bytes | np.ndarray, ...]:
    """A block in parts, padded if it is short."""
    if not isinstance(rows, np.ndarray):
        return (pack_files(rows, layout.block_rows),)
    block = np.ascontiguousarray(rows)
    if len(block) < layout.block_rows:
        block = np.concatenate([block, np.zeros((layout.block_rows - len(block), *spec.row_shape), spec.dtype)])
    return _compressed(codec, block)


def _compressed(codec: numcodecs.Blosc, block: np.ndarray) -> tuple[bytes | np.ndarray, ...]:
    """Compress a block, in parts, or store it uncompressed if its beginning shows that compression does not pay off."""
    probe = block.reshape(-1)[: PROBE_BYTES // block.itemsize]
    if probe.nbytes < PROBE_BYTES or probe.nbytes >= HOPELESS * len(codec.encode(probe)):
        data: bytes = codec.encode(block)
        if block.nbytes >= WORTHWHILE * len(data):
            return (data,)
    return _stored_header(block.nbytes, block.itemsize), block.reshape(-1).view(np.uint8)


@lru_cache(256)
def _stored_header(size: int, itemsize: int) -> bytes:
    """The header that blosc writes before `size` uncompressed bytes."""
    return bytes(STORED.encode(np.zeros(size // itemsize, f"V{itemsize}"))[:BLOSC_HEADER])


def decode_index(tail: bytes, layout: Layout) -> np.ndarray:
    """Decode the index of a shard from its last `index_bytes` bytes: (shard_blocks, 2) uint64, offset and length.

    Raises DamagedError (without a location, which the caller adds) if the checksum does not match.
    """
    entries, stored = tail[:-CHECKSUM_BYTES], tail[-CHECKSUM_BYTES:]
    if len(tail) != index_bytes(layout) or struct.pack("<I", google_crc32c.value(entries)) != stored:
        raise DamagedError("the shard's index does not match its checksum")
    return np.frombuffer(entries, "<u8").reshape(-1, 2)


def decode_block(data: bytes | np.ndarray, expected: int, out: np.ndarray) -> np.ndarray:
    """Decode one whole block, bytes or (length,) uint8, into `out`, a contiguous (block_rows, *row_shape) buffer, and
    return `out`; or, if it is stored uncompressed in an array that can be written (compiled code takes no others), its
    rows where they are there, maybe not aligned.

    Raises DamagedError (without a location) unless the block is intact and has the CRC-32C recorded when it was
    written: an intact block in the place of another one counts as damaged.
    """
    check_block(data, expected)
    if isinstance(data, np.ndarray) and data.flags.writeable and data[FLAGS_AT] & COPIED:
        return np.frombuffer(data, out.dtype, out.size, BLOSC_HEADER).reshape(out.shape)
    blosc.decompress(data, out)
    return out


def check_block(data: bytes | np.ndarray, expected: int) -> None:
    """Raise DamagedError (without a location) unless a block is intact and has this CRC-32C."""
    if crc32c(data) != RESIDUE or int.from_bytes(data[-CHECKSUM_BYTES:], "little") != expected:
        raise DamagedError("the block does not match its checksum")


def shard_path(layout: Layout, spec: ArraySpec, shard: int) -> str:
    """The path of a shard relative to a set of arrays, of which each part after the first has a folder of its own."""
    return part_folder(layout.part_of(shard)) + shard_key(spec, layout.shard_in_part(shard))


def part_folder(part: int) -> str:
    """The path of a part relative to a set of arrays. The first one is not in a folder of its own."""
    return f"{PARTS}/{part + 1}/" if part else ""


def shard_key(spec: ArraySpec, shard: int) -> str:
    """The name of a shard relative to its part: Zarr's default chunk key."""
    coordinates: Sequence[int] = (shard, *(0 for _ in spec.stored_shape))
    return "/".join([spec.name, "c", *map(str, coordinates)])
