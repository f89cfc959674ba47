"""Cutting CSV files into pieces of whole rows, in parallel.

A range of a file begins at the first line end that it meets, and whether that lies inside quotes only what stands
before it can tell. So each range is counted both ways, and `resolve_cuts` goes through the counts in order and takes
the way that is true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numcodecs import Blosc

from ...storage.errors import SourceError
from ...storage.object_path import AnyPath, locate, read_bytes, read_into
from .dialect import Dialect
from .kernels import LINE_FEED, RETURN, count_lines, count_rows, holds_any
from .row_batch import Piece

PIECE_BYTES = 16 << 20
PACKER = Blosc(cname="lz4", clevel=1, shuffle=0)  # of the pieces of a text that had to be unpacked
LONGEST_ROW = 256 << 20
RANGES = 4  # of a task: so many take longer than it takes to give it out
WINDOW = 64 << 10
BLANK = np.frombuffer(b"\n \t", np.uint8)  # with which a line begins that may be no row


@dataclass(frozen=True)
class CsvTable:
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

    def describe(self) -> str:
        """In words, for the console."""
        return self.dialect.describe()


@dataclass(frozen=True)
class CutTask:
    """Count the rows that begin at line starts of each range between two `edges` (bytes)."""

    table: CsvTable
    edges: tuple[int, ...]


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


def cut_tasks(table: CsvTable) -> list[CutTask]:
    """The ranges of a text, some a task."""
    edges = [*range(table.start, table.bytes, PIECE_BYTES), table.bytes]
    return [CutTask(table, tuple(edges[i : i + RANGES + 1])) for i in range(0, len(edges) - 1, RANGES)]


def cut_ranges(task: CutTask) -> list[Cut]:
    """Carry out a task."""
    table, place = task.table, locate(task.table.place)
    inner = [at for at in task.edges if at not in (table.start, table.bytes)]
    starts = {at: line_start(place, at, table.bytes) for at in inner}
    return [_cut(table, starts.get(start, start), starts.get(stop, stop)) for start, stop in pairwise(task.edges)]


def _cut(table: CsvTable, start: int, stop: int) -> Cut:
    """Count the rows from line start to line start."""
    if start == stop:  # a row that is longer than a range
        return Cut(start, start, 0, Count(start, 0, 0, False), Count(start, 0, 0, True))
    lines, outside, inside = count_text(read_text(locate(table.place), start, stop), table.dialect)
    return Cut(start, stop, lines, outside, inside)


def count_text(text: np.ndarray, dialect: Dialect) -> tuple[int, Count, Count]:
    """Lines of a stretch of padded text, and its rows if it begins outside and inside quotes."""
    length, marks = len(text) - 1, dialect.marks()
    closed = Count(length, 0, 0, True)
    if not holds_any(text[:length], RETURN, marks[1], marks[2]):
        feeds = np.flatnonzero(text[:length] == LINE_FEED)
        begins = text[np.concatenate([[0], feeds + 1])[: len(feeds) + (text[length - 1] != LINE_FEED)]]
        if not np.isin(begins, BLANK).any():
            return len(feeds), Count(0, 0, len(begins), False), closed
    lines = count_lines(text[:length])
    _, rows, open_end = count_rows(text, False, marks)
    outside = Count(0, 0, rows, open_end)
    if not holds_any(text[:length], marks[1], marks[1], marks[1]):
        return lines, outside, closed
    first, rows, open_end = count_rows(text, True, marks)
    return lines, outside, Count(first, count_lines(text[:first]), rows, open_end)


def resolve_cuts(table: CsvTable, cuts: Sequence[Cut]) -> list[Piece]:
    """The pieces of a text, from the counts of all of its ranges in order.

    Raises SourceError for a text without rows, and where no row ends for very long.
    """
    inside, line = False, table.line
    begins: list[tuple[int, int, int]] = []
    for cut in cuts:
        count = cut.inside if inside else cut.outside
        if count.rows:
            begins.append(
                (cut.start + (count.first if inside else 0), line + (count.line if inside else 0), count.rows)
            )
        inside, line = count.inside, line + cut.lines
    if not begins:
        raise SourceError(f"{table.path} has a header and no rows; there is nothing to convert")
    ends = [start for start, _, _ in begins[1:]] + [table.bytes]
    pieces = [Piece(start, stop, at, rows) for (start, at, rows), stop in zip(begins, ends, strict=True)]
    for piece in pieces:
        check_length(table.path, piece.line, piece.stop - piece.start)
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


def read_text(place: AnyPath, start: int, stop: int) -> np.ndarray:
    """Bytes `start` to `stop` as `kernels.py` takes text. Raises SourceError if they are not there any more."""
    text = np.empty(stop - start + 1, np.uint8)
    if read_into(place, start, text[:-1]) != stop - start:
        raise SourceError(f"{place} became shorter while it was read; run the command again once it rests")
    text[-1] = LINE_FEED
    return text
