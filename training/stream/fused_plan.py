"""What a rank reads for several models in one pass, and when: a pure plan between their orders and the threads.

The models' orders have the same blocks in the same windows, and differ in the rows that their filters keep. Chunks are
taken in the order of their share of the epoch, so that all models come to a window at about the same time.

A lane may be filled up from the tail of another rank's lane. Where rows travel from rank to rank anyway, the rank of
that other lane reads them, which has read their window for rows of its own: so no block is read by two ranks.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .loads import ChunkShape, Load, plan_loads, plan_tails
from .order import EpochOrder


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive steps of one model, and the loads, cut to these steps, that give the rank's rows of them."""

    model: int
    number: int
    """Among the model's chunks that are read, from 0."""
    last: bool
    steps: range
    loads: tuple[Load, ...]
    share: float
    """Of the model's epoch, that is over before it."""
    tails: tuple[tuple[Load, ...], ...] = ()
    """For each rank the loads of its lanes that other ranks read for it, if they do so."""

    def tails_of(self, reader: int) -> Iterator[tuple[int, Load]]:
        """The tails that a rank reads, each with the rank whose lanes it fills up."""
        for rank, loads in enumerate(self.tails):
            yield from ((rank, load) for load in loads if load.part.lane % len(self.tails) == reader)


def plan_chunks(
    orders: Mapping[int, EpochOrder],
    lanes: Sequence[int],
    steps: Mapping[int, int],
    shape: ChunkShape,
    ranks: Sequence[Sequence[int]] = (),
) -> Iterator[Chunk]:
    """All chunks of the models' epochs, each from its step on, for the rank that has the `lanes`.

    With `ranks`, the lanes of each rank, they read the tails of their lanes for each other.
    """
    courses = [_model_chunks(model, order, lanes, steps[model], shape, ranks) for model, order in orders.items()]
    return heapq.merge(*courses, key=lambda chunk: chunk.share)


def _model_chunks(
    model: int,
    order: EpochOrder,
    lanes: Sequence[int],
    step: int,
    shape: ChunkShape,
    ranks: Sequence[Sequence[int]],
) -> Iterator[Chunk]:
    firsts = range(step, order.steps, shape.steps)
    loads = plan_loads(order, lanes, step)
    own = (load for load in loads if load.part.lane in lanes) if ranks else loads
    tails = [_cut(plan_tails(order, of_rank, step), len(firsts), shape) for of_rank in ranks]
    for number, (first, cut, *of_ranks) in enumerate(zip(firsts, _cut(own, len(firsts), shape), *tails, strict=True)):
        end = min(order.steps, first + shape.steps)
        yield Chunk(model, number, end == order.steps, range(first, end), cut, first / order.steps, tuple(of_ranks))


def _cut(loads: Iterable[Load], chunks: int, shape: ChunkShape) -> Iterator[tuple[Load, ...]]:
    """The loads of each of so many chunks, cut to it."""
    rest, begun = iter(loads), list[Load]()
    upcoming = next(rest, None)
    for stop in range(shape.lane_rows, (chunks + 1) * shape.lane_rows, shape.lane_rows):
        while upcoming and upcoming.first < stop:
            begun.append(upcoming)
            upcoming = next(rest, None)
        yield tuple(load.cut(stop - shape.lane_rows, stop) for load in begun)
        begun = [load for load in begun if load.stop > stop]
