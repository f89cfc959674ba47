"""The order of samples: a pure function of (blocks, kept rows, seed, epoch), for any world size.

The blocks of an epoch are permuted and dealt to L lanes like cards. A lane is cut into windows of W blocks, and the
rows of a window are mixed. First windows are shorter, by a different amount in each lane, so that the lanes reach their
next windows at different times: blocks are read evenly and the first batch is ready early. A filter (the rows that are
not in the fold) is applied after that. Global batch t takes B/L rows from every lane.

Lanes keep different numbers of rows, so near the end of an epoch some would run dry. The rows of a long lane beyond the
common length therefore go to the short ones: a lane's course is a list of segments, first its own rows, then tails of
other lanes. So fewer than one global batch of rows is left over, and no row is used twice.

Everything here is O(blocks) in time and memory, and any position can be computed directly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ...storage.errors import UsageError
from ..seeding import permutation

LANE_STEP = 8
EPOCHS = 2  # whose order of blocks is kept: the current one and the next one
BLOCK_STREAM, ROW_STREAM = 1, 2  # keep the two uses of the generator apart


@dataclass(frozen=True)
class Mixing:
    """How the rows of an epoch are mixed. `batch_size` is that of the global batch."""

    batch_size: int
    lanes: int = 8
    window: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Segment:
    """Kept rows `start` to `stop` of a lane's mixed sequence."""

    lane: int
    start: int
    stop: int


@dataclass(frozen=True)
class Slice:
    """Kept rows `start` to `stop` of one window of a lane."""

    lane: int
    window: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """The order of one epoch.

    `sizes` and `kept` are the rows of every block and those that pass the filter, (blocks,) int64. `batch_size` is
    that of the global batch; `lanes` must divide it.
    """

    sizes: np.ndarray
    kept: np.ndarray
    lanes: int
    window: int
    batch_size: int
    seed: int
    epoch: int

    @cached_property
    def blocks(self) -> np.ndarray:
        """The blocks in the order of this epoch, (blocks,) int64: lane l has every L-th one, from the l-th on."""
        return mixed_blocks(len(self.sizes), self.seed, self.epoch)

    @cached_property
    def steps(self) -> int:
        """Global batches of the epoch."""
        return int(self.kept.sum()) // self.batch_size

    @property
    def per_lane(self) -> int:
        """Rows of a global batch that come from each lane."""
        return self.batch_size // self.lanes

    @property
    def dropped(self) -> int:
        """Kept rows that are not used in the epoch: fewer than one global batch."""
        return int(self.kept.sum()) - self.steps * self.batch_size

    def window_blocks(self, lane: int, window: int) -> np.ndarray:
        """The blocks of one window, in the order in which their rows are laid out before mixing."""
        stop = self._first_window(lane) + window * self.window
        return self.blocks[lane :: self.lanes][max(0, stop - self.window) : stop]

    def _first_window(self, lane: int) -> int:
        """Blocks of a lane's first window: from 1 in the first lane up to W in the last."""
        return 1 + lane * self.window // self.lanes

    def window_rows(self, lane: int, window: int, rows: int) -> np.ndarray:
        """The mixed order of a window's `rows` rows, before the filter, (rows,) int64."""
        return permutation(rows, self.seed, self.epoch, ROW_STREAM, lane, window)

    @cached_property
    def window_ends(self) -> list[np.ndarray]:
        """For each lane, the kept rows up to the end of each of its windows, (windows,) int64."""
        ends = []
        for lane in range(self.lanes):
            kept = np.cumsum(self.kept[self.blocks[lane :: self.lanes]])
            stops = np.arange(self._first_window(lane), len(kept) + self.window, self.window)
            ends.append(kept[stops.clip(max=len(kept)) - 1] if len(kept) else kept)
        return ends

    @cached_property
    def segments(self) -> list[list[Segment]]:
        """The course of each lane: its own rows, then tails of longer lanes that fill it up to the common length."""
        length = self.steps * self.batch_size // self.lanes
        own = [int(ends[-1]) if len(ends) else 0 for ends in self.window_ends]
        spare = [Segment(lane, length, rows) for lane, rows in enumerate(own) if rows > length]
        courses = []
        for lane, rows in enumerate(own):
            course = [Segment(lane, 0, min(rows, length))]
            missing = length - course[0].stop
            while missing:
                tail = spare.pop()
                take = min(missing, tail.stop - tail.start)
                course.append(Segment(tail.lane, tail.start, tail.start + take))
                if tail.start + take < tail.stop:
                    spare.append(Segment(tail.lane, tail.start + take, tail.stop))
                missing -= take
            courses.append(course)
        return courses

    def slices(self, lane: int, start: int = 0) -> Iterator[Slice]:
        """A lane's course from its `start`-th row on, window by window."""
        for segment in self.segments[lane]:
            rows = segment.stop - segment.start
            if start >= rows:
                start -= rows
                continue
            yield from self._windows(segment.lane, segment.start + start, segment.stop)
            start = 0

    def _windows(self, lane: int, start: int, stop: int) -> Iterator[Slice]:
        """Cut kept rows `start` to `stop` of a lane at its windows."""
        ends = self.window_ends[lane]
        window = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            base = int(ends[window - 1]) if window else 0
            end = min(stop, int(ends[window]))
            if end > start:
                yield Slice(lane, window, start - base, end - base)
            start, window = end, window + 1


@lru_cache(EPOCHS)
def mixed_blocks(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of so many blocks, (count,) int64: one read-only array for all models that are trained together."""
    blocks = permutation(count, seed, epoch, BLOCK_STREAM)
    blocks.setflags(write=False)
    return blocks


def lane_count(workers: int) -> int:
    """Lanes of a run: the smallest multiple of 8 that the worker count divides."""
    if workers < 1:
        raise UsageError(f"--workers {workers}: it must be at least 1")
    lanes = LANE_STEP
    while lanes % workers:
        lanes += LANE_STEP
    return lanes


def lanes_of(rank: int, world_size: int, lanes: int) -> range:
    """The lanes that a rank reads."""
    return range(rank, lanes, world_size)


def check_batch_size(batch_size: int, lanes: int) -> None:
    """Raise UsageError, naming the nearest valid sizes, unless the lanes can share a global batch evenly."""
    if batch_size < 1 or batch_size % lanes:
        below = batch_size // lanes * lanes
        near = " or ".join(str(size) for size in (below, below + lanes) if size > 0)
        raise UsageError(
            f"--batch-size {batch_size}: it must be a multiple of {lanes}, the number of lanes that share each batch "
            f"(--workers divides it); use {near}"
        )


def check_mixing(mixing: Mixing, world_size: int) -> None:
    """Raise UsageError unless the ranks can share the lanes evenly, and the lanes a batch."""
    check_batch_size(mixing.batch_size, mixing.lanes)
    if mixing.lanes % world_size:
        fitting = [str(n) for n in range(1, mixing.lanes + 1) if mixing.lanes % n == 0]
        raise UsageError(
            f"--workers {world_size} does not divide the run's {mixing.lanes} lanes; use {', '.join(fitting)}"
        )
