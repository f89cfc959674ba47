"""Training folds: epochs of steps, evaluation after each, a checkpoint after each, predictions at the end.

Several folds are trained from one pass over the data: what is read for one of them is read for all. Runs in one
process or in a group, with or without Ray.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

from ..storage.dataset import open_arrays
from .batch import Batch, Rank
from .filters import FoldFilter, RowFilter
from .fold_model import FoldModel
from .fused_stream import FusedStream
from .prediction import predict_folds
from .process import Process
from .row_stream import chosen_rows
from .run import RunFolder, RunJob
from .stream import Mixing, TrainStream

Item = TypeVar("Item")
Notify = Callable[[int, dict[str, Any]], None]


class FoldTrainer:
    """Trains some folds of a run together on one rank."""

    def __init__(
        self,
        job: RunJob,
        run: RunFolder,
        folds: Sequence[int],
        process: Process,
        memory: int | None = None,
        cache: int | None = None,
    ) -> None:
        self.dataset, self.process, config = job.open_data(), process, job.config
        self.rank = Rank(process.rank, process.world_size, memory, cache=cache)
        plan = open_arrays(run.folds, "folds")
        rows = {fold: FoldFilter(plan, fold) for fold in folds}
        self.held_out: dict[int, RowFilter] = {fold: FoldFilter(plan, fold, inside=True) for fold in folds}
        mixing = Mixing(config.batch_size, config.lanes, config.window, config.seed)
        self.stream: TrainStream | FusedStream
        if len(folds) > 1:
            self.stream = FusedStream(self.dataset, rows, mixing, self.rank)
        else:
            self.stream = TrainStream(self.dataset, rows[folds[0]], mixing, self.rank)
        self.folds = [FoldModel(job, fold, run.fold(fold), process, int(rows[fold].kept().sum())) for fold in folds]
        self.clock = Clock()

    def train(self, notify: Notify = lambda fold, metrics: None) -> None:
        """Train to the end, from the last checkpoints if there are some, then write weights, predictions and marks.

        `notify` gets the number of a fold and its metrics after each of its epochs, on every rank.
        """
        left = self.folds
        for fold in left:
            fold.restore()
        try:
            while left:
                # After a kill some may be an epoch behind the others, which wait for them.
                epoch = min(fold.state.epoch for fold in left)
                if going_on := [fold for fold in left if fold.state.epoch == epoch and not fold.ended]:
                    self.train_epoch(going_on, notify)
                self.finish([fold for fold in left if fold.ended])
                left = [fold for fold in left if not fold.ended]
        finally:
            for fold in self.folds:
                fold.close()

    def train_epoch(self, folds: Sequence[FoldModel], notify: Notify) -> None:
        """Train the folds for an epoch, the same for all, and evaluate and save them."""
        seconds = self.train_pass(folds)
        losses = [fold.mean_loss() for fold in folds]
        with self.clock.measure("evaluate"):
            scores = self.evaluate(folds)
        ranks = self.timings()
        for fold, loss, scored in zip(folds, losses, scores, strict=True):
            trained = {"train_loss": loss, "rows": fold.rows, "dropped": fold.dropped, "seconds": seconds}
            fold.end_epoch({"epoch": fold.state.epoch + 1, **trained, **scored, "ranks": ranks})
            if self.process.leads:
                fold.write_logs()
                fold.write_progress(0)
                with self.clock.measure("checkpoint"):
                    fold.save()
            notify(fold.fold, fold.state.history[-1])

    def train_pass(self, folds: Sequence[FoldModel]) -> float:
        """One pass over the training rows of some folds. Returns its seconds."""
        models = {fold.fold: fold for fold in folds}
        for fold in folds:
            fold.begin_epoch()
        started = perf_counter()
        for number, step, batch in self.clock.waiting(self.batches(folds[0].state.epoch, list(models))):
            models[number].train_step(batch, step)
        seconds = perf_counter() - started
        self.clock.spent["compute"] += seconds - self.clock.spent["data_wait"]
        return seconds

    def batches(self, epoch: int, folds: Sequence[int]) -> Iterator[tuple[int, int, Batch]]:
        """This rank's part of an epoch's batches: (fold, step, batch)."""
        if isinstance(self.stream, FusedStream):
            return self.stream.batches(epoch, dict.fromkeys(folds, 0))
        self.stream.load_state_dict({"epoch": epoch, "step": 0})
        return ((folds[0], step, batch) for step, batch in enumerate(self.stream))

    def evaluate(self, folds: Sequence[FoldModel]) -> list[dict[str, float]]:
        """Loss and metrics of the folds over all of their held-out rows, on every rank."""
        models = {fold.fold: fold for fold in folds}
        for fold in folds:
            fold.begin_evaluation()
        held_out = {fold: self.held_out[fold] for fold in models}
        for number, _, _, batch in chosen_rows(self.dataset, held_out, self.rank):
            models[number].evaluate(batch)
        return [fold.scores() for fold in folds]

    def timings(self) -> list[dict[str, float]]:
        """What each rank has spent its seconds on since the last call; «checkpoint» is that of the epoch before."""
        spent = self.clock.reset()
        return [dict(zip(spent, of_rank, strict=True)) for of_rank in self.process.collect(list(spent.values()))]

    def finish(self, folds: Sequence[FoldModel]) -> None:
        """Write this rank's predictions, and once all ranks have written theirs, the weights and the mark."""
        predictors = {fold.fold: fold.final_predictor() for fold in folds}
        held_out = {fold: self.held_out[fold] for fold in predictors}
        folders = {fold.fold: fold.folder for fold in folds}
        predict_folds(predictors, chosen_rows(self.dataset, held_out, self.rank), folders)
        self.process.wait()
        if self.process.leads:
            for fold in folds:
                fold.finish()


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
