"""The CSV grammar as compiled functions: where rows begin, and what their fields contain.

The grammar is RFC 4180 with the usual extensions: lines end with LF, CR or CRLF; blank lines are ignored; a quote
counts only as the first character of a field, is escaped by doubling it, and must close the field; a comment
character, if one is set, ends the row.

All functions take `text`, (length + 1,) uint8, whose last byte is a line end that is not part of the text, so a loop
that searches for the end of a field needs no other bound. `marks` is (4,) int64: delimiter, quote, comment and decimal
point as bytes, -1 for none. Positions are uint64 throughout: numba checks every signed index for being negative, which
halves the speed, and mixing a uint64 with a Python int would produce a float.
"""

# mypy: disable-error-code="return-value, assignment"
# A compiled function returns a NumPy integer as a Python int.

from typing import NamedTuple

import numpy as np

from ...storage.compiled import compiled

LINE_FEED, RETURN, SPACE, TAB, MINUS, PLUS = 10, 13, 32, 9, 45, 43
SKIP, NUMBER, TEXT = 0, 1, 2
"""The roles of columns."""

FIELDS, AFTER_QUOTE, LEFT_OPEN = 1, 2, 3
"""The errors of a whole row: a wrong number of fields, text after a closing quote, an unclosed quote."""

LARGEST_EXACT = 2**53
"""Integers up to this are exact in float64, and their products and quotients with `POWERS` are correctly rounded."""
POWERS = 10.0 ** np.arange(23)
MOST_DIGITS = np.uint64(18)  # so many always fit an int64

ZERO, ONE, FOUR, TEN, FORTY_EIGHT = np.uint64(0), np.uint64(1), np.uint64(4), np.uint64(10), np.uint64(48)
OPEN = np.uint64(2**63)
"""The position after a quote that is never closed."""


@compiled
def holds_any(text: np.ndarray, one: int, two: int, three: int) -> bool:
    """Whether a text (without padding) contains any of three bytes."""
    found = np.uint8(0)
    for i in range(len(text)):
        byte = text[i]
        found |= np.uint8(byte == one) | np.uint8(byte == two) | np.uint8(byte == three)
    return bool(found)


@compiled
def count_lines(text: np.ndarray) -> int:
    """Count the line ends (LF, CR or CRLF) in a text without padding."""
    lines, before = 0, np.uint8(0)
    for i in range(len(text)):
        byte = text[i]
        lines += (byte == LINE_FEED and before != RETURN) or byte == RETURN
        before = byte
    return lines


@compiled
def past_quoted(text: np.ndarray, i: np.uint64, length: np.uint64, quote: int) -> np.uint64:
    """The position after the quote that closes the field open at `i`, or OPEN if no quote does."""
    while i < length:
        if text[i] == quote:
            if text[i + ONE] != quote:
                return i + ONE
            i += ONE
        i += ONE
    return OPEN


@compiled
def past_field(text: np.ndarray, i: np.uint64, delimiter: int, comment: int) -> np.uint64:
    """The position of the byte that ends an unquoted field: a delimiter, line end or comment."""
    byte = text[i]
    while byte != delimiter and byte != LINE_FEED and byte != RETURN and byte != comment:
        i += ONE
        byte = text[i]
    return i


@compiled
def past_line(text: np.ndarray, i: np.uint64) -> np.uint64:
    """The position after the next line end."""
    while text[i] != LINE_FEED and text[i] != RETURN:
        i += ONE
    return i + ONE


@compiled
def past_row(text: np.ndarray, i: np.uint64, length: np.uint64, marks: np.ndarray) -> np.uint64:
    """The position after the row in which a field begins at `i`, or OPEN if the text ends inside quotes."""
    delimiter, quote, comment = marks[0], marks[1], marks[2]
    while True:
        if text[i] == quote:
            i = past_quoted(text, i + ONE, length, quote)
            if i == OPEN:
                return OPEN
        i = past_field(text, i, delimiter, comment)
        if text[i] != delimiter:
            return past_line(text, i)
        i += ONE


@compiled
def past_rest(text: np.ndarray, i: np.uint64, length: np.uint64, marks: np.ndarray) -> np.uint64:
    """The position after the row in which a field ends at `i`, or OPEN if the text ends inside quotes."""
    if text[i] != marks[0]:
        return past_line(text, i)
    return past_row(text, i + ONE, length, marks)


@compiled
def past_blank(text: np.ndarray, i: np.uint64, length: np.uint64, marks: np.ndarray) -> np.uint64:
    """The first position from `i` on where a row begins, or `length` if none does. Skips blank lines and comments."""
    delimiter, comment = marks[0], marks[2]
    while i < length:
        byte = text[i]
        if byte == comment:
            i = past_line(text, i)
            continue
        j = i
        while (byte == SPACE or byte == TAB) and byte != delimiter:
            j += ONE
            byte = text[j]
        if byte != LINE_FEED and byte != RETURN:
            return i
        i = j + ONE
    return length


