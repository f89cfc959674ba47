"""What a rank holds in memory and when: a pure plan between the order of samples and the threads that carry it out.

A *load* fills one slot of memory with rows of one lane: usually a window, decoded in place. Where a filter keeps less
than half of a window, the rows kept of several windows are packed into one slot. A *chunk* is some consecutive batches
that are gathered from the slots at once. The plan says which loads a chunk is the first to need and the last to use.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .order import EpochOrder, Slice


@dataclass(frozen=True, eq=False)
class Load:
    """One slot's rows: slices of windows, one after the other. A single one is decoded in place."""

    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.slices)


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a load, in the order of the epoch."""

    load: Load
    start: int
    stop: int


@dataclass(frozen=True)
class Chunk:
    """Consecutive batches that are gathered at once: for each lane the pieces that make up its part of them."""

    steps: int
    lanes: tuple[tuple[Piece, ...], ...]
    first_needed: tuple[Load, ...]
    last_used: tuple[Load, ...]


def lane_loads(slices: Iterator[Slice], slot_rows: int) -> Iterator[Load]:
    """Cut a lane's course into loads of at most `slot_rows` rows. All but the last have at least half as many."""
    waiting: list[Slice] = []
    rows = 0
    for part in slices:
        if waiting and rows + part.rows > slot_rows:
            missing = slot_rows // 2 - rows
            if missing > 0:
                waiting.append(replace(part, stop=part.start + missing))
                part = replace(part, start=part.start + missing)
            yield Load(tuple(waiting))
            waiting, rows = [], 0
        waiting.append(part)
        rows += part.rows
        if len(waiting) == 1 and rows >= slot_rows // 2:
            yield Load((part,))
            waiting, rows = [], 0
    if waiting:
        yield Load(tuple(waiting))


class _Cursor:
    """Walks the loads of a lane."""

    def __init__(self, loads: Iterator[Load]) -> None:
        self._loads = loads
        self._load: Load | None = None
        self._used = 0

    def take(self, rows: int, needed: list[Load], used: list[Load]) -> Iterator[Piece]:
        """The lane's next `rows` rows; adds the loads that are begun and ended."""
        while rows:
            if self._load is None:
                self._load, self._used = next(self._loads), 0
                needed.append(self._load)
            stop = min(self._used + rows, self._load.rows)
            yield Piece(self._load, self._used, stop)
            rows -= stop - self._used
            self._used = stop
            if stop == self._load.rows:
                used.append(self._load)
                self._load = None


def plan_chunks(
    order: EpochOrder, lanes: Sequence[int], start: int, slot_rows: int, chunk_steps: int
) -> Iterator[Chunk]:
    """The chunks of the steps from `start` on.

    A chunk touches at most two loads a lane if `slot_rows` is at least twice a lane's rows of a chunk.
    """
    per_lane = order.per_lane
    cursors = [_Cursor(lane_loads(order.slices(lane, start * per_lane), slot_rows)) for lane in lanes]
    for first in range(start, order.steps, chunk_steps):
        steps = min(chunk_steps, order.steps - first)
        needed: list[Load] = []
        used: list[Load] = []
        pieces = tuple(tuple(cursor.take(steps * per_lane, needed, used)) for cursor in cursors)
        yield Chunk(steps, pieces, tuple(needed), tuple(used))
