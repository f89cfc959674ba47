"""Columns of lists in Parquet files, decoded without Arrow where all lists have one shape and nothing is missing: Arrow
puts lists together value by value, at a tenth of the speed.

A column of a row group is a sequence of pages: a dictionary, if there is one, and the values, or their indices in the
dictionary. Each is compressed by itself, and begins with repetition levels, which say where lists begin, and definition
levels, which say what is missing.

Levels, and indices of a dictionary, are stored as a hybrid of runs and packed bits: a header, a number of up to five
bytes, says whether one value follows that is repeated, or groups of eight values, of a few bits each. Sources: the
specification of the Parquet format, and of the hybrid "Run Length Encoding / Bit-Packing Hybrid" in that of its
encodings. Numbers are unsigned in compiled loops, because an index that may be negative takes one more comparison.
"""

from math import prod
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..compiled import call_pread, compiled, pread_address
from .headers import (
    BEGIN,
    COMPRESSED,
    DATA_PAGE,
    DATA_PAGE_V2,
    DEFINITIONS,
    DICTIONARY_PAGE,
    ENCODING,
    END,
    KIND,
    NUMBER,
    REPETITIONS,
    SIZE,
    read_headers,
)
from .parquet import COMPILED, SNAPPY, ColumnChunk
from .snappy import decompress

PLAIN, OLD_DICTIONARY, RLE, DICTIONARY = 0, 2, 3, 8
"""Encodings: values themselves; their indices in a dictionary, by the number in older files and in newer ones; and the
hybrid, in which levels are. The page of a dictionary has either of the first two."""
MOST_BITS = 32  # of an index
LEAST_PLACES = 256  # of a dictionary: as many as eight bits tell apart
ZERO, ONE, TWO, THREE, SIX, SEVEN, EIGHT = (np.uint64(number) for number in (0, 1, 2, 3, 6, 7, 8))
MORE, HEADER_BITS = np.uint64(128), np.uint64(35)  # the bit of all bytes of a header but the last, and its length
SIX_BITS = np.uint64(63)  # of a count that are in the first byte of its header
HALF, EACH_BYTE, HIGH_BITS = np.uint64(128), np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
PAIR, AHEAD = np.uint64(16), np.uint64(32)
"""Values in two groups, and of a run, that are written at once: most are shorter, and the next ones overwrite the
rest."""
FAR = np.uint64(1_024)  # more values, and more bytes, than a header of one byte stands for


class Column(NamedTuple):
    """What the pages of a column have in common: the highest levels, the bytes of a value stored without a dictionary,
    and whether they are compressed by Snappy."""

    repetition: int
    definition: int
    value_bytes: int
    snappy: bool


def reads_files(codec: str) -> bool:
    """Whether `place_lists` can read column chunks of this codec from files by itself."""
    return codec in COMPILED and pread_address() is not None


class Source(NamedTuple):
    """The file from which bytes are read, and from where on, and the address of C's `pread`. They have been read
    already if the offset is negative."""

    pread: int
    descriptor: int
    offset: int


def place_lists(
    chunk: ColumnChunk,
    stored: bytes | np.ndarray,
    memory: np.ndarray,
    out: np.ndarray,
    descriptor: int | None = None,
) -> bool:
    """Write the lists of a column chunk, (bytes,) uint8, into the contiguous `out`, (rows, *shape), which tells the
    shape of each. `memory`, (decoded_bytes,) uint8, is for pages, uncompressed. With the `descriptor` of a file,
    `stored` is memory for what is first read from there.

    Returns False for what only Arrow can read, or say what is wrong with: lists of other shapes, missing values, other
    encodings, and bytes that are no pages.
    """
    shape, values = out.shape[1:], out.reshape(-1).view(f"u{out.itemsize}")  # one compiled loop for all types of a size
    sizes = np.array([prod(shape[depth:]) for depth in range(len(shape))], np.uint64)
    column = Column(chunk.repetition, chunk.definition, chunk.value_bytes, chunk.codec == SNAPPY)
    data = np.require(np.frombuffer(stored, np.uint8), requirements="W")  # and for all kinds of stored bytes
    if chunk.codec in COMPILED:
        source = Source(pread_address() or 0, descriptor or 0, chunk.offset if descriptor is not None else -1)
        return place_column(source, data, column, sizes, memory, values)
    pages, first, kept = read_headers(data), 0, 0
    for number in range(len(pages)):
        try:
            end = _decompress_by_arrow(data, pages[number], chunk.codec, memory, kept)
        except (ValueError, OSError, pa.ArrowException):
            return False
        if pages[number, KIND] == DICTIONARY_PAGE:
            dictionary, kept = number, end
            continue
        table = pages[[dictionary, number] if kept else [number]]
        first = place_pages(memory, table, column, sizes, memory[:0], values, first)
        if first < 0:
            return False
    return first == len(values)