@compiled
def find_rows(text: np.ndarray, marks: np.ndarray, most: int) -> np.ndarray:
    """The start and end positions of the first rows of a text, (up to `most`, 2) int64.

    The last row may end after the text's end if it is truncated; its end is -1 if it ends inside quotes.
    """
    length = np.uint64(len(text) - 1)
    bounds = np.empty((most, 2), np.int64)
    rows, i = 0, past_blank(text, ZERO, length, marks)
    while rows < most and i < length:
        stop = past_row(text, i, length, marks)
        bounds[rows, 0], bounds[rows, 1] = np.int64(i), -1 if stop == OPEN else np.int64(stop)
        rows += 1
        i = past_blank(text, min(stop, length), length, marks)
    return bounds[:rows]


@compiled
def count_rows(text: np.ndarray, inside: bool, marks: np.ndarray) -> tuple[int, int, bool]:
    """Count the rows that begin in a text: the position of the first (the length if there is none), the number of
    rows, and whether a quote is open at the end.

    The text begins at the start of a line, or `inside` quotes.
    """
    length = np.uint64(len(text) - 1)
    i = ZERO
    if inside:
        i = past_quoted(text, i, length, marks[1])
        if i != OPEN:
            i = past_rest(text, past_field(text, i, marks[0], marks[2]), length, marks)
        if i == OPEN:
            return np.int64(length), 0, True
    i = past_blank(text, i, length, marks)
    first, rows = np.int64(i), 0
    while i < length:
        rows += 1
        i = past_row(text, i, length, marks)
        if i == OPEN:
            return first, rows, True
        i = past_blank(text, i, length, marks)
    return first, rows, False


@compiled
def skip_rows(text: np.ndarray, rows: int, marks: np.ndarray) -> int:
    """The position after the first `rows` rows of a text."""
    length = np.uint64(len(text) - 1)
    i = ZERO
    for _ in range(rows):
        i = min(past_row(text, past_blank(text, i, length, marks), length, marks), length)
    return np.int64(i)


@compiled
def read_digits(text: np.ndarray, i: np.uint64, value: int) -> tuple[int, np.uint64]:
    """`value` with the digits from `i` on appended, and the position after them."""
    digit = np.uint64(text[i]) - FORTY_EIGHT
    while digit < TEN:
        value = value * 10 + np.int64(digit)
        i += ONE
        digit = np.uint64(text[i]) - FORTY_EIGHT
    return value, i


@compiled
def read_decimal(text: np.ndarray, i: np.uint64, delimiter: int, point: int) -> tuple[float, np.uint64]:
    """The number in the field that begins at `i`, and where it ends; NaN if the slow parser has to decide.

    It is exact by the fast path of Clinger (1990): the digits form an exact float64, which is multiplied or divided by
    an exact power of ten.
    """
    negative = text[i] == MINUS
    if negative:
        i += ONE
    first = i
    value, i = read_digits(text, first, 0)
    digits, exponent = i - first, np.int64(0)
    if text[i] == point:
        first = i + ONE
        value, i = read_digits(text, first, value)
        digits += i - first
        exponent = -np.int64(i - first)
    exact = digits > ZERO and digits <= MOST_DIGITS and value <= LARGEST_EXACT
    if text[i] == 101 or text[i] == 69:  # e, E
        i += ONE
        down = text[i] == MINUS
        if down or text[i] == PLUS:
            i += ONE
        first = i
        power, i = read_digits(text, first, 0)
        exact = exact and i > first and i - first < FOUR
        exponent += -power if down else power
    byte = text[i]
    exact = exact and (byte == delimiter or byte == LINE_FEED or byte == RETURN)
    if not exact or exponent < -22 or exponent > 22:
        return np.nan, i
    number = np.float64(value)
    if exponent < 0:
        number /= POWERS[-exponent]
    else:
        number *= POWERS[exponent]
    return (-number if negative else number), i


@compiled
def fits_decimal(number: float, low: int, high: int, decimals: int) -> bool:
    """Whether a number that was read with a minus, a point or an exponent (NaN if none could be read) can be stored."""
    if number == np.floor(number):
        return low <= number and number <= high and np.abs(number) <= LARGEST_EXACT
    return number == number and (decimals == 1 or (decimals == 2 and np.float64(np.float32(number)) == number))


@compiled
def field_bounds(text: np.ndarray, i: np.uint64, length: np.uint64, marks: np.ndarray) -> tuple[np.uint64, ...]:
    """The bounds of any field that begins at `i`: its first byte, the byte after its last, and the byte that ends it.

    The third is OPEN if a quote is never closed; it is not the byte after the closing quote if text follows that.
    """
    if text[i] != marks[1]:
        stop = past_field(text, i, marks[0], marks[2])
        return i, stop, stop
    stop = past_quoted(text, i + ONE, length, marks[1])
    if stop == OPEN:
        return i, i, OPEN
    return i + ONE, stop - ONE, past_field(text, stop, marks[0], marks[2])


class ColumnRoles(NamedTuple):
    """The role of each column of a text, (columns,), and its position, (columns,) uint64: the column of `x` for a
    NUMBER, the column of `spans` for a TEXT."""

    roles: np.ndarray
    positions: np.ndarray


