"""What a rank reads for several models in one pass, and when: a pure plan between their orders and the threads.

The models' orders have the same blocks in the same windows, and differ in the rows that their filters keep. Chunks are
taken in the order of their share of the epoch, so that all models come to a window at about the same time.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .loads import ChunkShape, Load, plan_loads
from .order import EpochOrder


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive steps of one model, and the loads, cut to these steps, that give their rows."""

    model: int
    number: int
    """Among the model's chunks that are read, from 0."""
    last: bool
    steps: range
    loads: tuple[Load, ...]
    share: float
    """Of the model's epoch, that is over before it."""


def plan_chunks(
    orders: Mapping[int, EpochOrder], lanes: Sequence[int], steps: Mapping[int, int], shape: ChunkShape
) -> Iterator[Chunk]:
    """All chunks of the models' epochs, each from its step on."""
    courses = [_model_chunks(model, order, lanes, steps[model], shape) for model, order in orders.items()]
    return heapq.merge(*courses, key=lambda chunk: chunk.share)


def _model_chunks(model: int, order: EpochOrder, lanes: Sequence[int], step: int, shape: ChunkShape) -> Iterator[Chunk]:
    loads, begun = plan_loads(order, lanes, step), list[Load]()
    upcoming = next(loads, None)
    for number, first in enumerate(range(step, order.steps, shape.steps)):
        start = (first - step) * shape.per_lane
        stop = start + shape.lane_rows
        while upcoming and upcoming.first < stop:
            begun.append(upcoming)
            upcoming = next(loads, None)
        cut = tuple(load.cut(start, stop) for load in begun)
        begun = [load for load in begun if load.stop > stop]
        end = min(order.steps, first + shape.steps)
        yield Chunk(model, number, end == order.steps, range(first, end), cut, first / order.steps)
