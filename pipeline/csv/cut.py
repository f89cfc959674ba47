"""Cut CSV files into pieces of whole rows, in parallel.

A range of a file begins after its first line end, and only the preceding text determines whether that position is
inside quotes. The rows of each range are therefore counted for both cases, and `resolve_cuts` goes through the counts
in order and selects the right one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numcodecs import Blosc

from ...storage.errors import SourceError
from ...storage.places.locate import locate
from ...storage.places.place import Place
from .dialect import Dialect
from .kernels import LINE_FEED, RETURN, count_lines, count_rows, holds_any
from .names import says_renamed
from .row_batch import Piece

PIECE_BYTES = 16 << 20
PACKER = Blosc(cname="lz4", clevel=1, shuffle=0)  # for the pieces of unpacked files
LONGEST_ROW = 256 << 20
RANGES = 4  # per task: so many take longer than submitting the task
WINDOW = 64 << 10
BLANK = np.frombuffer(b"\n \t", np.uint8)  # a line that begins with one of these may be blank


@dataclass(frozen=True)
class CsvTable:
    """One CSV source. Its text is in `place`: the source itself, or a copy whose pieces are compressed (`packed`).

    The rows begin at byte `start`, which is in line `line` (from 1); a packed copy contains the rows only. `constants`
    are columns that the file does not have and whose value is the same in all rows, None if it is missing. `renamed`
    are the columns whose names occur several times in the header.
    """

    path: str
    place: str
    packed: bool
    dialect: Dialect
    header: tuple[str, ...]
    start: int
    line: int
    bytes: int
    constants: dict[str, str | None] = field(default_factory=dict)
    renamed: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return (*self.header, *self.constants)

    def describe(self) -> str:
        """A description for the console."""
        return self.dialect.describe() + says_renamed(self.renamed)


@dataclass(frozen=True)
class CutTask:
    """Count the rows in each range between two consecutive `edges` (bytes)."""

    table: CsvTable
    edges: tuple[int, ...]


@dataclass(frozen=True)
class Count:
    """The rows that begin in a section of text: the offset and line of the first, their number, and whether a quote
    is open at the end (`inside`)."""

    first: int
    line: int
    rows: int
    inside: bool


@dataclass(frozen=True)
class Cut:
    """A section of text between two line starts: its rows if it begins outside quotes, and if it begins inside."""

    start: int
    stop: int
    lines: int
    outside: Count
    inside: Count


def cut_tasks(table: CsvTable) -> list[CutTask]:
    """Tasks that cover all ranges of a table, several ranges per task."""
    bare = replace(table, header=(), constants={}, renamed=())  # the names of thousands of columns are not needed
    edges = [*range(table.start, table.bytes, PIECE_BYTES), table.bytes]
    return [CutTask(bare, tuple(edges[i : i + RANGES + 1])) for i in range(0, len(edges) - 1, RANGES)]


def cut_ranges(task: CutTask) -> list[Cut]:
    """Run a task."""
    table, place = task.table, locate(task.table.place)
    inner = [at for at in task.edges if at not in (table.start, table.bytes)]
    starts = {at: line_start(place, at, table.bytes) for at in inner}
    return [_cut(table, starts.get(start, start), starts.get(stop, stop)) for start, stop in pairwise(task.edges)]


def _cut(table: CsvTable, start: int, stop: int) -> Cut:
    """Count the rows between two line starts."""
    if start == stop:  # a row is longer than a range
        return Cut(start, start, 0, Count(start, 0, 0, False), Count(start, 0, 0, True))
    lines, outside, inside = count_text(read_text(locate(table.place), start, stop), table.dialect)
    return Cut(start, stop, lines, outside, inside)


def count_text(text: np.ndarray, dialect: Dialect) -> tuple[int, Count, Count]:
    """The lines of a section of padded text, and its rows if it begins outside and inside quotes."""
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
    """The pieces of a table, from the counts of all its ranges in order; none if it has no rows.

    Raises SourceError for a row that is too long.
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
    ends = [*(start for start, _, _ in begins), table.bytes][1:]
    pieces = [Piece(start, stop, at, rows) for (start, at, rows), stop in zip(begins, ends, strict=True)]
    for piece in pieces:
        check_length(table.path, piece.line, piece.stop - piece.start)
    return pieces


def check_length(path: str, line: int, length: int) -> None:
    """Raise SourceError for a piece that exceeds the maximum length."""
    if length > LONGEST_ROW:
        raise SourceError(
            f"{path}: the row at line {line} does not end within {LONGEST_ROW:,} bytes; check that the file is a CSV "
            "file and that every quote is closed"
        )


def line_start(place: Place, at: int, end: int) -> int:
    """The first position at or after `at` where a line begins, or `end` if there is none."""
    position = at - 1
    while position < end:
        window = place.read_range(position, min(WINDOW + 1, end - position))
        feed = window.find(b"\n", 0, WINDOW)
        back = window.find(b"\r", 0, WINDOW)
        while back >= 0 and window[back + 1 : back + 2] == b"\n":
            back = window.find(b"\r", back + 2, WINDOW)
        found = [i for i in (feed, back) if i >= 0]
        if found:
            return position + min(found) + 1
        position += WINDOW
    return end


def read_text(place: Place, start: int, stop: int) -> np.ndarray:
    """Bytes `start` to `stop`, padded as `kernels.py` expects. Raises SourceError if the file was truncated."""
    text = np.empty(stop - start + 1, np.uint8)
    if place.read_into(start, text[:-1]) != stop - start:
        raise SourceError(f"{place} was truncated while being read; run the command again once the file is complete")
    text[-1] = LINE_FEED
    return text