class RowBuffers(NamedTuple):
    """What `read_rows` fills.

    `x` (rows, features) takes the numbers, `spans` (rows, texts, 2) the start and end of each text. A field that is not
    a plain number, does not fit or could not be converted exactly goes to `odd`, (capacity, 4): row, column of the
    text, start, end. An invalid row goes to `invalid`, (capacity, 4): error, start, fields, number of rows before
    it; the rest of it is discarded.
    """

    x: np.ndarray
    spans: np.ndarray
    odd: np.ndarray
    invalid: np.ndarray


@compiled
def read_rows(
    text: np.ndarray,
    start: int,
    marks: np.ndarray,
    column_roles: ColumnRoles,
    limits: tuple[int, int, int],
    out: RowBuffers,
) -> tuple[int, int, int, int]:
    """Read rows beginning at `start` until the text ends or one of the buffers `out` is full.

    `limits` are the smallest and the largest integer that `x` accepts, and which fractional numbers: 0 none, 1 all,
    2 those that float32 represents exactly.

    Returns the number of rows read, where the next row begins, and how many entries of `odd` and `invalid` are filled.
    """
    roles, places = column_roles
    x, spans, odd, invalid = out
    length, columns, delimiter = np.uint64(len(text) - 1), np.uint64(len(roles)), marks[0]
    low, high, decimals = limits
    row, i, odds, bad = ZERO, np.uint64(start), 0, 0
    while row < np.uint64(len(x)) and odds + len(roles) <= len(odd) and bad < len(invalid):
        i = past_blank(text, i, length, marks)
        if i >= length:
            break
        begin, before, column, error = i, odds, ZERO, 0
        while True:
            role = roles[column] if column < columns else SKIP
            fits, stop = False, i
            if role == NUMBER:
                whole, stop = read_digits(text, i, 0)
                byte = text[stop]
                ends = byte == delimiter or byte == LINE_FEED or byte == RETURN
                if ends and stop > i and stop - i <= MOST_DIGITS:
                    fits = low <= whole and whole <= high
                    if fits:
                        x[row, places[column]] = whole
                else:
                    number, stop = read_decimal(text, i, delimiter, marks[3])
                    fits = fits_decimal(number, low, high, decimals)
                    if fits:
                        x[row, places[column]] = number
            if not fits:
                first, last, stop = field_bounds(text, i, length, marks)
                if stop == OPEN:
                    i = OPEN
                    break
                if first > i and stop > last + ONE:
                    error, i = AFTER_QUOTE, past_rest(text, stop, length, marks)
                    break
                if role == NUMBER:
                    odd[odds, 0], odd[odds, 1], odd[odds, 2], odd[odds, 3] = row, column, first, last
                    odds += 1
                elif role == TEXT:
                    spans[row, places[column], 0], spans[row, places[column], 1] = first, last
            if text[stop] != delimiter:
                i = past_line(text, stop)
                break
            i = stop + ONE
            column += ONE
        if error == 0 and column + ONE != columns:
            error = FIELDS
        if i == OPEN:
            error = LEFT_OPEN
        if error == 0:
            row += ONE
            continue
        odds = before
        invalid[bad, 0], invalid[bad, 1], invalid[bad, 2], invalid[bad, 3] = error, begin, column + ONE, row
        bad += 1
    return np.int64(row), np.int64(min(i, length)), odds, bad


@compiled
def copy_texts(text: np.ndarray, spans: np.ndarray, quote: int, out: np.ndarray, ends: np.ndarray) -> tuple[bool, bool]:
    """Copy the texts of `spans` (rows, 2) into `out` one after another, unescaping doubled quotes.

    `ends` (rows + 1,) int32 receives a zero and the end of each text. Returns whether all bytes are ASCII, and whether
    any byte is zero.
    """
    at, bits, zero = ZERO, np.uint8(0), False
    ends[0] = 0
    for row in range(len(spans)):
        i, stop = np.uint64(spans[row, 0]), np.uint64(spans[row, 1])
        quoted = i > ZERO and text[i - ONE] == quote
        while i < stop:
            byte = text[i]
            out[at] = byte
            bits |= byte
            zero |= byte == 0
            at += ONE
            i += ONE
            if quoted and byte == quote:
                i += ONE
        ends[row + 1] = at
    return bits < 128, zero


@compiled
def extend_ranges(
    x: np.ndarray, low: np.ndarray, high: np.ndarray, has_fractions: np.ndarray, needs_float64: np.ndarray
) -> None:
    """Update the ranges of columns with the rows of `x` (rows, columns) float64, ignoring NaN.

    `low` and `high` are (columns,) float64; `has_fractions` and `needs_float64` are (columns,) bool: whether a number
    has a fractional part, and whether a whole number is not exact in float32.
    """
    for row in range(len(x)):
        for c in range(x.shape[1]):
            value = x[row, c]
            there = value == value
            low[c] = value if value < low[c] else low[c]
            high[c] = value if value > high[c] else high[c]
            whole = np.floor(value) == value
            has_fractions[c] |= there & (not whole)
            needs_float64[c] |= whole & (np.float64(np.float32(value)) != value)
