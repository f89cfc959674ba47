"""What a rank reads, when, and where each row goes: a pure plan between the order of samples and the threads.

A *chunk* is some consecutive batches that are handed out at once; memory holds a number of chunks, each in a slot. A
*load* reads one window of a lane and puts every row where its batch wants it: rows are written once after decoding.
Positions count the rows that a lane gives from the step on at which the reading begins.
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
        """What of it has positions from `start` to `stop`."""
        first, last = max(start, self.first), min(stop, self.stop)
        skipped = self.part.start - self.first
        return Load(replace(self.part, start=first + skipped, stop=last + skipped), self.lane, first)


def plan_loads(order: EpochOrder, lanes: Sequence[int], step: int) -> Iterator[Load]:
    """All loads from the given step on, in the order in which their first rows are needed."""
    return _as_needed(_lane_loads(order, number, lane, step) for number, lane in enumerate(lanes))


def plan_tails(order: EpochOrder, lanes: Sequence[int], step: int) -> Iterator[Load]:
    """Those of the loads that fill the rank's lanes up from the tails of other ranks' lanes."""
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
class ChunkShape:
    """A chunk: `steps` batches, to each of which `lanes` lanes give `per_lane` rows."""

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
        """Rows that each lane gives to a chunk."""
        return self.steps * self.per_lane

    def chunks_of(self, load: Load) -> range:
        """The chunks that a load has rows for."""
        return range(load.first // self.lane_rows, (load.stop - 1) // self.lane_rows + 1)

    def places(self, load: Load, slots: Sequence[int]) -> np.ndarray:
        """Where in memory the rows of a load go whose chunks lie in `slots`, (load's rows,) int64.

        A batch has its rows lane by lane.
        """
        steps, rows = np.arange(self.steps), np.arange(self.per_lane)
        in_chunk = steps[:, None] * self.batch_rows + load.lane * self.per_lane + rows
        of_lane: np.ndarray = (np.asarray(slots)[:, None] * self.rows + in_chunk.reshape(-1)).reshape(-1)
        skipped = load.first % self.lane_rows
        return of_lane[skipped : skipped + load.part.rows]


def fit_chunk(row_bytes: int, most: int, window_rows: int, lanes: int, per_lane: int, group: int = 1) -> ChunkShape:
    """The chunk of `most` bytes, and a quarter of a window at most; its steps are a multiple of `group`."""
    rows = min(most // row_bytes // lanes, window_rows // 4)
    return ChunkShape(max(1, rows // per_lane // group) * group, lanes, per_lane)
