"""A compiled decompressor for Snappy, which Parquet files have by default: twice as fast as the library behind Arrow
where elements are a few bytes long, as they are in the indices of a dictionary.

A block begins with its size, uncompressed. Its elements are bytes as they are, and copies of earlier ones. The lowest
two bits of an element's tag say which of both it is, and how its length and offset are stored. Source: "Snappy
compressed format description" in Snappy's repository.
"""

import numpy as np

from ..compiled import compiled, copy_sixteen

LITERAL, COPY_1, COPY_2 = 0, 1, 2
"""Bytes as they are, and copies with offsets of one byte (and three bits in the tag) and two. The fourth kind has four
bytes."""
SHORT_LITERALS = 60  # the length of longer ones is in bytes of their own
FAR = 1 << 16  # more than the offset of a copy of the first two kinds
MARGIN = np.uint64(80)  # more than an element takes, and the 16 bytes that are copied at once
ZERO, ONE, TWO, THREE, FOUR, SEVEN, EIGHT, SIXTEEN = (np.uint64(number) for number in (0, 1, 2, 3, 4, 7, 8, 16))
SIZE_BITS = np.uint64(35)  # of the bytes with the size
MASK, HIGH, REACH, LENGTH = range(4)
"""The rows of the table of tags: what of the two bytes after a tag is the offset, its higher bits, the least offset
with which 16 bytes can be copied at once, and the length. The offset of bytes as they are is 1 there."""


def _tags() -> np.ndarray:
    """What each tag says, (4, 256) uint64."""
    table = np.zeros((4, 256), np.uint64)
    for tag in range(256):
        kind, number = tag & 3, tag >> 2
        if kind == LITERAL and number < SHORT_LITERALS:
            table[:, tag] = 0, 1, 1 if number < 16 else FAR, number + 1
        elif kind == COPY_1:
            length = (number & 7) + 4
            table[:, tag] = 0xFF, tag >> 5 << 8, length, length
        elif kind == COPY_2:
            table[:, tag] = 0xFFFF, 0, number + 1 if number < 16 else FAR, number + 1
        else:
            table[:, tag] = 0, 1, FAR, 0
    return table


TAGS = _tags()


@compiled
def decompress(data: np.ndarray, out: np.ndarray) -> bool:
    """Decompress a block of Snappy, (bytes,) uint8, into `out`, (size,) uint8. Returns False for bytes that are none,
    and for blocks of another size.

    Kinds of elements are not told apart by branches, which a processor cannot predict: for each, 16 bytes are copied
    from a place that is computed. Only longer ones, and copies that overlap themselves, about one in 20, take other
    steps.
    """
    size, at, done, shift = ZERO, ZERO, ZERO, ZERO
    stop, end = np.uint64(len(data)), np.uint64(len(out))
    while at < stop and shift < SIZE_BITS:
        part = np.uint64(data[at])
        size |= (part & np.uint64(127)) << shift
        shift, at = shift + SEVEN, at + ONE
        if part < 128:
            break
    if size != end:
        return False
    if at < stop:  # so that an element of bytes as they are has no offset that is too large
        at, done = _element(data, at, out, done)
        if not done:
            return False
    tags = TAGS.copy()  # at an address that stays in a register
    source, target = np.uint64(data.ctypes.data) + ONE, np.uint64(out.ctypes.data)
    last, last_target, to = stop - min(MARGIN, stop), target + end - min(MARGIN, end), target + done
    while at < last and to < last_target:
        tag = np.uint64(data[at])
        after = np.uint64(data[at + ONE]) | np.uint64(data[at + TWO]) << EIGHT
        offset = (after & tags[MASK, tag]) + tags[HIGH, tag]
        start = to - offset
        if start < target:
            return False
        if not tag & THREE:
            start = source + at
        copy_sixteen(np.intp(to), np.intp(start))
        if offset < tags[REACH, tag]:
            length = tags[LENGTH, tag]
            if not offset or not length:
                at, done = _element(data, at, out, to - target)
                if not done:
                    return False
                to = target + done
                continue
            if length > SIXTEEN and (offset >= SIXTEEN or not tag & THREE):
                for first in range(16, length, 16):
                    copy_sixteen(np.intp(to) + first, np.intp(start) + first)
            else:
                done = to - target
                for number in range(length):
                    out[done + np.uint64(number)] = out[done + np.uint64(number) - offset]
        at += (tag & THREE) + ONE if tag & THREE else (tag >> TWO) + TWO  # sooner known than from the table
        to += tags[LENGTH, tag]
    done = to - target
    while at < stop:
        at, done = _element(data, at, out, done)
        if not done:
            return False
    return bool(done == end)


@compiled
def _element(data: np.ndarray, at: np.uint64, out: np.ndarray, done: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Decompress an element of any kind, whose tag is at `at`, to the bytes of `out` after `done`. Returns where the
    next tag is, and how many bytes are done then, or 0 for what is no element that fits."""
    stop, end, tag = np.uint64(len(data)), np.uint64(len(out)), np.uint64(data[at])
    kind, length, offset = tag & THREE, (tag >> TWO) + ONE, ZERO
    size = kind  # the bytes of a number after the tag
    if kind == LITERAL:
        size = length - np.uint64(SHORT_LITERALS) if length > SHORT_LITERALS else ZERO
    elif kind == THREE:
        size = FOUR
    at += ONE
    if size > stop - at:
        return at, ZERO
    number = ZERO
    for byte in range(size):
        number |= np.uint64(data[at + np.uint64(byte)]) << np.uint64(8 * byte)
    at += size
    if kind == LITERAL:
        length = number + ONE if size else length
        if length > stop - at or length > end - done:
            return at, ZERO
        out[done : done + length] = data[at : at + length]
        return at + length, done + length
    offset = number
    if kind == COPY_1:
        length, offset = ((tag >> TWO) & SEVEN) + FOUR, number | (tag >> np.uint64(5)) << EIGHT
    if not ZERO < offset <= done or length > end - done:
        return at, ZERO
    for byte in range(length):
        out[done + np.uint64(byte)] = out[done + np.uint64(byte) - offset]
    return at, done + length
