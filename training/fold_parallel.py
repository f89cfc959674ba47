"""Several folds on several ranks: each rank reads its own lanes and trains whole models, which other ranks' rows reach.

Averaging gradients would make every rank wait for the others at each step. Rows travel instead, some megabytes at a
time and ahead of their use, to the rank that trains the fold. Folds that do not go evenly into the ranks go round from
rank to rank, a chunk of steps each, with their state.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from .batch import Batch
from .fused_plan import Chunk
from .process import Process, Work
from .shares import Rows


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


def exchange_rows(
    chunks: Iterable[tuple[Chunk, Batch]], owners: Owners, process: Process
) -> Iterator[tuple[Chunk, list[Rows]]]:
    """Send this rank's parts of the chunks to those who train on them.

    Yields the chunks that this rank trains on, each with the parts of all ranks in their order. A round of all folds
    is under way before it is needed.
    """
    posted: deque[tuple[Chunk, list[Rows], list[Work]]] = deque()
    for number, (chunk, batch) in enumerate(chunks):
        posted.append((chunk, *_post(number, chunk, (batch.x, batch.y), owners, process)))
        if len(posted) > len(owners.folds):
            yield from _finish(*posted.popleft())
    for one in posted:
        yield from _finish(*one)


def _post(number: int, chunk: Chunk, own: Rows, owners: Owners, process: Process) -> tuple[list[Rows], list[Work]]:
    """Begin to send a part, or to receive those of the others. Returns the parts of all ranks, and what to wait for."""
    owner = owners.owner(chunk.model, chunk.steps.start)
    if owner != process.rank:
        return [], [process.start_send(tensor, owner, 1 + 2 * number + i) for i, tensor in enumerate(own)]
    parts, jobs = [], []
    for rank in range(process.world_size):
        part = own if rank == process.rank else (torch.empty_like(own[0]), torch.empty_like(own[1]))
        if rank != process.rank:
            jobs += [process.start_receive(tensor, rank, 1 + 2 * number + i) for i, tensor in enumerate(part)]
        parts.append(part)
    return parts, jobs


def _finish(chunk: Chunk, parts: list[Rows], jobs: Sequence[Work]) -> Iterator[tuple[Chunk, list[Rows]]]:
    for job in jobs:
        job.wait()
    if parts:
        yield chunk, parts
