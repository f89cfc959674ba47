"""The training loop: epochs of steps, evaluation and a checkpoint after each epoch, and predictions at the end.

Several folds are trained in one pass over the data: what is read for one of them is read for all. The loop runs in one
process or in a group, with or without Ray.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from math import lcm
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from ...storage.dataset import Dataset
from ...storage.errors import RunError
from ...storage.fold_plan import open_plan
from ..config import CheckpointPolicy, Execution
from ..model.prediction import predict_folds
from ..run import RunFold, mixing_of
from ..settings import plan_sampling, rows_are_weighted
from ..stopping import STOP, stopped
from ..stream.batch import Batch, Rank
from ..stream.filters import CodeFilter, RowFilter, held_out_rows, training_rows
from ..stream.fused import FusedStream
from ..stream.rows import chosen_rows
from ..stream.sampling import draw
from ..stream.single import TrainStream
from .fold_model import FoldModel, make_fold_model
from .fold_parallel import FoldPlacement
from .process import Process
from .shares import Rows, join_states
from .stack import Stack

Item = TypeVar("Item")
Heartbeat = Callable[[bool], None]
"""Called frequently during training; with False before an operation that may take long."""
Notify = Callable[[int, dict[str, Any]], None]
DEFAULTS = Execution()


class FoldTrainer:
    """Trains folds together on one rank. They belong to one run, or to several runs that differ only in their settings.

    Args:
        folds: The folds.
        process: This rank.
        request: Execution options: memory, cache, checkpoints.
        heartbeat: Called frequently during training; with False before an operation that may take long.
        until: Epochs after which the folds of candidates pause; one that diverges drops out. With 0, all train to
            the end.
    """

    def __init__(
        self,
        folds: Sequence[RunFold],
        process: Process,
        request: Execution = DEFAULTS,
        heartbeat: Heartbeat = lambda working: None,
        until: int = 0,
    ) -> None:
        first, self.process, self.heartbeat, self.clock = folds[0], process, heartbeat, Clock()
        self.until, self.diverged = until, set[int]()
        """The numbers of the folds that have dropped out are in `diverged`."""
        self.dataset, checkpoints = first.job.open_data(), request.checkpoints
        limits = {"memory": request.memory_bytes, "cache": request.cache_bytes}
        self.rank = Rank(process.rank, process.world_size, sharing=process.sharing, **limits)
        plan = open_plan(first.run.folds)  # the same for all folds
        config, training = first.job.config, {n: training_rows(plan, one.fold) for n, one in enumerate(folds)}
        rows = draw(self.dataset, training, plan_sampling(self.dataset.schema, config.samples), config.seed)
        self.held_out: dict[int, RowFilter] = {n: held_out_rows(plan, one.fold) for n, one in enumerate(folds)}
        self.holdout = CodeFilter(plan, plan.holdout.array, plan.holdout.held_out)
        weighted = rows_are_weighted(config, self.dataset.schema)
        stream = _open_stream(self.dataset, folds, rows, self.rank, weighted)
        stream.read_ahead()
        self.placement = FoldPlacement(stream, process, config)
        kept = {number: int(of_fold.kept().sum()) for number, of_fold in rows.items()}
        evaluated = [bool(held_out.kept().any()) for held_out in self.held_out.values()]
        self.folds = [
            make_fold_model(n, one, plan, process, kept[n], evaluated[n] * self.dataset.layout.shards, checkpoints)
            for n, one in enumerate(folds)
        ]
        self.stacks = _stacks(self.folds, self.stream, len(plan.models))
        self.saver = CheckpointSaver(process, self.placement, checkpoints, self.clock, heartbeat)

    @property
    def stream(self) -> TrainStream | FusedStream:
        """The training rows of all folds."""
        return self.placement.stream

    def train(self, notify: Notify = lambda fold, metrics: None) -> None:
        """Train to the end, starting from the last checkpoints if they exist, then write predictions, weights and
        completion markers. Folds that pause before write a checkpoint and the result of their rung instead.

        `notify` is called with the index of a fold and its metrics after each of its epochs, on every rank. Raises
        StoppedError, with a checkpoint of every fold, soon after a rank was asked to stop.
        """
        left = self.folds
        for fold in left:
            fold.checkpoints.load()
        self.process.barrier()  # before one rank writes a checkpoint that another one would resume from
        try:
            while left:
                # After a kill some folds may be some epochs behind the others, which wait for them.
                epoch = min(fold.state.epoch for fold in left)
                training = [fold for fold in left if not fold.state.ended and not self.pauses(fold)]
                if current := [fold for fold in training if fold.state.epoch == epoch]:
                    self.train_epoch(current, notify)
                if ended := [fold for fold in left if fold.state.ended]:
                    self.finish(ended)
                if pausing := [fold for fold in left if self.pauses(fold)]:
                    self.pause(pausing)
                left = [fold for fold in left if not (fold.state.ended or self.pauses(fold))]
        finally:
            for fold in self.folds:
                fold.reports.close()

    def pauses(self, fold: FoldModel) -> bool:
        """Whether a fold is at the epoch after which it pauses, or has diverged."""
        at_rung = 0 < self.until <= fold.state.epoch and not fold.state.ended
        return at_rung or fold.number in self.diverged

    def pause(self, folds: Sequence[FoldModel]) -> None:
        """Write the results of folds that pause, once all checkpoints are written."""
        self.process.barrier()
        if self.process.is_main:
            for fold in folds:
                if fold.number not in self.diverged:
                    fold.write_rung(self.until)

    def train_epoch(self, folds: Sequence[FoldModel], notify: Notify) -> None:
        """Train all folds for the same epoch, then evaluate and save them."""
        before, together = self.stream.blocks.bytes_read, self.trains_together(folds)
        seconds = self.train_pass(folds)
        if self.placement.stopped:
            self.saver.save_stopped(folds, together)
            raise stopped()
        for fold in folds:
            fold.state.step = fold.state.steps  # on all ranks
        read = sum(bytes_read for (bytes_read,) in self.process.all_gather([self.stream.blocks.bytes_read - before]))
        losses = [self.placement.share_weights(fold) for fold in folds]
        with self.clock.measure("evaluate"):
            scores = self.evaluate(folds)
        if not scores:
            self.saver.save_stopped(folds, together)
            raise stopped()
        ranks, cached = self.timings(), self.cache_hit_rate()
        self.heartbeat(False)  # writing may take a while
        for fold, loss, scored in zip(folds, losses, scores, strict=True):
            trained = {"train_loss": loss, "rows": fold.rows, "dropped": fold.dropped}
            of_pass = {"seconds": fold.learner.current.earlier + seconds, "read_bytes": read, "ranks": ranks}
            metrics = {"epoch": fold.state.epoch + 1, **trained, **scored, **of_pass, **cached}
            if self.until and (reason := fold.divergence(metrics)):
                self.drop(fold, reason)
                continue
            fold.end_epoch(metrics)
            if self.process.is_main:
                fold.write_reports()
            self.saver.save_after_epoch(fold, stopped=self.pauses(fold))
            notify(fold.run_fold.fold, fold.state.history[-1])
        self.heartbeat(True)

    def drop(self, fold: FoldModel, reason: str) -> None:
        """Leave out a fold that has diverged, on every rank."""
        self.diverged.add(fold.number)
        if self.process.is_main:
            fold.write_divergence(reason)

    def trains_together(self, folds: Sequence[FoldModel]) -> bool:
        """Whether all ranks train each fold together. With at least one fold per rank, each rank trains its own folds
        instead, unless a model is sharded over the ranks."""
        return len(folds) < self.process.world_size or any(fold.network.needs_all_ranks for fold in folds)

    def train_pass(self, folds: Sequence[FoldModel]) -> float:
        """Run one pass over the training rows of these folds. Returns its seconds."""
        together = self.trains_together(folds)
        started, written, within = perf_counter(), self.clock.spent["checkpoint"], self.saver.saves_within_epochs
        for stack in self.stacks:
            stack.begin_pass(folds)
        for fold, step, parts in self.clock.waiting(self.placement.steps(folds, together)):
            for trained, at in self.train_step(fold, step, parts):
                self.heartbeat(True)
                if within and trained.state.step == at + 1 < trained.state.steps:  # after an update
                    self.saver.save_within_epoch(trained, together)
        for stack in self.stacks:
            stack.end_pass()
        seconds = perf_counter() - started
        written -= self.clock.spent["checkpoint"]
        self.clock.spent["compute"] += seconds - self.clock.spent["data_wait"] + written
        return seconds

    def train_step(self, fold: FoldModel, step: int, parts: Sequence[Rows]) -> Iterable[tuple[FoldModel, int]]:
        """Train a fold on a batch, given by the rows of each share. Returns the folds that were trained, each with its
        step: in a stack, each fold waits for the others."""
        for stack in self.stacks:
            if fold.number in stack.places:
                return stack.add(fold, step, parts)
        fold.train_step(parts, step)
        return [(fold, step)]

    def evaluate(self, folds: Sequence[FoldModel]) -> list[dict[str, float]]:
        """Loss and metrics of the folds over all of their held-out rows, on every rank. Empty if a rank was asked to
        stop."""
        evaluators = {fold.number: fold.evaluator for fold in folds}
        for evaluator in evaluators.values():
            evaluator.begin()
        held_out = {number: self.held_out[number] for number in evaluators}
        weighted, cache = self.dataset.schema.weights is not None, self.stream.reader.cache
        for number, shard, _, batch in chosen_rows(self.dataset, held_out, self.rank, weighted=weighted, cache=cache):
            evaluators[number].update(batch, shard)
            self.heartbeat(True)
            if STOP.is_set:
                break
        if self.process.any(STOP.is_set):
            return []
        return [evaluator.scores() for evaluator in evaluators.values()]

    def timings(self) -> list[dict[str, float]]:
        """How each rank has spent its time since the last call; "checkpoint" refers to the previous epoch."""
        spent = self.clock.reset()
        return [dict(zip(spent, of_rank, strict=True)) for of_rank in self.process.all_gather(list(spent.values()))]

    def cache_hit_rate(self) -> dict[str, float]:
        """The share of the bytes read since the last call, by all ranks, that came from the cache of their machine.
        Nothing if the dataset is read without a cache, or if nothing was read."""
        if self.stream.reader.cache is None:
            return {}
        counts = self.process.all_gather(self.stream.reader.cache.take_counts())
        hits, misses = map(sum, zip(*counts, strict=True))
        return {"cache_hit_rate": hits / (hits + misses)} if hits + misses else {}

    def finish(self, folds: Sequence[FoldModel]) -> None:
        """Write this rank's predictions and, once all ranks have written theirs, the weights and completion markers.
        If a rank is asked to stop in the meantime, all predictions are rewritten when training resumes."""
        self.heartbeat(False)
        predictors = {fold.number: fold.final_predictor() for fold in folds}
        held_out = {number: self.held_out[number] for number in predictors}
        parts = {fold.number: fold.folder.parts for fold in folds}
        predict_folds(predictors, self.rows_of(held_out), parts)
        if self.holdout.codes:
            untouched = dict.fromkeys(predictors, self.holdout)
            parts = {fold.number: fold.folder.holdout_parts for fold in folds}
            predict_folds(predictors, self.rows_of(untouched), parts)
        if self.process.any(STOP.is_set):
            for fold in self.folds:
                if not (fold.state.ended or self.pauses(fold)):
                    self.saver.save_after_epoch(fold, stopped=True)
            self.process.barrier()
            raise stopped()
        if self.process.is_main:
            for fold in folds:
                fold.finish()

    def rows_of(self, rows: Mapping[int, RowFilter]) -> Iterator[tuple[int, int, np.ndarray, Batch]]:
        """This rank's share of these rows, until it is asked to stop."""
        chosen = chosen_rows(self.dataset, rows, self.rank, cache=self.stream.reader.cache)
        return takewhile(lambda _: not STOP.is_set, chosen)


