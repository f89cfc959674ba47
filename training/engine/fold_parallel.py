"""Several folds on several ranks: each rank reads its own lanes and trains whole models, which other ranks' rows reach.

Averaging gradients would make every rank wait for the others at each step. Rows travel instead, some megabytes at a
time and ahead of their use, to the rank that trains the fold. Folds that do not go evenly into the ranks go round from
rank to rank, a chunk of steps each, with their state.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..stream.batch import Batch
from ..stream.fused_plan import Chunk
from ..stream.loads import ChunkShape
from .process import Process, Work
from .shares import Rows

MESSAGES = 4  # of a rank for a chunk, at most: x and y of its part and of the tails that it has read for others


@dataclass(frozen=True)
class Owners:
    """Which of `world_size` ranks trains a fold in the chunk of `chunk_steps` steps that begins at a step of its epoch.

    It depends on the step alone, so that it is the same wherever in an epoch the training begins.
    """

    folds: tuple[int, ...]
    world_size: int
    chunk_steps: int

    def owner(self, fold: int, step: int) -> int:
        place = self.folds.index(fold)
        goes_round = place >= len(self.folds) // self.world_size * self.world_size
        return (place + step // self.chunk_steps * goes_round) % self.world_size

    def home(self, fold: int) -> int:
        """The rank that has the fold between epochs: that of an epoch's first chunk."""
        return self.owner(fold, 0)

    @property
    def reading_order(self) -> list[int]:
        """The folds, with those that go round first: the next rank waits for them."""
        fixed = len(self.folds) // self.world_size * self.world_size
        return [*self.folds[fixed:], *self.folds[:fixed]]


@dataclass(frozen=True, eq=False)
class _Posted:
    """A chunk whose rows are on their way: on the rank that trains on it, the parts of all ranks, and the tails that
    each has read for others."""

    chunk: Chunk
    parts: list[Rows]
    tails: list[Rows]
    jobs: list[Work]


def exchange_rows(
    chunks: Iterable[tuple[Chunk, Batch, Batch]], shape: ChunkShape, owners: Owners, process: Process
) -> Iterator[tuple[Chunk, list[Rows]]]:
    """Send this rank's parts of the chunks, and the tails that it has read for others, to those who train on them.

    Yields the chunks that this rank trains on, each with the parts of all ranks in their order. A round of all folds
    is under way before it is needed.
    """
    posted: deque[_Posted] = deque()
    for number, (chunk, batch, tails) in enumerate(chunks):
        posted.append(_post(number, chunk, (batch.x, batch.y), (tails.x, tails.y), owners, process))
        if len(posted) > len(owners.folds):
            yield from _finish(posted.popleft(), shape)
    for one in posted:
        yield from _finish(one, shape)


def _post(number: int, chunk: Chunk, part: Rows, tails: Rows, owners: Owners, process: Process) -> _Posted:
    """Begin to send a part and tails, or to receive those of the others."""
    owner, first_tag = owners.owner(chunk.model, chunk.steps.start), 1 + MESSAGES * number
    if owner != process.rank:
        sent = [tensor for tensor in (*part, *tails) if len(tensor)]
        return _Posted(chunk, [], [], [process.start_send(one, owner, tag) for tag, one in enumerate(sent, first_tag)])
    posted = _Posted(chunk, [], [], [])
    for rank in range(process.world_size):
        own = rank == process.rank
        posted.parts.append(part if own else _room(part, len(part[0])))
        posted.tails.append(tails if own else _room(tails, sum(load.part.rows for _, load in chunk.tails_of(rank))))
        if not own:
            awaited = [tensor for tensor in (*posted.parts[-1], *posted.tails[-1]) if len(tensor)]
            posted.jobs.extend(process.start_receive(one, rank, tag) for tag, one in enumerate(awaited, first_tag))
    return posted


def _room(like: Rows, rows: int) -> Rows:
    """Tensors for so many rows."""
    x, y = (tensor.new_empty((rows, *tensor.shape[1:])) for tensor in like)
    return x, y


def _finish(posted: _Posted, shape: ChunkShape) -> Iterator[tuple[Chunk, list[Rows]]]:
    for job in posted.jobs:
        job.wait()
    if posted.parts:
        fill_up(posted.parts, posted.tails, posted.chunk, shape)
        yield posted.chunk, posted.parts


def fill_up(parts: Sequence[Rows], tails: Sequence[Rows], chunk: Chunk, shape: ChunkShape) -> None:
    """Put the tails that each rank has read for others where they are missing in the parts of these."""
    for reader, rows in enumerate(tails):
        first = 0
        for rank, load in chunk.tails_of(reader):
            places = torch.from_numpy(shape.places(load, [0]))
            for part, tail in zip(parts[rank], rows, strict=True):
                part[places] = tail[first : first + load.part.rows]
            first += load.part.rows