def _decompress_by_arrow(stored: np.ndarray, page: np.ndarray, codec: str, memory: np.ndarray, at: int) -> int:
    """Decompress a page to `memory`, from the byte `at` on, and note in its row of the table that it is there. Returns
    where it ends. Raises Arrow's errors for bytes that cannot be decompressed, and ValueError for too many."""
    begin, size = page[BEGIN], page[SIZE]
    bare = page[REPETITIONS] + page[DEFINITIONS] if page[KIND] == DATA_PAGE_V2 else 0
    data = stored[begin + bare : page[END]]
    if size > len(memory) - at:
        raise ValueError(f"a page is larger than its column of {len(memory):,} bytes")
    if size > bare and page[COMPRESSED]:
        data = np.frombuffer(pa.decompress(data, size - bare, codec=codec), np.uint8)
    memory[at : at + bare] = stored[begin : begin + bare]
    memory[at + bare : at + size] = data[: size - bare]
    page[BEGIN], page[END] = at, at + size
    return int(at + size)


@compiled
def place_column(
    source: Source, stored: np.ndarray, column: Column, sizes: np.ndarray, memory: np.ndarray, out: np.ndarray
) -> bool:
    """Write the values of a column in a row group, (bytes,) uint8, into `out`, see `place_pages`."""
    if source.offset >= 0:
        read = call_pread(source.pread, source.descriptor, stored.ctypes.data, len(stored), source.offset)
        if read != len(stored):
            return False
    return bool(place_pages(stored, read_headers(stored), column, sizes, memory, out, 0) == len(out))


@compiled
def place_pages(
    stored: np.ndarray,
    pages: np.ndarray,
    column: Column,
    sizes: np.ndarray,
    memory: np.ndarray,
    out: np.ndarray,
    first: int,
) -> int:
    """Write the values of pages into `out`, (values,), of unsigned integers as wide as the values, from the value
    number `first` on. Returns the number of the next value, or -1 for anything but lists of one shape without missing
    values.

    `stored` (bytes,) uint8 has the pages, which the table `pages` of `read_headers` describes. `sizes` (depths,) uint64
    are the numbers of values in a list, from the outermost to the innermost. `memory` (bytes,) uint8 is for one page.
    """
    dictionary, entries = np.zeros(LEAST_PLACES, out.dtype), 0
    for page in pages:
        begin, number, encoding = page[BEGIN], page[NUMBER], page[ENCODING]
        bare = page[REPETITIONS] + page[DEFINITIONS] if page[KIND] == DATA_PAGE_V2 else 0  # bytes never compressed
        data = stored[begin + bare : page[END]]
        if column.snappy and page[COMPRESSED]:
            size = page[SIZE] - bare
            if size > len(memory) or (size and not decompress(data, memory[:size])):
                return -1
            data = memory[:size]
        if page[KIND] == DICTIONARY_PAGE:
            if encoding not in (PLAIN, OLD_DICTIONARY) or number > len(data):
                return -1
            dictionary, entries = np.zeros(max(number, LEAST_PLACES), out.dtype), number
            if not _place_plain(data, column.value_bytes, dictionary[:number]):
                return -1
            continue
        repetitions = stored[begin : begin + page[REPETITIONS]]
        definitions = stored[begin + page[REPETITIONS] : begin + bare]
        if page[KIND] == DATA_PAGE:
            repetitions, data = _cut_levels(data, column.repetition, page[REPETITIONS])
            definitions, data = _cut_levels(data, column.definition, page[DEFINITIONS])
        if number > len(out) - first or not _are_levels(repetitions, column.repetition, sizes, first, number):
            return -1
        if column.definition and not _are_levels(definitions, column.definition, sizes[:0], 0, number):
            return -1
        target = out[first : first + number]
        if encoding == PLAIN:
            placed = _place_plain(data, column.value_bytes, target)
        else:
            placed = encoding in (OLD_DICTIONARY, DICTIONARY) and _place_entries(data, dictionary, entries, target)
        if not placed:
            return -1
        first += number
    return first


