"""What a rank reads for several models in one pass, and when: a pure schedule between their orders and the threads.

The models' orders have the same blocks in the same windows, and differ in the rows that their filters keep. Groups of
steps are sorted by the fraction of the epoch before them, so all models reach a window at about the same time.

A lane may be filled up from the tail of another rank's lane. Where rows travel between ranks anyway, the rank of that
other lane reads the tail, because it reads the window for rows of its own: no block is read by two ranks.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .loads import GroupShape, Load, schedule_loads, schedule_tails
from .order import EpochOrder


@dataclass(frozen=True, eq=False)
class ModelSteps:
    """Consecutive steps of one model, and the loads, cut to these steps, that give the rank's rows of them."""

    model: int
    number: int
    """Index among the model's groups that are read, from 0."""
    last: bool
    steps: range
    loads: tuple[Load, ...]
    share: float
    """Fraction of the model's epoch that is over before these steps."""
    tails: tuple[tuple[Load, ...], ...] = ()
    """For each rank the loads of its lanes that other ranks read for it, if they do so."""

    def tails_of(self, reader: int) -> Iterator[tuple[int, Load]]:
        """The tails that a rank reads, each with the rank whose lanes it fills up."""
        for rank, loads in enumerate(self.tails):
            yield from ((rank, load) for load in loads if load.part.lane % len(self.tails) == reader)


def schedule_reads(
    orders: Mapping[int, EpochOrder],
    lanes: Sequence[int],
    steps: Mapping[int, int],
    shape: GroupShape,
    ranks: Sequence[Sequence[int]] = (),
) -> Iterator[ModelSteps]:
    """All groups of the models' epochs, each model from its step on, for the rank that has the `lanes`.

    With `ranks`, the lanes of each rank, the ranks read the tails of their lanes for each other.
    """
    courses = [_steps_of_model(model, order, lanes, steps[model], shape, ranks) for model, order in orders.items()]
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
    loads = schedule_loads(order, lanes, step)
    own = (load for load in loads if load.part.lane in lanes) if ranks else loads
    tails = [_cut(schedule_tails(order, of_rank, step), len(firsts), shape) for of_rank in ranks]
    for number, (first, cut, *of_ranks) in enumerate(zip(firsts, _cut(own, len(firsts), shape), *tails, strict=True)):
        steps = range(first, min(order.steps, first + shape.steps))
        share, tails_of_ranks = first / order.steps, tuple(of_ranks)
        yield ModelSteps(model, number, steps.stop == order.steps, steps, cut, share, tails_of_ranks)


def _cut(loads: Iterable[Load], groups: int, shape: GroupShape) -> Iterator[tuple[Load, ...]]:
    """The loads of each of so many groups, cut to it."""
    rest, begun = iter(loads), list[Load]()
    upcoming = next(rest, None)
    for stop in range(shape.lane_rows, (groups + 1) * shape.lane_rows, shape.lane_rows):
        while upcoming and upcoming.first < stop:
            begun.append(upcoming)
            upcoming = next(rest, None)
        yield tuple(load.cut(stop - shape.lane_rows, stop) for load in begun)
        begun = [load for load in begun if load.stop > stop]
