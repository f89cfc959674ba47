"""Cutting CSV files into pieces of whole rows, in parallel.

A range of a file begins at the first line end that it meets, and whether that lies inside quotes only what stands
before it can tell. So each range is counted both ways, and `resolve_cuts` goes through the counts in order and takes
the way that is true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..storage.errors import SourceError
from ..storage.object_path import AnyPath, locate, read_bytes
from .csv_dialect import Dialect, padded
from .csv_kernels import LINE_FEED, count_rows

PIECE_BYTES = 16 << 20
LONGEST_ROW = 256 << 20
WINDOW = 64 << 10
BLANK = np.frombuffer(b"\n \t", np.uint8)  # with which a line begins that may be no row


@dataclass(frozen=True)
class CsvText:
    """The text of one source: in `place`, the source itself or its unpacked copy (`packed`: in pieces of Zstandard).

    The rows begin at byte `start`, which is in line `line` (from 1); a packed copy holds the rows alone.
    """

    path: str
    place: str
    packed: bool
    dialect: Dialect
    header: tuple[str, ...]
    start: int
    line: int
    bytes: int


@dataclass(frozen=True)
class Piece:
    """Whole rows of a text: bytes `start` to `stop` of its place; the first is in line `line` of the source.

    `rows` counts the faulty ones too.
    """

    start: int
    stop: int
    line: int
    rows: int


@dataclass(frozen=True)
class CutTask:
    """Count the rows that begin at line starts of bytes `start` to `stop`."""

    text: CsvText
    start: int
    stop: int


@dataclass(frozen=True)
class Count:
    """Rows that begin in a stretch of text: the offset and line of the first, how many, whether quotes stay open."""

    first: int
    line: int
    rows: int
    inside: bool


@dataclass(frozen=True)
class Cut:
    """A stretch from line start to line start: its rows if it begins outside quotes, and if it begins inside."""

    start: int
    stop: int
    lines: int
    outside: Count
    inside: Count


def cut_tasks(text: CsvText) -> list[CutTask]:
    """The ranges of a text."""
    edges = [*range(text.start, text.bytes, PIECE_BYTES), text.bytes]
    return [CutTask(text, start, stop) for start, stop in pairwise(edges)]


def cut_range(task: CutTask) -> Cut:
    """Carry out a task."""
    text, place = task.text, locate(task.text.place)
    start = task.start if task.start == text.start else line_start(place, task.start, text.bytes)
    stop = text.bytes if task.stop == text.bytes else line_start(place, task.stop, text.bytes)
    if start >= stop:
        return Cut(start, start, 0, Count(start, 0, 0, False), Count(start, 0, 0, True))
    lines, outside, inside = count_text(read_text(place, start, stop), text.dialect)
    return Cut(start, stop, lines, outside, inside)


def count_text(data: bytes, dialect: Dialect) -> tuple[int, Count, Count]:
    """Lines of a stretch of text, and its rows if it begins outside and inside quotes."""
    closed = Count(len(data), 0, 0, True)
    special = [mark.encode() for mark in ("\r", dialect.quote, dialect.comment) if mark]
    if not any(mark in data for mark in special):
        text = padded(data)
        feeds = np.flatnonzero(text == LINE_FEED)
        blank = text[np.concatenate([[0], feeds[:-1] + 1])]
        if not np.isin(blank, BLANK).any():
            return data.count(b"\n"), Count(0, 0, len(feeds) - data.endswith(b"\n"), False), closed
    lines, marks = count_lines(data), dialect.marks()
    _, rows, open_end = count_rows(padded(data), False, marks)
    outside = Count(0, 0, rows, open_end)
    if not dialect.quote or dialect.quote.encode() not in data:
        return lines, outside, closed
    first, rows, open_end = count_rows(padded(data), True, marks)
    return lines, outside, Count(first, count_lines(data[:first]), rows, open_end)


def count_lines(data: bytes) -> int:
    """Line ends: LF, CR or CRLF."""
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def resolve_cuts(text: CsvText, cuts: Sequence[Cut]) -> list[Piece]:
    """The pieces of a text, from the counts of all of its ranges in order.

    Raises SourceError for a text without rows, and where no row ends for very long.
    """
    inside, line = False, text.line
    begins: list[tuple[int, int, int]] = []
    for cut in cuts:
        count = cut.inside if inside else cut.outside
        if count.rows:
            begins.append(
                (cut.start + (count.first if inside else 0), line + (count.line if inside else 0), count.rows)
            )
        inside, line = count.inside, line + cut.lines
    if not begins:
        raise SourceError(f"{text.path} has a header and no rows; there is nothing to convert")
    ends = [start for start, _, _ in begins[1:]] + [text.bytes]
    pieces = [Piece(start, stop, at, rows) for (start, at, rows), stop in zip(begins, ends, strict=True)]
    for piece in pieces:
        check_length(text.path, piece.line, piece.stop - piece.start)
    return pieces


def check_length(path: str, line: int, length: int) -> None:
    """Raise SourceError for a piece that is too long to be one."""
    if length > LONGEST_ROW:
        raise SourceError(
            f"{path}: from line {line} on, no row ends in {LONGEST_ROW:,} bytes; is it a CSV file with a quote left "
            "open?"
        )


def line_start(place: AnyPath, at: int, end: int) -> int:
    """The first position at or behind `at` where a line begins, `end` if none does."""
    position = at - 1
    while position < end:
        window = read_bytes(place, position, min(WINDOW + 1, end - position))
        feed = window.find(b"\n", 0, WINDOW)
        back = window.find(b"\r", 0, WINDOW)
        while back >= 0 and window[back + 1 : back + 2] == b"\n":
            back = window.find(b"\r", back + 2, WINDOW)
        found = [i for i in (feed, back) if i >= 0]
        if found:
            return position + min(found) + 1
        position += WINDOW
    return end


def read_text(place: AnyPath, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop`. Raises SourceError if they are not there any more."""
    data = read_bytes(place, start, stop - start)
    if len(data) != stop - start:
        raise SourceError(f"{place} became shorter while it was read; run the command again once it rests")
    return data
