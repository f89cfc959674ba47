"""Compiled loops over the pages of a Parquet column of lists.

Levels, and indices of a dictionary, are stored as a hybrid of runs and packed bits: a header, a number of up to five
bytes, says whether one value follows that is repeated, or groups of eight values, of a few bits each. Source: "Run
Length Encoding / Bit-Packing Hybrid" in the specification of Parquet's encodings. Numbers are unsigned here, because an
index that may be negative takes one more comparison.
"""

from typing import NamedTuple

import numpy as np

from ..compiled import compiled

PLAIN, DICTIONARY = 0, 2
"""The encodings of values: themselves, or their indices in a dictionary."""
REPETITIONS, DEFINITIONS, VALUES, NUMBER, ENCODING = 0, 2, 4, 6, 7
"""The columns of a table of pages: where levels and values begin, and in the next column where they end; how many
values there are; and their encoding."""
MOST_BITS = 32  # of an index
ZERO, ONE, THREE, SEVEN, EIGHT = (np.uint64(number) for number in (0, 1, 3, 7, 8))
MORE, HEADER_BITS = np.uint64(128), np.uint64(35)  # the bit of all bytes of a header but the last, and its length
HALF, EACH_BYTE, HIGH_BITS = np.uint64(128), np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
PAIR, AHEAD = np.uint64(16), np.uint64(32)
"""Values in two groups, and of a run, that are written at once: most are shorter, and the next ones overwrite the
rest."""


class Column(NamedTuple):
    """What the pages of a column have in common: the highest levels, the bytes of a value stored without a dictionary,
    and the number of entries in the dictionary."""

    repetition: int
    definition: int
    value_bytes: int
    entries: int


@compiled
def place_pages(
    data: np.ndarray,
    pages: np.ndarray,
    column: Column,
    sizes: np.ndarray,
    dictionary: np.ndarray,
    out: np.ndarray,
    first: int,
) -> int:
    """Write the values of pages into `out`, (values,), from the value number `first` on. Returns the number of the next
    value, or -1 for anything but lists of one shape without missing values.

    `data` (bytes,) uint8 has the pages, which the table `pages`, (pages, 8) int64, describes. `sizes` (depths,) uint64
    are the numbers of values in a list, from the outermost to the innermost. `dictionary` has the dtype of `out`, and
    at least the 256 places that eight bits tell apart.
    """
    for row in range(len(pages)):
        page = pages[row]
        number, encoding = page[NUMBER], page[ENCODING]
        if number < 0 or number > len(out) - first:
            return -1
        repetitions = data[page[REPETITIONS] : page[REPETITIONS + 1]]
        if not _are_levels(repetitions, column.repetition, sizes, first, number):
            return -1
        definitions = data[page[DEFINITIONS] : page[DEFINITIONS + 1]]
        if column.definition and not _are_levels(definitions, column.definition, sizes[:0], 0, number):
            return -1
        values, target = data[page[VALUES] : page[VALUES + 1]], out[first : first + number]
        if encoding == PLAIN:
            if len(values) < number * column.value_bytes:
                return -1
            if column.value_bytes == 4:
                target[:] = values[: number * 4].view(np.uint32)
            else:
                target[:] = values[: number * 8].view(np.uint64)
        elif encoding != DICTIONARY or not _place_entries(values, dictionary, column.entries, target):
            return -1
        first += number
    return first


@compiled
def _place_entries(data: np.ndarray, dictionary: np.ndarray, entries: int, out: np.ndarray) -> bool:
    """Write into `out`, (values,), the entries of a dictionary whose indices are in `data`: a byte with the number of
    bits of each, and the hybrid. Returns False for bytes that are no such indices."""
    if len(data) == 0 or data[0] > MOST_BITS or entries < 1:
        return False
    at, end, byte, stop = ZERO, np.uint64(len(out)), ONE, np.uint64(len(data))
    bits, known, largest = np.uint64(data[0]), np.uint64(entries), ZERO
    mask, value_bytes = (ONE << bits) - ONE, (bits + SEVEN) >> THREE
    whole, beyond, wrong = bits == EIGHT and known > HALF, ZERO, ZERO  # each index is a byte
    if whole and _largest(data) >= known:  # which may also be a header, so each index is looked at
        beyond = (mask + ONE - known) * EACH_BYTE
    while at < end:
        header, byte = _header(data, byte)
        count = header >> ONE
        if not header & ONE:
            if byte > stop or value_bytes > stop - byte or not count:
                return False
            if bits <= EIGHT:  # without a call
                index = np.uint64(data[byte]) if bits else ZERO
            else:
                index = _packed(data, byte, ZERO) & ((ONE << (value_bytes << THREE)) - ONE)
            if index >= known or count > end - at:
                return False
            value, to = dictionary[index], at + count
            if to + AHEAD <= end:
                while at < to:
                    for number in range(AHEAD):
                        out[at + np.uint64(number)] = value
                    at += AHEAD
            else:
                out[at:to] = value
            at, byte = to, byte + value_bytes
            continue
        used = count * bits
        if byte > stop or used > stop - byte or not 0 < count <= (end - at + SEVEN) >> THREE:
            return False
        to, after = min(at + count * EIGHT, end), byte + used
        if whole and to + EIGHT <= end and after + EIGHT <= stop:
            while at < to:  # two groups at once: most runs have one or two
                for number in range(16):
                    out[at + np.uint64(number)] = dictionary[data[byte + np.uint64(number)]]
                if beyond:
                    wrong |= _overflows(_word(data, byte), beyond)
                    wrong |= _overflows(_word(data, byte + EIGHT), beyond) if at + EIGHT < to else ZERO
                at, byte = at + PAIR, byte + PAIR
        else:
            has_words = after + EIGHT <= stop  # then no call is needed
            for number in range(to - at):
                bit = np.uint64(number) * bits
                word = _word(data, byte + (bit >> THREE)) >> (bit & SEVEN) if has_words else _packed(data, byte, bit)
                largest = max(largest, word & mask)
                out[at + np.uint64(number)] = dictionary[min(word & mask, known - ONE)]
        at, byte = to, after
    return bool(largest < known and not wrong & HIGH_BITS)


