"""The order of samples: a pure function of (blocks, kept rows, seed, epoch), for any world size.

The blocks of an epoch are permuted and dealt to L lanes like cards. A lane is cut into windows of W blocks, and the
rows of a window are shuffled. First windows are shorter, by a different amount in each lane, so that the lanes reach
their next windows at different times: blocks are read evenly and the first batch is ready early. A filter (the rows
that are not in the fold) is applied after that.

Rows are drawn from the lanes in round-robin order: row p of the epoch is the next row of lane p mod L, and global batch
t consists of the rows tB to (t + 1)B. Each of R ranks, or shares of a batch, has every R-th row in the same way.

Lanes keep different numbers of rows, so near the end of an epoch some would run out. The rows of a long lane beyond the
common length therefore go to the short lanes: a lane's course is a list of segments, first its own rows, then tails of
other lanes. Every row is used, and none twice; a last batch that is not full may be dropped.

Everything here is O(blocks) in time and memory, and any position can be computed directly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from ...storage.compiled import compiled
from ...storage.errors import UsageError
from ..seeding import key_of, permutation, shuffled

LANE_STEP = 8
EPOCHS = 2  # whose order of blocks is kept: the current one and the next one
BLOCK_STREAM, ROW_STREAM = 1, 2  # keep the two uses of the generator apart


@dataclass(frozen=True)
class Mixing:
    """How the rows of an epoch are shuffled. `batch_size` is the size of the global batch; a last batch of fewer than
    `least` rows is dropped."""

    batch_size: int
    lanes: int = 8
    window: int = 8
    seed: int = 0
    least: int = 1


@dataclass(frozen=True)
class Batches:
    """How the `rows` of an epoch are cut into global batches, the last of which may have fewer rows.

    A part of them, such as a lane, a rank or a share of each batch, is every `parts`-th row, starting with row `part`.
    """

    rows: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Global batches of the epoch."""
        return -(-self.rows // self.batch_size)

    def rows_before(self, step: int, part: int = 0, parts: int = 1) -> int:
        """Rows of a part in the batches before a step."""
        return (min(step * self.batch_size, self.rows) - part + parts - 1) // parts

    def sizes(self, steps: range, part: int = 0, parts: int = 1) -> list[int]:
        """Rows of a part in the batch of each step."""
        ends = [self.rows_before(step, part, parts) for step in range(steps.start, steps.stop + 1)]
        return [stop - start for start, stop in pairwise(ends)]


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

    `sizes` and `kept` are the rows of every block and the rows that pass the filter, (blocks,) int64. `batch_size` is
    the size of the global batch; a last batch of fewer than `least` rows is dropped. With `whole_lanes`, first
    windows are as long as others, which are none if there are few blocks.
    """

    sizes: np.ndarray
    kept: np.ndarray
    lanes: int
    window: int
    batch_size: int
    seed: int
    epoch: int
    least: int = 1
    whole_lanes: bool = False

    @cached_property
    def blocks(self) -> np.ndarray:
        """The blocks in the order of this epoch, (blocks,) int64: lane l has every L-th block, starting with block
        l."""
        return mixed_blocks(len(self.sizes), self.seed, self.epoch)

    @cached_property
    def batches(self) -> Batches:
        """The rows that the epoch uses, and their global batches."""
        return used_batches(int(self.kept.sum()), self.batch_size, self.least)

    @property
    def steps(self) -> int:
        """Global batches of the epoch."""
        return self.batches.steps

    @property
    def dropped(self) -> int:
        """Kept rows that are not used in the epoch."""
        return int(self.kept.sum()) - self.batches.rows

    def window_blocks(self, lane: int, window: int) -> np.ndarray:
        """The blocks of one window, in the order of their rows before shuffling."""
        stop = self._first_window(lane) + window * self.window
        return self.blocks[lane :: self.lanes][max(0, stop - self.window) : stop]

    def _first_window(self, lane: int) -> int:
        """Blocks of a lane's first window: from 1 in the first lane up to W in the last."""
        return self.window if self.whole_lanes else 1 + lane * self.window // self.lanes

    def mixed_rows(self, lane: int, window: int, used: np.ndarray) -> np.ndarray:
        """The rows of a window in the order of their use, as positions among all of its rows, (uses,) int64. `used` is
        whether each row is used, (rows,) bool, or how many times, (rows,) int64."""
        key = key_of(self.seed, self.epoch, ROW_STREAM, lane, window)
        if used.dtype == bool:  # mixed before the filter: models with other filters have the same order
            return mixed_where(used, key)
        return mixed_uses(used, key)

    def steps_of(self, lane: int, window: int, uses: int) -> np.ndarray:
        """The step of each of the first rows that a window uses, (uses,) int64; those that are not used in the epoch
        get one as if the lane went on."""
        ends = self.window_ends[lane]
        first = int(ends[window - 1]) if window else 0
        rows = np.arange(first, first + uses)
        places = rows * self.lanes + lane
        for other, course in enumerate(self.segments):
            begin = 0
            for segment in course:
                if segment.lane == lane:
                    inside = (rows >= segment.start) & (rows < segment.stop)
                    places[inside] = (begin + rows[inside] - segment.start) * self.lanes + other
                begin += segment.stop - segment.start
        steps: np.ndarray = places // self.batch_size
        return steps

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
        """The course of each lane: its own rows, then tails of longer lanes that fill it up to its length."""
        lengths = [self.batches.rows_before(self.steps, lane, self.lanes) for lane in range(self.lanes)]
        own = [int(ends[-1]) if len(ends) else 0 for ends in self.window_ends]
        both = list(zip(own, lengths, strict=True))
        spare = [Segment(lane, length, rows) for lane, (rows, length) in enumerate(both) if rows > length]
        courses = []
        for lane, (rows, length) in enumerate(both):
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
        """A lane's course, starting with row `start`, window by window."""
        for segment in self.segments[lane]:
            rows = segment.stop - segment.start
            if start >= rows:
                start -= rows
                continue
            yield from self._windows(segment.lane, segment.start + start, segment.stop)
            start = 0

    def _windows(self, lane: int, start: int, stop: int) -> Iterator[Slice]:
        """Cut kept rows `start` to `stop` of a lane at its windows and, where rows are used many times, so that no
        slice has more than `most_uses` rows of a window of the dataset."""
        ends, longest = self.window_ends[lane], most_uses(self.window * int(self.sizes[0]))
        while start < stop:
            window = int(np.searchsorted(ends, start, side="right"))
            base = int(ends[window - 1]) if window else 0
            end = min(stop, int(ends[window]), start + longest)
            yield Slice(lane, window, start - base, end - base)
            start = end


@compiled
def mixed_where(used: np.ndarray, key: np.uint64) -> np.ndarray:
    """The positions of the `used` rows, (rows,) bool, in a random order of all rows."""
    order = shuffled(len(used), key)
    count = 0
    for row in order:
        if used[row]:
            order[count] = row
            count += 1
    return order[:count]


@compiled
def mixed_uses(used: np.ndarray, key: np.uint64) -> np.ndarray:
    """The positions of rows that are `used` so many times, (rows,) int64, each as often, in a random order."""
    uses, count = np.empty(used.sum(), np.int64), 0
    for row in range(len(used)):
        for _ in range(used[row]):
            uses[count] = row
            count += 1
    order = shuffled(count, key)
    for position in range(count):
        order[position] = uses[order[position]]
    return order


def used_batches(rows: int, batch_size: int, least: int) -> Batches:
    """The batches of `rows` rows, without a last batch of fewer than `least` rows."""
    left = rows % batch_size
    return Batches(rows if left >= least else rows - left, batch_size)


@lru_cache(EPOCHS)
def mixed_blocks(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` blocks, (count,) int64: one read-only array for all models that are trained together."""
    blocks = permutation(count, seed, epoch, BLOCK_STREAM)
    blocks.setflags(write=False)
    return blocks


def most_uses(window_rows: int) -> int:
    """Maximum number of uses of a window's rows that are read at once, for which a stream has memory. Rows drawn by
    weight are used about once on average, so most windows are read once."""
    return window_rows * 6 // 5


def lane_count(workers: int) -> int:
    """Lanes of a run: the smallest multiple of 8 that the worker count divides."""
    if workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1; use --workers 1 or more")
    lanes = LANE_STEP
    while lanes % workers:
        lanes += LANE_STEP
    return lanes


def lanes_of(rank: int, world_size: int, lanes: int) -> range:
    """The lanes that a rank reads."""
    return range(rank, lanes, world_size)


def check_mixing(mixing: Mixing, world_size: int) -> None:
    """Raise UsageError unless the ranks can share the lanes evenly, and each gets rows of every batch."""
    if mixing.lanes % world_size:
        fitting = [str(n) for n in range(1, mixing.lanes + 1) if mixing.lanes % n == 0]
        raise UsageError(
            f"--workers {world_size}: must divide the run's {mixing.lanes} lanes; use {', '.join(fitting)}"
        )
    check_batch_size(mixing.batch_size, world_size)


def check_last_batch(batches: Batches, workers: int) -> None:
    """Raise UsageError unless each worker gets a row of the last batch of an epoch."""
    (rows,) = batches.sizes(range(batches.steps - 1, batches.steps))
    if rows < workers:
        raise UsageError(
            f"--workers {workers}: the last batch of an epoch has only {rows} rows; resume with at most {rows} workers"
        )


def check_batch_size(batch_size: int, workers: int) -> None:
    """Raise UsageError unless each worker gets a row of every full batch."""
    if batch_size < workers:
        raise UsageError(
            f"--batch-size {batch_size}: {workers} workers share each batch, so each needs at least one row; use "
            f"--batch-size {workers} or more, or fewer --workers"
        )
