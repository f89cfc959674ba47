"""What a rank reads, when, and where each row goes: a pure schedule between the order of samples and the threads.

A *group* is some consecutive batches that are handed out at once; memory holds a number of groups, each in a slot. A
*load* reads one window of a lane and puts every row where its batch wants it: rows are written once after decoding.
Positions count the rows that a lane gives, starting at the step where the reading begins.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .order import EpochOrder, Slice


@dataclass(frozen=True, eq=False)
class Load:
    """A slice of a window for the `lane`-th lane of the rank, whose rows have the positions `first` to `stop`."""

    part: Slice
    lane: int
    first: int

    @property
    def stop(self) -> int:
        return self.first + self.part.rows

    def cut(self, start: int, stop: int) -> "Load":
        """The part of the load with positions from `start` to `stop`."""
        first, last = max(start, self.first), min(stop, self.stop)
        skipped = self.part.start - self.first
        return Load(replace(self.part, start=first + skipped, stop=last + skipped), self.lane, first)


def schedule_loads(order: EpochOrder, lanes: Sequence[int], step: int) -> Iterator[Load]:
    """All loads from the given step on, in the order in which their first rows are needed."""
    return _as_needed(_lane_loads(order, number, lane, step) for number, lane in enumerate(lanes))


def schedule_tails(order: EpochOrder, lanes: Sequence[int], step: int) -> Iterator[Load]:
    """The loads among them that fill up the rank's lanes from the tails of other ranks' lanes."""
    own = [order.segments[lane][0].stop for lane in lanes]
    courses = [_lane_loads(order, number, lane, step, own[number]) for number, lane in enumerate(lanes)]
    return (load for load in _as_needed(courses) if load.part.lane not in lanes)


def _as_needed(courses: Iterable[Iterator[Load]]) -> Iterator[Load]:
    return heapq.merge(*courses, key=lambda load: load.first)


def _lane_loads(order: EpochOrder, number: int, lane: int, step: int, skipped: int = 0) -> Iterator[Load]:
    """A lane's loads from the step on, without the first `skipped` rows of the epoch."""
    first = max(0, skipped - step * order.per_lane)
    for part in order.slices(lane, step * order.per_lane + first):
        yield Load(part, number, first)
        first += part.rows


@dataclass(frozen=True)
class GroupShape:
    """A group of `steps` batches, to each of which `lanes` lanes give `per_lane` rows."""

    steps: int
    lanes: int
    per_lane: int

    @property
    def batch_rows(self) -> int:
        return self.lanes * self.per_lane

    @property
    def rows(self) -> int:
        return self.steps * self.batch_rows

    @property
    def lane_rows(self) -> int:
        """Rows that each lane gives to a group."""
        return self.steps * self.per_lane

    def groups_of(self, load: Load) -> range:
        """The groups that a load has rows for."""
        return range(load.first // self.lane_rows, (load.stop - 1) // self.lane_rows + 1)

    def places(self, load: Load, slots: Sequence[int]) -> np.ndarray:
        """Where in memory the rows of a load go whose groups lie in `slots`, (load's rows,) int64.

        A batch has its rows lane by lane.
        """
        steps, rows = np.arange(self.steps), np.arange(self.per_lane)
        in_group = steps[:, None] * self.batch_rows + load.lane * self.per_lane + rows
        of_lane: np.ndarray = (np.asarray(slots)[:, None] * self.rows + in_group.reshape(-1)).reshape(-1)
        skipped = load.first % self.lane_rows
        return of_lane[skipped : skipped + load.part.rows]


def fit_group(most_rows: int, lane_rows: int, lanes: int, per_lane: int, multiple: int = 1) -> GroupShape:
    """The largest group of up to `most_rows` rows and `lane_rows` rows of each lane. Its steps are a multiple of
    `multiple`, and at least that many."""
    rows = min(most_rows // lanes, lane_rows)
    return GroupShape(max(1, rows // per_lane // multiple) * multiple, lanes, per_lane)