@compiled
def _are_levels(data: np.ndarray, level: int, sizes: np.ndarray, first: int, count: int) -> bool:
    """Whether `count` levels in `data` are all `level`, which is the highest one, but at the first value of a list the
    depth of the outermost list that begins there. Without `sizes`, there are no lists."""
    at, end, byte, stop = np.uint64(first), np.uint64(first + count), ZERO, np.uint64(len(data))
    bits, highest = ZERO, np.uint64(level)
    while highest >> bits:
        bits += ONE
    inner = sizes[-1] if len(sizes) else end + ONE + ONE
    inside, mask = at % inner if len(sizes) else ONE, (ONE << bits) - ONE
    while at < end:
        header, byte = _header(data, byte)
        packed, values = header & ONE, header >> ONE
        used = values * bits if packed else (bits + SEVEN) >> THREE
        if byte > stop or used > stop - byte or not values:
            return False
        run_end, number = min(at + (values * EIGHT if packed else values), end), ZERO
        word = ZERO if packed else np.uint64(data[byte])
        while at < run_end:
            expected, span = highest, min(inner - inside, run_end - at)  # values with the same level
            if not inside:
                expected, span = _depth(at, sizes), ONE
            if not packed and word != expected:
                return False
            for _ in range(span if packed else ZERO):
                if not number & SEVEN:
                    word = _packed(data, byte + (number >> THREE) * bits, ZERO)
                if word & mask != expected:
                    return False
                number, word = number + ONE, word >> bits
            at, inside = at + span, inside + span
            inside = ZERO if inside == inner else inside
        byte += used
    return True


@compiled
def _largest(data: np.ndarray) -> np.uint64:
    """The largest of some bytes."""
    largest = np.uint8(0)
    for byte in data:
        largest = max(largest, byte)
    return np.uint64(largest)


@compiled
def _overflows(word: np.uint64, beyond: np.uint64) -> np.uint64:
    """A word that has the high bit of each byte in the upper half that overflows when `beyond` is added."""
    return ((word & ~HIGH_BITS) + beyond) & word


@compiled
def _depth(at: np.uint64, sizes: np.ndarray) -> np.uint64:
    """The depth of the outermost list that begins with the value number `at`, with which an innermost one does."""
    depth = ZERO
    while at % sizes[depth]:
        depth += ONE
    return depth


@compiled
def _header(data: np.ndarray, byte: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The header at `byte`, and where the next byte is: behind the end if the header does not end."""
    value, shift, stop = ZERO, ZERO, np.uint64(len(data))
    if byte < stop and data[byte] < MORE:  # as most are
        return np.uint64(data[byte]), byte + ONE
    while byte < stop and shift < HEADER_BITS:
        part = np.uint64(data[byte])
        byte += ONE
        value |= (part & (MORE - ONE)) << shift
        if part < MORE:
            return value, byte
        shift += SEVEN
    return ZERO, stop + ONE


@compiled
def _word(data: np.ndarray, byte: np.uint64) -> np.uint64:
    """Eight bytes, the first one lowest."""
    word = ZERO
    for number in range(8):
        word |= np.uint64(data[byte + np.uint64(number)]) << np.uint64(8 * number)
    return word


@compiled
def _packed(data: np.ndarray, byte: np.uint64, bit: np.uint64) -> np.uint64:
    """At least the 32 bits of a value that begins `bit` bits after a byte, as far as there are some."""
    byte, stop = byte + (bit >> THREE), np.uint64(len(data))
    if byte + EIGHT <= stop:
        return _word(data, byte) >> (bit & SEVEN)
    word, shift = ZERO, ZERO
    while byte < stop:
        word |= np.uint64(data[byte]) << shift
        byte, shift = byte + ONE, shift + EIGHT
    return word >> (bit & SEVEN)
