"""Headers of the pages in Parquet files, which are structures in the compact protocol of Apache Thrift.

Source: the specification "Thrift compact protocol encoding", and `PageHeader` in `parquet.thrift`.
"""

import numpy as np

from ..compiled import compiled

DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
KIND, BEGIN, END, SIZE, NUMBER, ENCODING, REPETITIONS, DEFINITIONS, COMPRESSED = range(9)
"""The columns of a table of pages: the kind of a page, where its bytes begin and end, its size uncompressed, the number
of its values, their encoding, those of the levels (in pages of the second version, the bytes that the levels take), and
whether its values are compressed if the column is."""
TRUE, FALSE, BYTE, DOUBLE, BINARY, STRUCT = 1, 2, 3, 7, 8, 12
INT_16, INT_64 = 4, 6  # and 32 between them
DEEPEST = 8  # structures in one another
MOST_FIELDS = 16  # of a structure
FIRST_INNER = 4  # the fields from the next number on are structures, one for each kind of page
LONGEST_SHIFT = 56  # of the last seven bits of an integer, so that it has 63 at most
MISSING = -(1 << 62)


@compiled
def read_headers(stored: np.ndarray) -> np.ndarray:
    """The table of the pages, (pages, 9) int64, of a column in a row group, (bytes,) uint8. It has no rows for bytes
    that are no pages."""
    table, pages, at = np.zeros((8, 9), np.int64), 0, 0
    fields = np.empty((5, MOST_FIELDS), np.int64)
    while at < len(stored):
        if pages == len(table):
            table = np.concatenate((table, table))
        at = _read_fields(stored, at, fields)
        if at < 0 or not _describe(fields, at, len(stored) - at, table[pages]):
            return table[:0]
        at, pages = table[pages, END], pages + 1
    return table[:pages]


@compiled
def _describe(fields: np.ndarray, at: int, left: int, page: np.ndarray) -> bool:
    """Fill the row of a page from the fields of its header, behind which `left` bytes begin at `at`. Returns False if
    fields are missing, or the page does not end in these bytes."""
    kind, size, length = fields[0, 1], fields[0, 2], fields[0, 3]
    if kind == DATA_PAGE:
        inner = fields[1]
        encoding, repetitions, definitions, compressed = inner[2], inner[4], inner[3], 1
    elif kind == DICTIONARY_PAGE:
        inner = fields[3]
        encoding, repetitions, definitions, compressed = inner[2], 0, 0, 1
    else:
        inner = fields[4]
        encoding, repetitions, definitions, compressed = inner[4], inner[6], inner[5], inner[7] != 0
        if kind != DATA_PAGE_V2 or repetitions + definitions > min(size, length):
            return False
    page[:] = kind, at, at + length, size, inner[1], encoding, repetitions, definitions, compressed
    return bool(page.min() >= 0 and length >= 0 and length <= left)


@compiled
def _read_fields(data: np.ndarray, at: int, fields: np.ndarray) -> int:
    """Read the integers in the structure at the byte `at` into the first row of `fields`, and those of the structures
    in it into the other ones, each at its number; the others are MISSING. Returns where the structure ends, or -1 for
    bytes that are none."""
    fields[:] = MISSING
    numbers, depth, row = np.zeros(DEEPEST, np.int64), 0, 0
    while depth >= 0:
        if at >= len(data):
            return -1
        kind, step, value = data[at] & 15, data[at] >> 4, np.int64(MISSING)
        at += 1
        if not kind:
            depth -= 1
            continue
        numbers[depth] += step
        if not step:
            numbers[depth], at = _integer(data, at)
        number = numbers[depth]
        if kind in (TRUE, FALSE):
            value = np.int64(kind == TRUE)
        elif INT_16 <= kind <= INT_64:
            value, at = _integer(data, at)
        elif kind == BINARY:
            length, at = _varint(data, at)
            at += min(int(length), len(data))
        elif kind in (BYTE, DOUBLE):
            at += 1 if kind == BYTE else 8
        elif kind == STRUCT and depth < DEEPEST - 1:
            depth += 1
            numbers[depth] = 0
            if depth == 1:
                row = number - FIRST_INNER if 0 < number - FIRST_INNER < len(fields) else len(fields)
        else:
            return -1
        if at > len(data):
            return -1
        place = row if depth == 1 else len(fields) * depth
        if value != MISSING and place < len(fields) and 0 <= number < MOST_FIELDS:
            fields[place, number] = value
    return at


@compiled
def _integer(data: np.ndarray, at: int) -> tuple[np.int64, int]:
    """A signed integer, whose lowest bit is its sign, and where it ends, see `_varint`."""
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


@compiled
def _varint(data: np.ndarray, at: int) -> tuple[np.int64, int]:
    """An integer at the byte `at`, and where it ends: behind the end of `data` if it does not."""
    value = np.int64(0)
    for shift in range(0, LONGEST_SHIFT + 1, 7):
        if at >= len(data):
            break
        part = np.int64(data[at])
        value, at = value | (part & 127) << shift, at + 1
        if part < 128:
            return value, at
    return np.int64(0), len(data) + 1