def _open_stream(
    dataset: Dataset, folds: Sequence[RunFold], rows: dict[int, RowFilter], rank: Rank, weighted: bool
) -> TrainStream | FusedStream:
    """The shuffled training rows of the folds, from one pass if there are several folds."""
    config = folds[0].job.config
    mixing = mixing_of(config)
    if len(folds) == 1:
        return TrainStream(dataset, rows[0], mixing, rank, weighted=weighted)
    multiple = lcm(*(one.job.config.recipe.accumulate for one in folds))
    return FusedStream(dataset, rows, mixing, rank, multiple, weighted)


def _stacks(folds: Sequence[FoldModel], stream: TrainStream | FusedStream, count: int) -> list[Stack]:
    """A stack of folds for each run that requests it. A run has `count` folds in all; a refit, which has more steps, is
    trained alongside.

    Raises RunError if the folds' sizes differ too much: rows of the larger folds would wait in memory for the others.
    """
    runs: dict[str, list[FoldModel]] = {}
    for fold in folds:
        if fold.network.recipe.stack and fold.run_fold.fold < count:
            runs.setdefault(str(fold.run_fold.run.root), []).append(fold)
    for of_run in runs.values():
        steps = [fold.state.steps for fold in of_run]
        if isinstance(stream, FusedStream) and max(steps) - min(steps) > stream.group_shape.steps:
            raise RunError(
                f"--set stack=true needs folds of about the same size, but these have {min(steps):,} to "
                f"{max(steps):,} batches; start a new run without this setting"
            )
    return [Stack(of_run, count) for of_run in runs.values()]


