"""What a rank reads, when, and where each row goes: a pure schedule between the order of samples and the threads.

A *group* consists of consecutive batches that are yielded at once; memory has room for several groups, each in a slot.
A *load* reads one window of a lane and copies every row to its place in a batch: rows are copied once after decoding.
Positions refer to rows of the epoch: row p belongs to lane p mod L, and to rank p mod R.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .order import Batches, EpochOrder, Slice


@dataclass(frozen=True, eq=False)
class Load:
    """A slice of a window for one of `lanes` lanes, whose rows are at the positions `first`, `first` + `lanes`, …"""

    part: Slice
    first: int
    lanes: int

    @property
    def window(self) -> tuple[int, int]:
        """What the load reads: a window of a lane."""
        return self.part.lane, self.part.window

    @property
    def last(self) -> int:
        """The position of the last row."""
        return self.first + (self.part.rows - 1) * self.lanes

    def rows_before(self, position: int) -> int:
        """Rows of the load before a position."""
        return min(self.part.rows, max(0, -((self.first - position) // self.lanes)))

    def cut(self, start: int, stop: int) -> "Load":
        """The part of the load with positions from `start` to `stop`."""
        skipped, taken = self.rows_before(start), self.rows_before(stop)
        part = replace(self.part, start=self.part.start + skipped, stop=self.part.start + taken)
        return Load(part, self.first + skipped * self.lanes, self.lanes)

    def places(self, world_size: int, before: int) -> np.ndarray:
        """The places of the rows among those of their rank, without the `before` rows of earlier batches, (rows,)
        int64."""
        return self.first // world_size - before + np.arange(self.part.rows) * (self.lanes // world_size)


def schedule_loads(order: EpochOrder, lanes: Sequence[int], step: int) -> Iterator[Load]:
    """All loads starting at the given step, in the order in which their first rows are needed."""
    return _as_needed(_lane_loads(order, lane, step) for lane in lanes)


def blocks_in_order(order: EpochOrder, lanes: Sequence[int], step: int) -> Iterator[int]:
    """The blocks that a rank reads from a step on, each once, in the order in which their first rows are needed."""
    seen = set[tuple[int, int]]()
    for load in schedule_loads(order, lanes, step):
        if load.window not in seen:
            seen.add(load.window)
            yield from order.window_blocks(*load.window).tolist()


def schedule_tails(order: EpochOrder, lanes: Sequence[int], step: int) -> Iterator[Load]:
    """The loads that fill up the rank's lanes from the tails of other ranks' lanes."""
    fills = _as_needed(_fills(order, lane, step) for lane in lanes)
    return (load for load in fills if load.part.lane not in lanes)


def _as_needed(courses: Iterable[Iterator[Load]]) -> Iterator[Load]:
    return heapq.merge(*courses, key=lambda load: load.first)


def _fills(order: EpochOrder, lane: int, step: int) -> Iterator[Load]:
    """The loads that fill up a lane from the tails of others."""
    return _lane_loads(order, lane, step, order.segments[lane][0].stop)


def _lane_loads(order: EpochOrder, lane: int, step: int, skipped: int = 0) -> Iterator[Load]:
    """A lane's loads starting at the step, without the first `skipped` rows of the epoch."""
    start = max(skipped, order.batches.rows_before(step, lane, order.lanes))
    for part in order.slices(lane, start):
        yield Load(part, start * order.lanes + lane, order.lanes)
        start += part.rows


@dataclass(frozen=True)
class GroupShape:
    """A group of `steps` batches. A rank has up to `rows` rows of them."""

    steps: int
    rows: int


def fit_group(
    most_rows: int, lane_rows: int, batch_size: int, lanes: int, world_size: int, multiple: int = 1
) -> GroupShape:
    """The largest group with up to `most_rows` rows per rank and up to `lane_rows` rows per lane. Its number of steps
    is a positive multiple of `multiple`."""
    rows = min(most_rows * world_size, lane_rows * lanes)
    steps = max(1, rows // batch_size // multiple) * multiple
    return GroupShape(steps, -(-steps * batch_size // world_size))


@dataclass(frozen=True)
class RankGroups:
    """The groups of the rest of an epoch, starting at `step`, and the places of a rank's rows in them."""

    batches: Batches
    shape: GroupShape
    step: int
    rank: int
    world_size: int

    def __len__(self) -> int:
        return -(-(self.batches.steps - self.step) // self.shape.steps)

    def steps_of(self, group: int) -> range:
        """The steps of a group."""
        first = self.step + group * self.shape.steps
        return range(first, min(first + self.shape.steps, self.batches.steps))

    def sizes_of(self, group: int) -> list[int]:
        """The rank's rows in each batch of a group."""
        return self.batches.sizes(self.steps_of(group), self.rank, self.world_size)

    def groups_of(self, load: Load) -> range:
        """The groups that a load has rows for."""
        return range(self.group_of(load.first), self.group_of(load.last) + 1)

    def group_of(self, position: int) -> int:
        """The group with a position."""
        return (position // self.batches.batch_size - self.step) // self.shape.steps

    def places(self, load: Load, slots: Sequence[int]) -> np.ndarray:
        """The places in memory of the rows of a load whose groups are in `slots`, (load's rows,) int64."""
        groups, places = self.groups_of(load), load.places(self.world_size, 0)
        ends = [self.steps_of(group).stop * self.batches.batch_size for group in groups[:-1]]
        cuts = [0, *(load.rows_before(end) for end in ends), load.part.rows]
        for group, slot, (start, stop) in zip(groups, slots, pairwise(cuts), strict=True):
            before = self.batches.rows_before(self.steps_of(group).start, self.rank, self.world_size)
            places[start:stop] += slot * self.shape.rows - before
        return places


def read_together(order: EpochOrder, lanes: Sequence[int], groups: RankGroups, most: int) -> Iterator[list[Load]]:
    """All loads, those of the same window at once: what fills up other lanes is read with the window's first rows, if
    all of it belongs to at most `most` groups."""
    fills = dict[tuple[int, int], list[Load]]()
    for lane in lanes:
        for load in _fills(order, lane, groups.step):
            fills.setdefault(load.window, []).append(load)
    taken = set[int]()
    for load in schedule_loads(order, lanes, groups.step):
        if load.first in taken:
            continue
        stop = groups.groups_of(load).start + most
        others = [
            one for one in fills.get(load.window, ()) if load.first < one.first and groups.groups_of(one).stop <= stop
        ]
        taken.update(one.first for one in others)
        yield [load, *others]
