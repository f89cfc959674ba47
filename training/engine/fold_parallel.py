"""Several folds on several ranks: which rank trains which fold, and how rows and states reach that rank.

Averaging gradients would make every rank wait for the others at each step. With at least one fold per rank, each rank
reads its own lanes and trains entire models: the rows of other ranks are sent to it instead, some megabytes at a time
and ahead of their use. Folds that cannot be divided evenly among the ranks rotate from rank to rank, with their state,
after each group of steps.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..config import TrainConfig
from ..stream.batch import Batch, rows_in, split_rows, tensors_of, with_tensors
from ..stream.device import on_device
from ..stream.fused import FusedStream
from ..stream.read_schedule import ModelSteps
from ..stream.sequences.padding import as_signed, trim_batches
from ..stream.single import TrainStream
from .fold_model import FoldModel
from .process import Process, Work
from .shares import Rows, deal_rows, rows_of

MESSAGES = 8  # of a rank for a group, at most: the tensors of its part and of the tails that it has read for others
FoldStep = tuple[FoldModel, int, list[Rows]]
"""A step of a fold's epoch, with the rows of the shares that this rank trains."""
END = (1 << 40) - 1
"""The turn that follows all steps of a pass."""


@dataclass(frozen=True)
class Owners:
    """Which of `world_size` ranks trains a fold in the group of `group_steps` steps that begins at a step of its epoch.

    This depends only on the step, so it is the same wherever in an epoch training begins.
    """

    folds: tuple[int, ...]
    world_size: int
    group_steps: int

    def owner(self, fold: int, step: int) -> int:
        place = self.folds.index(fold)
        rotates = place >= len(self.folds) // self.world_size * self.world_size
        return (place + step // self.group_steps * rotates) % self.world_size

    def home(self, fold: int) -> int:
        """The rank that has the fold between epochs: the rank of an epoch's first group."""
        return self.owner(fold, 0)

    @property
    def reading_order(self) -> list[int]:
        """The folds in reading order: rotating folds first, because the next rank waits for them."""
        fixed = len(self.folds) // self.world_size * self.world_size
        return [*self.folds[fixed:], *self.folds[:fixed]]


class FoldPlacement:
    """Which rank has the newest state of each fold, and the steps that this rank trains."""

    def __init__(self, stream: TrainStream | FusedStream, process: Process, config: TrainConfig) -> None:
        self.stream, self.process = stream, process
        self.shares = config.shares if process.world_size == 1 else process.world_size
        self.homes: dict[int, int] = {}
        """The rank that has a fold's newest state, for each fold whose state is not the same on all ranks."""
        self.passes, self.stopped = 0, False
        """Number of passes that have begun, and whether the ranks have stopped in the middle of the last one."""

    def is_home(self, fold: FoldModel) -> bool:
        """Whether this rank has the newest state of a fold, and writes its checkpoints between epochs."""
        return self.process.rank == self.homes.get(fold.number, 0)

    def steps(self, folds: Sequence[FoldModel], together: bool) -> Iterator[FoldStep]:
        """The steps of the folds' epoch that this rank trains: those of all folds, `together` with the other ranks, or
        those of its own folds. They end early, before a step that begins an update, if the ranks are asked to stop."""
        self.passes += 1
        steps = self._steps_together(folds) if together else self._own_steps(folds)
        exact = together or self.process.world_size == 1
        for number, (fold, step, parts) in enumerate(steps):
            if exact and fold.learner.begins_update(step) and self._stops_before(number):
                return
            yield fold, step, parts

    def _stops_before(self, turn: int) -> bool:
        """Whether all ranks stop before a turn of the current pass."""
        self.stopped = self.process.turns.stop_before((self.passes * (END + 1)) + turn)
        return self.stopped

    def newest_on(self, fold: FoldModel, steps_done: Sequence[float]) -> int:
        """The rank with the newest state of a fold that is trained by one rank at a time, given the steps that each
        rank has trained in this epoch."""
        home = self.homes.get(fold.number, 0)
        return home if steps_done[home] == max(steps_done) else steps_done.index(max(steps_done))

    def _steps_together(self, folds: Sequence[FoldModel]) -> Iterator[FoldStep]:
        """The steps of folds that all ranks train together, each with its share of every batch."""
        for fold in folds:
            home = self.homes.pop(fold.number, None)
            if home is not None:
                state = fold.learner.state() if home == self.process.rank else None
                fold.learner.set_state(self.process.broadcast(state, home))
            fold.begin_pass([self.process.rank], self.shares, together=True)
        models, begun = _begun(folds)
        read = read_steps(self.stream, folds[0].state.epoch, begun)
        groups = ((group, rows_of(batch)) for group, batch, _ in read)
        for group, part in on_device(groups, self.process.device):
            yield from split_steps(models[group.model], group, {self.process.rank: part}, self.shares)

    def _own_steps(self, folds: Sequence[FoldModel]) -> Iterator[FoldStep]:
        """The steps of the folds that this rank trains, with the rows of all shares."""
        process, sent, shape = self.process, list[Work](), self.stream.group_shape
        models, steps = _begun(folds)
        owners = Owners(tuple(models), process.world_size, shape.steps)
        begun = {fold: steps[fold] for fold in owners.reading_order}
        for fold in folds:
            self._bring_home(fold, owners.home(fold.number))
            fold.begin_pass(range(self.shares), self.shares, together=False)
        read = read_steps(self.stream, folds[0].state.epoch, begun, for_others=True)
        groups = exchange_rows(read, owners, process)
        for number, group, parts in on_device(groups, process.device):
            if self._stops_before(number):
                process.abandon(sent)
                return
            fold = models[group.model]
            before, after = (owners.owner(group.model, group.steps.start + n * owners.group_steps) for n in (-1, 1))
            if group.number and before != process.rank:
                fold.learner.set_state_within(process.receive_state(before))
            first = group.batches.rows_before(group.steps.start)
            of_shares = parts if len(parts) > 1 else deal_rows(parts[0], first, self.shares)
            yield from split_steps(fold, group, dict(enumerate(of_shares)), self.shares)
            target = owners.home(group.model) if group.last else after
            if target != process.rank:
                sent += process.start_send_state(fold.learner.state_within(), target)
        if self._stops_before(END):
            process.abandon(sent)
            return
        for fold in folds:
            self._receive_last(fold, owners, begun[fold.number])
        for work in sent:
            work.wait()

    def _receive_last(self, fold: FoldModel, owners: Owners, begun: int) -> None:
        """Receive the state after an epoch that started at the step `begun`, if another rank trained its last group."""
        if begun == fold.state.steps:  # only the evaluation was left
            return
        last = fold.state.steps - 1 - (fold.state.steps - 1 - begun) % owners.group_steps
        trained_last = owners.owner(fold.number, last)
        if owners.home(fold.number) == self.process.rank != trained_last:
            fold.learner.set_state_within(self.process.receive_state(trained_last))

    def _bring_home(self, fold: FoldModel, home: int) -> None:
        """Move the newest state of a fold to the rank that trains it first."""
        now = self.homes.get(fold.number, home)
        self.homes[fold.number] = home
        if now != home and now == self.process.rank:
            for work in self.process.start_send_state(fold.learner.state(), home):
                work.wait()
        elif now != home == self.process.rank:
            fold.learner.set_state(self.process.receive_state(now))

    def share_weights(self, fold: FoldModel) -> float:
        """Give every rank the weights of a fold after a pass. Returns its mean training loss."""
        home, learner, model = self.homes.get(fold.number), fold.learner, fold.network.model
        if home is None or self.process.world_size == 1:
            return learner.end_pass()
        own = {"loss": learner.end_pass(), "model": model.state_dict()} if home == self.process.rank else None
        state = self.process.broadcast(own, home)
        if own is None:
            model.load_state_dict(state["model"])
        return float(state["loss"])


def _begun(folds: Sequence[FoldModel]) -> tuple[dict[int, FoldModel], dict[int, int]]:
    """The folds by number, and the step at which each has begun its epoch."""
    return {fold.number: fold for fold in folds}, {fold.number: fold.state.step for fold in folds}


def read_steps(
    stream: TrainStream | FusedStream, epoch: int, begun: Mapping[int, int], for_others: bool = False
) -> Iterator[tuple[ModelSteps, Batch, Batch]]:
    """This rank's part of an epoch's batches, each fold starting at the step in `begun`; see `FusedStream.read`. A
    stream of a single model yields them one by one."""
    if isinstance(stream, FusedStream):
        yield from stream.read(epoch, begun, for_others)
        return
    ((fold, first),) = begun.items()
    stream.move(epoch, first)
    batches = stream.order.batches
    for step, batch in enumerate(stream, first):
        group = ModelSteps(fold, step - first, batches, range(step, step + 1), ())
        yield group, batch, rows_in(batch, 0, 0)


def split_steps(fold: FoldModel, group: ModelSteps, shares: Mapping[int, Rows], count: int) -> Iterator[FoldStep]:
    """The steps of a group, each with the rows of its shares out of `count`."""
    by_share = [split_rows(rows, group.sizes(share, count)) for share, rows in shares.items()]
    if fold.run_fold.job.schema.tokens:
        by_share = [trim_batches(steps) for steps in by_share]
    for step, *rows in zip(group.steps, *by_share, strict=True):
        yield fold, step, rows


@dataclass(frozen=True, eq=False)
class _Posted:
    """A group whose rows are in transit. On the rank that trains on it: the parts of all ranks, and the tails that each
    of them has read for others."""

    number: int
    group: ModelSteps
    parts: list[Rows]
    tails: list[Rows]
    jobs: list[Work]


def exchange_rows(
    groups: Iterable[tuple[ModelSteps, Batch, Batch]], owners: Owners, process: Process
) -> Iterator[tuple[int, ModelSteps, list[Rows]]]:
    """Send this rank's parts of the groups, and the tails that it has read for others, to the ranks that train on them.

    Yields the groups that this rank trains on, each with its number among all groups and the parts of all ranks in
    order. One group of each fold is in transit before it is needed.
    """
    posted: deque[_Posted] = deque()
    try:
        for number, (group, batch, tails) in enumerate(groups):
            posted.append(_post(number, group, rows_of(batch), rows_of(tails), owners, process))
            if len(posted) > len(owners.folds):
                yield from _finish(posted.popleft())
        while posted:
            yield from _finish(posted.popleft())
    finally:
        process.abandon(job for one in posted for job in one.jobs)


def _post(number: int, group: ModelSteps, part: Rows, tails: Rows, owners: Owners, process: Process) -> _Posted:
    """Start sending a part and tails, or receiving those of the other ranks."""
    owner, first_tag = owners.owner(group.model, group.steps.start), 1 + MESSAGES * number
    if owner != process.rank:
        sent = [tensor for tensor in tensors_of((part, tails)) if len(tensor)]
        jobs = [process.start_send(one, owner, tag) for tag, one in enumerate(sent, first_tag)]
        return _Posted(number, group, [], [], jobs)
    posted = _Posted(number, group, [], [], [])
    for rank in range(process.world_size):
        own = rank == process.rank
        posted.parts.append(part if own else _room(part, sum(group.sizes(rank, process.world_size))))
        posted.tails.append(tails if own else _room(tails, sum(load.part.rows for _, load in group.tails_of(rank))))
        if not own:
            awaited = [tensor for tensor in tensors_of((posted.parts[-1], posted.tails[-1])) if len(tensor)]
            posted.jobs.extend(process.start_receive(one, rank, tag) for tag, one in enumerate(awaited, first_tag))
    return posted


def _room(like: Rows, rows: int) -> Rows:
    """Empty tensors for `rows` rows."""
    room: Rows = with_tensors(like, lambda tensor: tensor.new_empty((rows, *tensor.shape[1:])))
    return room


def _finish(posted: _Posted) -> Iterator[tuple[int, ModelSteps, list[Rows]]]:
    for job in posted.jobs:
        job.wait()
    if posted.parts:
        fill_up(posted.parts, posted.tails, posted.group)
        yield posted.number, posted.group, posted.parts


def fill_up(parts: Sequence[Rows], tails: Sequence[Rows], group: ModelSteps) -> None:
    """Put the tails that each rank has read for others into the parts that lack them."""
    for reader, rows in enumerate(tails):
        first = 0
        for rank, load in group.tails_of(reader):
            places = torch.from_numpy(group.places(load, len(parts)))
            for part, tail in zip(tensors_of(parts[rank]), tensors_of(rows), strict=True):
                as_signed(part)[places] = as_signed(tail[first : first + load.part.rows])
            first += load.part.rows