@dataclass(frozen=True)
class CheckpointSaver:
    """Decides which rank writes a checkpoint of a fold, and writes it."""

    process: Process
    placement: FoldPlacement
    policy: CheckpointPolicy
    clock: "Clock"
    heartbeat: Heartbeat

    @property
    def saves_within_epochs(self) -> bool:
        return self.policy.unit != "epoch"

    def save_after_epoch(self, fold: FoldModel, stopped: bool = False) -> None:
        """Write a checkpoint after an epoch of a fold, if one is due or training is `stopped`: on the rank that has its
        state or, if the model is sharded, by all ranks together."""
        due = stopped or fold.checkpoints.is_due()
        if fold.network.sharded:
            due = bool(self.process.all_gather([due])[0][0])
        else:
            due = due and self.placement.is_home(fold)
        if due:
            with self.clock.measure("checkpoint"):
                fold.checkpoints.save()

    def save_within_epoch(self, fold: FoldModel, together: bool) -> None:
        """Write a checkpoint within an epoch, if one is due: on the rank that trains the fold or, if all ranks do, on
        the main rank, with the state of the other ranks' shares, or if the model is sharded by all ranks together."""
        if not self._is_due_within(fold, together):
            return
        if not together or self.process.is_main or fold.network.sharded:
            self.heartbeat(False)
        with self.clock.measure("checkpoint"):
            self._save_within(fold, together)
        self.heartbeat(True)

    def save_stopped(self, folds: Sequence[FoldModel], together: bool) -> None:
        """Write a checkpoint of folds whose epoch is interrupted or not evaluated. All ranks must call this
        together."""
        self.heartbeat(False)
        done = self.process.all_gather([fold.state.step for fold in folds])
        for fold, of_ranks in zip(folds, zip(*done, strict=True), strict=True):
            if together or self.process.rank == self.placement.newest_on(fold, of_ranks):
                self._save_within(fold, together)
        self.process.barrier()  # the first rank that ends may end the others

    def _save_within(self, fold: FoldModel, together: bool) -> None:
        own = fold.learner.current.state()
        if fold.network.sharded:
            fold.checkpoints.save(own)
        elif of_ranks := self.process.gather(own) if together else [own]:
            fold.checkpoints.save(join_states(of_ranks))

    def _is_due_within(self, fold: FoldModel, together: bool) -> bool:
        """Whether a checkpoint is due within an epoch. Minutes are measured by a single rank: the fold's home or, if
        all ranks train the fold, the main rank, whose clock the others query from time to time."""
        schedule, steps_done = fold.checkpoints.schedule, fold.state.steps_done
        if self.policy.unit == "step":
            return fold.checkpoints.is_due()
        if not together:
            return self.placement.is_home(fold) and fold.checkpoints.is_due()
        if steps_done < schedule.check_at:
            return False
        due, steps = self.process.all_gather(schedule.check_clock(steps_done))[0]
        schedule.check_at = steps_done + int(steps)
        return bool(due)


class Clock:
    """Seconds that a rank spends waiting for data, computing (the rest of the training pass) and on other tasks."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(("data_wait", "compute", "evaluate", "checkpoint"), 0.0)

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and measure the time it takes to get them."""
        rest = iter(items)
        while True:
            with self.measure("data_wait"):
                item = next(rest, None)
            if item is None:
                return
            yield item

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time spent in this context to `name`."""
        started = perf_counter()
        yield
        self.spent[name] += perf_counter() - started

    def reset(self) -> dict[str, float]:
        """The time spent since the last call."""
        spent, self.spent = self.spent, dict.fromkeys(self.spent, 0.0)
        return spent
