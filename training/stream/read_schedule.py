"""What a rank reads for several models in one pass, and when: a pure schedule between their orders and the threads.

The models' orders have the same blocks in the same windows, and differ in the rows that their filters keep. Groups of
steps are sorted by the fraction of the epoch before them, so all models reach a window at about the same time.

A lane may be filled up from the tail of another rank's lane. If rows are sent between ranks anyway, the rank of that
other lane reads the tail, because it reads the window for its own rows as well: no block is read by two ranks.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .loads import GroupShape, Load, schedule_loads, schedule_tails
from .order import Batches, EpochOrder, lanes_of


@dataclass(frozen=True, eq=False)
class ModelSteps:
    """Consecutive steps of one model, and the loads, cut to these steps, that read the rank's rows."""

    model: int
    number: int
    """Index among the model's groups that are read, from 0."""
    batches: Batches
    """Number of steps of the model's epoch."""
    steps: range
    loads: tuple[Load, ...]
    tails: tuple[tuple[Load, ...], ...] = ()
    """For each rank, the loads of its lanes that other ranks read for it, if any."""

    @property
    def last(self) -> bool:
        """Whether the epoch ends with these steps."""
        return self.steps.stop == self.batches.steps

    @property
    def share(self) -> float:
        """Fraction of the model's epoch before these steps."""
        return self.steps.start / self.batches.steps

    def sizes(self, part: int, parts: int) -> list[int]:
        """Number of rows that a part, such as a rank, has in each batch."""
        return self.batches.sizes(self.steps, part, parts)

    def places(self, load: Load, world_size: int) -> np.ndarray:
        """The places of a load's rows among the rows of its rank in these steps, (rows,) int64."""
        before = self.batches.rows_before(self.steps.start, load.first % world_size, world_size)
        return load.places(world_size, before)

    def tails_of(self, reader: int) -> Iterator[tuple[int, Load]]:
        """The tails that a rank reads, each with the rank whose lane it fills up."""
        for rank, loads in enumerate(self.tails):
            yield from ((rank, load) for load in loads if load.part.lane % len(self.tails) == reader)


def schedule_reads(
    orders: Mapping[int, EpochOrder],
    rank: int,
    world_size: int,
    steps: Mapping[int, int],
    shape: GroupShape,
    for_others: bool = False,
) -> Iterator[ModelSteps]:
    """All groups of the models' epochs for one rank, each model starting at its step.

    With `for_others`, the ranks read the tails of their lanes for each other.
    """
    count = next(iter(orders.values())).lanes
    lanes = [lanes_of(number, world_size, count) for number in range(world_size)]
    ranks = lanes if for_others else ()
    courses = (
        _steps_of_model(model, order, lanes[rank], steps[model], shape, ranks) for model, order in orders.items()
    )
    return heapq.merge(*courses, key=lambda group: group.share)


def _steps_of_model(
    model: int,
    order: EpochOrder,
    lanes: Sequence[int],
    step: int,
    shape: GroupShape,
    ranks: Sequence[Sequence[int]],
) -> Iterator[ModelSteps]:
    firsts = range(step, order.steps, shape.steps)
    groups = [range(first, min(order.steps, first + shape.steps)) for first in firsts]
    loads = schedule_loads(order, lanes, step)
    own = (load for load in loads if load.part.lane in lanes) if ranks else loads
    tails = (schedule_tails(order, of_rank, step) for of_rank in ranks)
    cuts = [_cut(course, groups, order.batch_size) for course in (own, *tails)]
    for number, (steps, cut, *of_ranks) in enumerate(zip(groups, *cuts, strict=True)):
        yield ModelSteps(model, number, order.batches, steps, cut, tuple(of_ranks))


def _cut(loads: Iterable[Load], groups: Iterable[range], batch_size: int) -> Iterator[tuple[Load, ...]]:
    """The loads of each group of steps, cut to it."""
    rest, begun = iter(loads), list[Load]()
    upcoming = next(rest, None)
    for steps in groups:
        start, stop = steps.start * batch_size, steps.stop * batch_size
        while upcoming and upcoming.first < stop:
            begun.append(upcoming)
            upcoming = next(rest, None)
        cuts = (load.cut(start, stop) for load in begun)
        yield tuple(cut for cut in cuts if cut.part.rows)
        begun = [load for load in begun if load.last >= stop]
