"""Blocks of Snappy are decompressed as by the library behind Arrow, and what it refuses is refused."""

import numpy as np
import pyarrow as pa
import pytest
from foldstream.storage.foreign.snappy import decompress
from hypothesis import given, settings
from hypothesis import strategies as st

CODEC, BESIDE = pa.Codec("snappy"), 100


def decompressed(block: bytes, size: int) -> bytes | None:
    """What a block holds, None if it is refused. Nothing is written beside it."""
    memory = np.full(BESIDE + size + BESIDE, 0xAB, np.uint8)
    done = decompress(np.frombuffer(bytearray(block), np.uint8), memory[BESIDE : BESIDE + size])
    assert set(memory[:BESIDE].tolist()) == set(memory[-BESIDE:].tolist()) == {0xAB}
    return memory[BESIDE:-BESIDE].tobytes() if done else None


def by_arrow(block: bytes, size: int) -> bytes | None:
    try:
        found: bytes = CODEC.decompress(block, size, asbytes=True)
    except (OSError, pa.ArrowInvalid):
        return None
    return found


def sized(size: int, *elements: bytes) -> bytes:
    """A block: the size of its content, and its elements."""
    block = bytearray()
    while size >= 128:
        block.append(size & 127 | 128)
        size >>= 7
    return bytes([*block, size, *b"".join(elements)])


def plain(data: bytes, length_bytes: int = 0) -> bytes:
    """An element of bytes as they are, whose length is in bytes of its own, or in the tag."""
    if not length_bytes:
        return bytes([len(data) - 1 << 2]) + data
    return bytes([59 + length_bytes << 2]) + (len(data) - 1).to_bytes(length_bytes, "little") + data


def copy(length: int, offset: int, kind: int) -> bytes:
    """An element that repeats earlier bytes."""
    if kind == 1:
        return bytes([offset >> 8 << 5 | length - 4 << 2 | 1, offset & 255])
    return bytes([length - 1 << 2 | kind]) + offset.to_bytes(2 * (kind - 1), "little")


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    pieces=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 90), st.integers(0, 9)), max_size=60),
    times=st.sampled_from([1, 3, 400]),
)
def test_blocks_of_the_library_are_decompressed(pieces: list[tuple[int, int, int]], times: int) -> None:
    """Pieces of noise, each repeated, with noise among them."""
    data = b"".join(noise(size, seed) * count + noise(seed, size) for size, count, seed in pieces) * times
    assert decompressed(CODEC.compress(data, asbytes=True), len(data)) == data


@pytest.mark.parametrize("offset", [*range(1, 20), 63, 64, 255, 2_047])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_copies_of_each_length_and_offset(offset: int, kind: int) -> None:
    """Also those that overlap themselves, in the middle of a block and at its end."""
    data, elements = bytearray(noise(2_048)), [plain(noise(2_048), 2)]
    for length in range(4, 12) if kind == 1 else range(1, 65):
        elements.append(copy(length, offset, kind))
        for _ in range(length):
            data.append(data[-offset])
    for end in (b"", noise(200, 1)):
        block = sized(len(data) + len(end), *elements, plain(end, 1) if end else b"")
        assert decompressed(block, len(data) + len(end)) == bytes(data) + end


@pytest.mark.parametrize(("size", "length_bytes"), [(1, 0), (60, 0), (61, 1), (256, 1), (257, 2), (70_000, 3), (9, 4)])
def test_bytes_as_they_are(size: int, length_bytes: int) -> None:
    element = plain(noise(size), length_bytes)
    assert decompressed(sized(3 * size, *[element] * 3), 3 * size) == noise(size) * 3


def test_copies_of_bytes_that_are_far_away() -> None:
    data = noise(70_000)
    block = sized(70_364, plain(data, 3), copy(64, 70_000, 3), plain(noise(300), 2))
    assert decompressed(block, 70_364) == data + data[:64] + noise(300)


REFUSED = {
    "of another size": ([plain(noise(200), 1)], 201),
    "that end too early": ([plain(noise(200), 1), plain(noise(40))[:-1]], 240),
    "that are too long": ([plain(noise(200), 1), plain(noise(40))], 239),
    "whose copy is too long": ([plain(noise(200), 1), copy(40, 40, 2)], 239),
    "before the beginning": ([plain(noise(200), 1), copy(4, 201, 1), plain(noise(200), 1)], 404),
    "far before the beginning": ([plain(noise(200), 1), copy(4, 65_535, 2), plain(noise(200), 1)], 404),
    "very far before it": ([plain(noise(200), 1), copy(4, 1 << 31, 3), plain(noise(200), 1)], 404),
    "that copy themselves": ([plain(noise(200), 1), copy(4, 0, 2), plain(noise(200), 1)], 404),
    "that copy themselves, with a long offset": ([plain(noise(200), 1), copy(4, 0, 3), plain(noise(200), 1)], 404),
    "that copy nothing": ([copy(4, 1, 1), plain(noise(200), 1)], 204),
    "that are missing": ([], 1),
    "whose offset is cut off": ([plain(noise(200), 1), copy(9, 200, 2)[:-1]], 209),
    "of which there are too many": ([plain(noise(200), 1), plain(b"a")], 200),
}


@pytest.mark.parametrize(("elements", "size"), REFUSED.values(), ids=REFUSED)
def test_elements_that_are_none_are_refused(elements: list[bytes], size: int) -> None:
    assert decompressed(sized(size, *elements), size) is None
    assert by_arrow(sized(size, *elements), size) is None


@pytest.mark.parametrize("block", [b"", b"\x80", b"\xff" * 9, b"\x01", b"\x02\x00a"], ids=repr)
def test_blocks_without_their_size_are_refused(block: bytes) -> None:
    assert decompressed(block, 1) is None


def test_a_block_of_nothing() -> None:
    assert decompressed(CODEC.compress(b"", asbytes=True), 0) == b""


@settings(max_examples=500, deadline=None, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 5))
def test_damaged_blocks_are_decompressed_as_by_the_library(data: st.DataObject, seed: int) -> None:
    """Their size is whole: the library returns uninitialized memory where it is too small."""
    whole = b"".join(noise(5, number % (7 + seed)) * (1 + number % 4) + noise(seed, number) for number in range(60))
    block, begin = bytearray(CODEC.compress(whole, asbytes=True)), len(sized(len(whole)))
    for _ in range(data.draw(st.integers(1, 3))):
        block[data.draw(st.integers(begin, len(block) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del block[data.draw(st.integers(begin, len(block))) :]
    assert decompressed(bytes(block), len(whole)) == by_arrow(bytes(block), len(whole))