@compiled
def _cut_levels(data: np.ndarray, highest: int, encoding: int) -> tuple[np.ndarray, np.ndarray]:
    """The levels with which a page begins, behind their length, and the rest. There are none if all are 0."""
    if not highest:
        return data[:0], data
    if encoding != RLE or len(data) < 4:
        return data[:0], data[:0]
    length = int(data[0]) | int(data[1]) << 8 | int(data[2]) << 16 | int(data[3]) << 24
    return data[4 : 4 + length], data[4 + length :]


@compiled
def _place_plain(data: np.ndarray, value_bytes: int, out: np.ndarray) -> bool:
    """Write into `out`, (values,), values that are stored as they are. Returns False if there are fewer."""
    size = len(out) * value_bytes
    if len(data) < size:
        return False
    if value_bytes == 4:
        out[:] = data[:size].view(np.uint32)
    else:
        out[:] = data[:size].view(np.uint64)
    return True


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
        if whole and not beyond:
            at, byte = _place_bytes(data, byte, dictionary, out, at)
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
def _place_bytes(
    data: np.ndarray, byte: np.uint64, dictionary: np.ndarray, out: np.ndarray, at: np.uint64
) -> tuple[np.uint64, np.uint64]:
    """Like `_place_entries`, for indices that are bytes and known to be in the dictionary, as long as headers have at
    most two bytes, and far from the end. Returns how many values there are in `out` then, and the byte of the next
    header."""
    last, last_byte = np.uint64(len(out)) - FAR, np.uint64(len(data)) - FAR
    if len(out) < FAR or len(data) < FAR:
        return at, byte
    while at < last and byte < last_byte:
        header = np.uint64(data[byte])
        count = header >> ONE
        if header & ONE:
            if header >= MORE or not count:
                break
            to, after = at + count * EIGHT, byte + ONE + count * EIGHT
            while at < to:
                for number in range(PAIR):
                    out[at + np.uint64(number)] = dictionary[data[byte + ONE + np.uint64(number)]]
                at, byte = at + PAIR, byte + PAIR
            at, byte = to, after
            continue
        if header >= MORE:
            second = np.uint64(data[byte + ONE])
            count = (count & SIX_BITS) | second << SIX
            if second >= MORE or count > last - at:
                break
            byte += ONE
        if not count:
            break
        to, value = at + count, dictionary[data[byte + ONE]]
        while at < to:
            for number in range(AHEAD):
                out[at + np.uint64(number)] = value
            at += AHEAD
        at, byte = to, byte + TWO
    return at, byte


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
    begin, begin_byte = end, stop  # of the last lists whose levels begin with a header
    while at < end:
        if not inside and not at % sizes[0]:
            if begin < at:  # the same bytes are the same lists
                times = min(_repeats(data, begin_byte, byte), (end - at) // (at - begin))
                at, byte = at + times * (at - begin), byte + times * (byte - begin_byte)
            begin, begin_byte = at, byte
            if at == end:
                break
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
def _repeats(data: np.ndarray, begin: np.uint64, end: np.uint64) -> np.uint64:
    """How many times the bytes from `begin` to `end` follow after them once more."""
    at, size = end, end - begin
    while at < np.uint64(len(data)) and data[at] == data[at - size]:
        at += ONE
    return (at - end) // size


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
