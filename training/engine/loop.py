"""Training folds: epochs of steps, evaluation after each, a checkpoint after each, predictions at the end.

Several folds are trained from one pass over the data: what is read for one of them is read for all. Runs in one
process or in a group, with or without Ray.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import lcm
from time import perf_counter
from typing import Any, TypeVar

import torch

from ...storage.fold_plan import open_plan
from ..model.prediction import predict_folds
from ..run import RunFold
from ..stream.batch import Batch, Rank
from ..stream.filters import CodeFilter, RowFilter, held_out_rows, training_rows
from ..stream.fused import FusedStream
from ..stream.fused_plan import Chunk
from ..stream.rows import chosen_rows
from ..stream.single import Mixing, TrainStream
from .fold_model import FoldModel
from .fold_parallel import Owners, exchange_rows
from .process import Process, Work
from .saving import EACH_EPOCH, Saving
from .shares import Rows, deal, join_states

Item = TypeVar("Item")
Beat = Callable[[bool], None]
"""Called often, while the work goes on; with False before something that may take long."""
Notify = Callable[[int, dict[str, Any]], None]


class FoldTrainer:
    """Trains some folds together on one rank, of a run or of several that differ in their settings only."""

    def __init__(
        self,
        folds: Sequence[RunFold],
        process: Process,
        memory: int | None = None,
        cache: int | None = None,
        beat: Beat = lambda working: None,
        saving: Saving = EACH_EPOCH,
    ) -> None:
        first = folds[0]
        self.dataset, self.process, self.config, self.beat = first.job.open_data(), process, first.job.config, beat
        self.saving = saving
        config = self.config
        self.rank = Rank(process.rank, process.world_size, memory, cache=cache)
        plan = open_plan(first.run.folds)  # all have the same
        rows = {number: training_rows(plan, one.fold) for number, one in enumerate(folds)}
        self.held_out: dict[int, RowFilter] = {n: held_out_rows(plan, one.fold) for n, one in enumerate(folds)}
        self.holdout = CodeFilter(plan, plan.holdout.array, plan.holdout.held_out)
        mixing = Mixing(config.batch_size, config.lanes, config.window, config.seed)
        self.stream: TrainStream | FusedStream
        if len(folds) > 1:
            together = lcm(*(one.job.config.recipe.accumulate for one in folds))
            self.stream = FusedStream(self.dataset, rows, mixing, self.rank, together)
        else:
            self.stream = TrainStream(self.dataset, rows[0], mixing, self.rank)
        self.shares = config.shares if process.world_size == 1 else process.world_size
        self.homes: dict[int, int] = {}
        """The ranks that have the newest state of a fold, where not all have it."""
        kept = {number: int(of_fold.kept().sum()) for number, of_fold in rows.items()}
        tried = [bool(held_out.kept().any()) for held_out in self.held_out.values()]
        self.folds = [FoldModel(n, one, process, kept[n], tried[n], saving) for n, one in enumerate(folds)]
        self.clock = Clock()

    def train(self, notify: Notify = lambda fold, metrics: None) -> None:
        """Train to the end, from the last checkpoints if there are some, then write weights, predictions and marks.

        `notify` gets the number of a fold and its metrics after each of its epochs, on every rank.
        """
        left = self.folds
        for fold in left:
            fold.load()
        self.process.wait()  # before one of them writes a checkpoint that another one would go on from
        try:
            while left:
                # After a kill some may be some epochs behind the others, which wait for them.
                epoch = min(fold.state.epoch for fold in left)
                if going_on := [fold for fold in left if fold.state.epoch == epoch and not fold.ended]:
                    self.train_epoch(going_on, notify)
                if ended := [fold for fold in left if fold.ended]:
                    self.finish(ended)
                left = [fold for fold in left if not fold.ended]
        finally:
            for fold in self.folds:
                fold.close()

    def train_epoch(self, folds: Sequence[FoldModel], notify: Notify) -> None:
        """Train the folds for an epoch, the same for all, and evaluate and save them."""
        before = self.stream.blocks.bytes_read
        seconds = self.train_pass(folds)
        read = sum(bytes_read for (bytes_read,) in self.process.collect([self.stream.blocks.bytes_read - before]))
        losses = [self.spread(fold) for fold in folds]
        with self.clock.measure("evaluate"):
            scores = self.evaluate(folds)
        ranks = self.timings()
        self.beat(False)  # what is written may take its time
        for fold, loss, scored in zip(folds, losses, scores, strict=True):
            trained = {"train_loss": loss, "rows": fold.rows, "dropped": fold.dropped}
            of_pass = {"seconds": fold.earlier + seconds, "read_bytes": read, "ranks": ranks}
            fold.end_epoch({"epoch": fold.state.epoch + 1, **trained, **scored, **of_pass})
            if self.process.leads:
                fold.write_logs()
                fold.write_history()
            if self.saves(fold):
                with self.clock.measure("checkpoint"):
                    fold.save()
            notify(fold.fold, fold.state.history[-1])
        self.beat(True)

    def saves(self, fold: FoldModel) -> bool:
        """Whether this rank has a part in a checkpoint of the fold after its epoch, and one is due."""
        if fold.sharded:
            return bool(self.process.collect([fold.is_due()])[0][0])
        return self.process.rank == self.homes.get(fold.number, 0) and fold.is_due()

    def train_pass(self, folds: Sequence[FoldModel]) -> float:
        """One pass over the training rows of some folds. Returns its seconds.

        If there is a fold for every rank, each trains folds of its own; else, or where a model is dealt over the ranks,
        all ranks train each fold together.
        """
        together = len(folds) < self.process.world_size or any(fold.needs_all for fold in folds)
        started, written, within = perf_counter(), self.clock.spent["checkpoint"], self.saving.unit != "epoch"
        for fold, step, parts in self.clock.waiting(self.steps_together(folds) if together else self.own_steps(folds)):
            fold.train_step(parts, step)
            self.beat(True)
            if within and fold.state.step == step + 1 < fold.steps:  # after an update
                self.save_within(fold, together)
        seconds = perf_counter() - started
        written -= self.clock.spent["checkpoint"]
        self.clock.spent["compute"] += seconds - self.clock.spent["data_wait"] + written
        return seconds

    def save_within(self, fold: FoldModel, together: bool) -> None:
        """Write a checkpoint in the midst of an epoch, if it is due: by the rank that trains the fold, or if all do, by
        the one that leads, with what the shares of the others have of their own."""
        if not self.is_due(fold, together):
            return
        if not together or self.process.leads:
            self.beat(False)
        with self.clock.measure("checkpoint"):
            own = fold.state_of_shares()
            of_ranks = self.process.gather(own) if together else [own]
            if of_ranks or fold.sharded:
                fold.save(join_states(of_ranks) if of_ranks else None)
        self.beat(True)

    def is_due(self, fold: FoldModel, together: bool) -> bool:
        """Whether a checkpoint is due in the midst of an epoch. Time is told by the clock of one rank: that of the
        fold's home, or where all train it, of the leader, whom the others ask now and then."""
        if self.saving.unit == "step":
            return fold.is_due()
        if not together:
            return self.homes[fold.number] == self.process.rank and fold.is_due()
        if fold.steps_done < fold.pace.look_at:
            return False
        due, steps = self.process.collect(fold.pace.look(fold.steps_done))[0]
        fold.pace.look_at = fold.steps_done + int(steps)
        return bool(due)

    def steps_together(self, folds: Sequence[FoldModel]) -> Iterator[tuple[FoldModel, int, list[Rows]]]:
        """The steps of folds that all ranks train, each with its share of every batch."""
        for fold in folds:
            home = self.homes.pop(fold.number, None)
            if home is not None:
                state = fold.training_state() if home == self.process.rank else None
                fold.set_training_state(self.process.broadcast(state, home))
            fold.begin_epoch([self.process.rank], self.shares, together=True)
        models = {fold.number: fold for fold in folds}
        for chunk, batch, _ in self.chunks(folds[0].state.epoch, {fold.number: fold.state.step for fold in folds}):
            yield from steps_of(models[chunk.model], chunk, [(batch.x, batch.y)])

    def own_steps(self, folds: Sequence[FoldModel]) -> Iterator[tuple[FoldModel, int, list[Rows]]]:
        """The steps of the folds that this rank trains, with the rows of all shares."""
        process, models, sent = self.process, {fold.number: fold for fold in folds}, list[Work]()
        owners = Owners(tuple(models), process.world_size, self.stream.chunk.steps)
        begun = {fold: models[fold].state.step for fold in owners.reading_order}
        for fold in folds:
            self.bring_home(fold, owners.home(fold.number))
            fold.begin_epoch(range(self.shares), self.shares, together=False)
        chunks = self.chunks(folds[0].state.epoch, begun, for_others=True)
        for chunk, parts in exchange_rows(chunks, self.stream.chunk, owners, process):
            fold = models[chunk.model]
            before, after = (owners.owner(chunk.model, chunk.steps.start + n * owners.chunk_steps) for n in (-1, 1))
            if chunk.number and before != process.rank:
                fold.set_state_within(process.receive_state(before))
            dealt = parts if len(parts) > 1 else deal(parts[0], self.config.lanes, self.shares, len(chunk.steps))
            yield from steps_of(fold, chunk, dealt)
            goes_to = owners.home(chunk.model) if chunk.last else after
            if goes_to != process.rank:
                sent += process.start_send_state(fold.state_within(), goes_to)
        for fold in folds:
            last = fold.steps - 1 - (fold.steps - 1 - begun[fold.number]) % owners.chunk_steps
            trained_last = owners.owner(fold.number, last)
            if owners.home(fold.number) == process.rank != trained_last:
                fold.set_state_within(process.receive_state(trained_last))
        for work in sent:
            work.wait()

    def bring_home(self, fold: FoldModel, home: int) -> None:
        """Have the newest state of a fold on the rank that trains it first."""
        now = self.homes.get(fold.number, home)
        self.homes[fold.number] = home
        if now != home and now == self.process.rank:
            for work in self.process.start_send_state(fold.training_state(), home):
                work.wait()
        elif now != home == self.process.rank:
            fold.set_training_state(self.process.receive_state(now))

    def chunks(
        self, epoch: int, begun: Mapping[int, int], for_others: bool = False
    ) -> Iterator[tuple[Chunk, Batch, Batch]]:
        """This rank's part of an epoch's batches, some steps of one fold, then some of the next, each from the step on
        that it has `begun` with; and the tails that it has read `for_others`."""
        if isinstance(self.stream, FusedStream):
            yield from self.stream.chunks(epoch, begun, for_others)
            return
        ((fold, first),) = begun.items()
        self.stream.load_state_dict({"epoch": epoch, "step": first})
        steps = first + len(self.stream)
        for step, batch in enumerate(self.stream, first):
            chunk = Chunk(fold, step - first, step + 1 == steps, range(step, step + 1), (), step / steps)
            yield chunk, batch, Batch(*(tensor[:0] for tensor in batch))

    def spread(self, fold: FoldModel) -> float:
        """Give every rank the weights of a fold after a pass. Returns its mean training loss."""
        home = self.homes.get(fold.number)
        if home is None or self.process.world_size == 1:
            return fold.end_pass()
        own = {"loss": fold.end_pass(), "model": fold.model.state_dict()} if home == self.process.rank else None
        state = self.process.broadcast(own, home)
        if own is None:
            fold.model.load_state_dict(state["model"])
        return float(state["loss"])

    def evaluate(self, folds: Sequence[FoldModel]) -> list[dict[str, float]]:
        """Loss and metrics of the folds over all of their held-out rows, on every rank."""
        models = {fold.number: fold for fold in folds}
        for fold in folds:
            fold.begin_evaluation()
        held_out = {fold: self.held_out[fold] for fold in models}
        for number, _, _, batch in chosen_rows(self.dataset, held_out, self.rank):
            models[number].evaluate(batch)
            self.beat(True)
        return [fold.scores() for fold in folds]

    def timings(self) -> list[dict[str, float]]:
        """What each rank has spent its seconds on since the last call; «checkpoint» is that of the epoch before."""
        spent = self.clock.reset()
        return [dict(zip(spent, of_rank, strict=True)) for of_rank in self.process.collect(list(spent.values()))]

    def finish(self, folds: Sequence[FoldModel]) -> None:
        """Write this rank's predictions, and once all ranks have written theirs, the weights and the mark."""
        self.beat(False)
        predictors = {fold.number: fold.final_predictor() for fold in folds}
        held_out = {fold: self.held_out[fold] for fold in predictors}
        parts = {fold.number: fold.folder.parts for fold in folds}
        predict_folds(predictors, chosen_rows(self.dataset, held_out, self.rank), parts)
        if self.holdout.codes:
            untouched = dict.fromkeys(predictors, self.holdout)
            parts = {fold.number: fold.folder.holdout_parts for fold in folds}
            predict_folds(predictors, chosen_rows(self.dataset, untouched, self.rank), parts)
        self.process.wait()
        if self.process.leads:
            for fold in folds:
                fold.finish()


def steps_of(fold: FoldModel, chunk: Chunk, shares: Sequence[Rows]) -> Iterator[tuple[FoldModel, int, list[Rows]]]:
    """A chunk's steps, each with the rows of its shares."""
    count = len(chunk.steps)
    by_share = [zip(*(torch.split(tensor, len(x) // count) for tensor in (x, y)), strict=True) for x, y in shares]
    for step, *rows in zip(chunk.steps, *by_share, strict=True):
        yield fold, step, rows


class Clock:
    """Seconds that a rank spends waiting for data, computing (the rest of the training pass), and so on."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(("data_wait", "compute", "evaluate", "checkpoint"), 0.0)

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with the time that it takes to get them."""
        rest = iter(items)
        while True:
            with self.measure("data_wait"):
                item = next(rest, None)
            if item is None:
                return
            yield item

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time inside to `name`."""
        started = perf_counter()
        yield
        self.spent[name] += perf_counter() - started

    def reset(self) -> dict[str, float]:
        """What was spent since the last call."""
        spent, self.spent = self.spent, dict.fromkeys(self.spent, 0.0)
        return spent
