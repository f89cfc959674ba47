"""Text whose fields the compiled reader cannot find, rewritten as plain CSV while it is unpacked.

These are delimiters of several characters, runs of spaces, and escape characters. Line ends are kept, so that errors
name the lines of the source.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ...storage.compiled import compiled
from .kernels import LINE_FEED, RETURN, SPACE, TAB
from .options import WHITESPACE, CsvOptions

QUOTE, BACKSLASH_N = 34, 78
SEPARATOR = "\x1f"  # stands for a delimiter of several characters
EVIDENT, EVIDENT_BYTES = 20, 64 << 10  # lines by which runs of spaces are found
NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Rewriting:
    """How a text is written: its delimiter, empty for runs of spaces, and its quote, escape and comment characters,
    empty for none."""

    delimiter: str
    quote: str = '"'
    escape: str = ""
    comment: str = ""

    @property
    def plain_delimiter(self) -> str:
        """The delimiter of the plain text."""
        if not self.delimiter:
            return " "
        return self.delimiter if len(self.delimiter.encode()) == 1 else SEPARATOR

    def options(self, options: CsvOptions) -> CsvOptions:
        """The options by which the plain text is read."""
        return options.model_copy(update={"delimiter": self.plain_delimiter, "quote": '"', "escape": ""})

    def describe(self) -> str:
        """What the console says instead of the delimiter of the plain text."""
        escape = f", escape character '{self.escape}'" if self.escape else ""
        return (f"delimiter '{self.delimiter}'" if self.delimiter else "delimiter runs of spaces") + escape

    def rewrite(self, text: bytes, final: bool = True) -> tuple[bytes, int]:
        """The plain text of the complete rows of a text, of all of it if it is the `final` one; and their length."""
        marks = [ord(mark) if mark else -1 for mark in (self.quote, self.escape, self.comment, self.plain_delimiter)]
        delimiter = np.frombuffer(self.delimiter.encode(), np.uint8)
        out = np.empty(3 * len(text) + 8, np.uint8)
        padded = np.frombuffer(text + b"\n", np.uint8)
        length, read = rewrite_rows(padded, delimiter, np.array(marks), final, out)
        return out[:length].tobytes(), read


def find_rewriting(head: bytes, options: CsvOptions, find_delimiter: Callable[[], str]) -> Rewriting | None:
    """How a text that begins with `head` has to be rewritten; None if it need not be."""
    given = options.delimiter
    marks = options.quote, options.escape, options.comment or ""
    if given == WHITESPACE or (given is None and not options.escape and has_columns_of_spaces(head)):
        return Rewriting("", *marks)
    if options.escape or (given and len(given.encode()) > 1):
        return Rewriting(given or find_delimiter(), *marks)
    return None


def has_columns_of_spaces(head: bytes) -> bool:
    """Whether runs of spaces evidently separate fields: all rows have the same number of them, and a column below the
    first row has only numbers. No other delimiter occurs."""
    lines = head[:EVIDENT_BYTES].splitlines()
    lines = lines[: min(EVIDENT, len(lines) - (len(head) > EVIDENT_BYTES))]  # the last may be truncated
    rows = [line.split() for line in lines if line.strip() and not line.startswith(b"#")]
    if len(rows) < 2 or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return False
    if any(mark in line for line in lines for mark in (b",", b";", b"|", b"\t", b'"')):
        return False
    return any(all(NUMBER.fullmatch(field) for field in column) for column in zip(*rows[1:], strict=True))


def rewritten(blocks: Iterable[bytes], way: Rewriting) -> Iterator[bytes]:
    """A stream of text as plain CSV."""
    rest = b""
    for block in blocks:
        plain, read = way.rewrite(rest + block, final=False)
        rest = (rest + block)[read:]
        yield plain
    if rest:
        yield way.rewrite(rest)[0]


@compiled
def rewrite_rows(
    text: np.ndarray, delimiter: np.ndarray, marks: np.ndarray, final: bool, out: np.ndarray
) -> tuple[int, int]:
    """Write the complete rows of a padded text, or all of it if it is `final`, to `out` as plain CSV, whose quote is ".
    `marks` are the quote, the escape and the comment character, -1 for none, and the delimiter of the plain CSV.

    Returns the length of the plain text, and that of the rows.
    """
    length, i, o = len(text) - 1, 0, 0
    stops = np.zeros(256, np.bool_)  # bytes that may not just be copied
    for byte in (LINE_FEED, RETURN, QUOTE, marks[1], marks[2], marks[3]):
        if byte >= 0:
            stops[byte] = True
    if len(delimiter):
        stops[delimiter[0]] = True
    else:
        stops[SPACE] = stops[TAB] = True
    while i < length:
        stop, end, complete = _rewrite_row(text, i, delimiter, marks, stops, out, o)
        if not complete and not final:
            break
        i, o = stop, end
    return o, i


@compiled
def _rewrite_row(
    text: np.ndarray, i: int, delimiter: np.ndarray, marks: np.ndarray, stops: np.ndarray, out: np.ndarray, o: int
) -> tuple[int, int, bool]:
    """Write the row that begins at `i` to `out` from `o` on. Returns the positions after it, and whether its line end
    was found."""
    length, comment = len(text) - 1, marks[2]
    if len(delimiter) == 0:
        i = _past_spaces(text, i)
    while True:
        after_quote = False
        if i < length and text[i] == marks[0]:
            i, o, after_quote = _rewrite_quoted(text, i + 1, marks, out, o)
            if not after_quote:
                return i, o, False
        i, o = _rewrite_plain(text, i, delimiter, marks, stops, out, o, after_quote)
        if i < length and _delimiter_at(text, i, delimiter):
            if len(delimiter):
                i += len(delimiter)
            else:
                i = _past_spaces(text, i)
            if len(delimiter) or not (i >= length or _ends_row(text[i], comment)):
                out[o] = marks[3]
                o += 1
                continue
        break
    while i < length and text[i] != LINE_FEED and text[i] != RETURN:  # a comment
        out[o] = text[i]
        i, o = i + 1, o + 1
    if i >= length:
        return i, o, False
    out[o] = text[i]
    return i + 1, o + 1, True


@compiled
def _ends_row(byte: int, comment: int) -> bool:
    return byte in (LINE_FEED, RETURN, comment)


@compiled
def _past_spaces(text: np.ndarray, i: int) -> int:
    while text[i] == SPACE or text[i] == TAB:
        i += 1
    return i


@compiled
def _delimiter_at(text: np.ndarray, i: int, delimiter: np.ndarray) -> bool:
    if len(delimiter) == 0:
        return bool(text[i] == SPACE or text[i] == TAB)
    same = i + len(delimiter) <= len(text)
    for at in range(len(delimiter)):
        same = same and text[i + at] == delimiter[at]
    return same


@compiled
def _rewrite_quoted(text: np.ndarray, i: int, marks: np.ndarray, out: np.ndarray, o: int) -> tuple[int, int, bool]:
    """Write the quoted field whose text begins at `i`. Returns also whether its quote is closed."""
    length, quote, escape = len(text) - 1, marks[0], marks[1]
    out[o] = QUOTE
    o += 1
    while i < length:
        byte = text[i]
        if byte == escape and i + 1 < length:
            i += 1
            byte = text[i]
        elif byte == quote:
            if text[i + 1] != quote or i + 1 >= length:
                out[o] = QUOTE
                return i + 1, o + 1, True
            i += 1
        out[o] = byte
        i, o = i + 1, o + 1
        if byte == QUOTE:
            out[o] = QUOTE
            o += 1
    return i, o, False


@compiled
def _rewrite_plain(
    text: np.ndarray,
    i: int,
    delimiter: np.ndarray,
    marks: np.ndarray,
    stops: np.ndarray,
    out: np.ndarray,
    o: int,
    after: bool,
) -> tuple[int, int]:
    """Write the rest of an unquoted field, or what follows a quoted one (`after`); quoted if it would not be read as it
    is meant. `\\N` alone is a missing value, as databases write it."""
    length, escape, comment, start = len(text) - 1, marks[1], marks[2], o
    special = False
    while i < length:
        byte = text[i]
        if not stops[byte]:
            out[o] = byte
            i, o = i + 1, o + 1
            continue
        if _ends_row(byte, comment) or _delimiter_at(text, i, delimiter):
            break
        if byte == escape and i + 1 < length:
            i += 1
            byte = text[i]
            alone = i + 1 >= length or _ends_row(text[i + 1], comment) or _delimiter_at(text, i + 1, delimiter)
            if byte == BACKSLASH_N and o == start and alone:
                return i + 1, o
            special = True
        special |= byte == marks[3] or (byte == QUOTE and o == start)
        out[o] = byte
        i, o = i + 1, o + 1
    if not special or after:
        return i, o
    quotes = 0
    for at in range(start, o):
        quotes += out[at] == QUOTE
    end = o + quotes + 2
    to = end - 1
    out[to] = QUOTE
    for at in range(o - 1, start - 1, -1):
        to -= 1
        out[to] = out[at]
        if out[at] == QUOTE:
            to -= 1
            out[to] = QUOTE
    out[start] = QUOTE
    return i, end
