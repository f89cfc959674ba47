"""Training one fold: epochs of steps, evaluation after each, a checkpoint after each, predictions at the end.

Runs in one process or in a group, with or without Ray. All randomness is keyed by (seed, fold, step, rank), so that
a fold that goes on from a checkpoint gives the weights that it would have given undisturbed, to the last bit.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.tensorboard import SummaryWriter

from ..storage.dataset import open_arrays
from ..storage.files import read_json, write_json
from .batch import Batch, Rank
from .checkpoint import load_checkpoint, save_checkpoint, save_weights
from .config import Recipe
from .filters import FoldFilter
from .metrics import make_loss_metric, make_metrics, name_metrics
from .models import parameter_groups
from .objective import Objective, Preparation, autocast, make_model
from .prediction import Predictor, predict_fold
from .process import Process
from .row_stream import RowStream
from .run import FoldFolder, RunFolder, RunJob
from .seeding import seed_of
from .stream import Mixing, TrainStream

PROGRESS_SECONDS = 1.0


@dataclass
class FoldState:
    """Where a fold's training stands."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    """With early stopping: the lowest validation loss, its epoch and its weights."""


class FoldTrainer:
    """Trains one fold on one rank."""

    def __init__(
        self,
        job: RunJob,
        run: RunFolder,
        fold: int,
        process: Process,
        memory: int | None = None,
        cache: int | None = None,
    ) -> None:
        self.job, self.config, self.recipe = job, job.config, job.config.recipe
        self.fold, self.process, self.folder = fold, process, run.fold(fold)
        config, dataset, folds = self.config, job.open_data(), open_arrays(run.folds, "folds")
        rank = Rank(process.rank, process.world_size, memory, cache=cache)
        mixing = Mixing(config.batch_size, config.lanes, config.window, config.seed)
        self.stream = TrainStream(dataset, FoldFilter(folds, fold), mixing, rank)
        self.held_out = RowStream(dataset, FoldFilter(folds, fold, inside=True), rank)
        self.objective = Objective(job.schema, job.statistics, self.recipe, process.device)
        self.prepare = Preparation(job.statistics, job.schema.sample_shape).to(process.device)
        self.model = make_model(job, fold).to(process.device)
        self.wrapped = process.wrap(self.model)
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.updates = math.ceil(self.stream.order.steps / self.recipe.accumulate)
        self.scheduler = make_scheduler(self.optimizer, self.recipe, self.updates * self.config.epochs)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.recipe.precision == "float16")
        self.state = FoldState()
        self.clock = Clock()

    def train(self, notify: Callable[[dict[str, Any]], None]) -> None:
        """Train to the end, from the last checkpoint if there is one, then write weights, predictions and the mark.

        `notify` gets the metrics of each epoch, on every rank.
        """
        self.restore()
        with self.open_logs() as logs:
            while self.state.epoch < self.config.epochs and not self.exhausted():
                trained = self.train_epoch()
                with self.clock.measure("evaluate"):
                    scores = self.evaluate()
                metrics = {"epoch": self.state.epoch + 1, **trained, **scores, "ranks": self.timings()}
                self.state.epoch += 1
                self.state.history.append(metrics)
                self.keep_best(metrics)
                if logs is not None:
                    self.write_logs(logs, metrics)
                    self.write_progress(0)
                    with self.clock.measure("checkpoint"):
                        save_checkpoint(self.folder.checkpoint, self.snapshot())
                notify(metrics)
        self.finish()

    def train_epoch(self) -> dict[str, float]:
        """One pass over the fold's training rows. Returns mean loss, rows, seconds."""
        self.stream.load_state_dict({"epoch": self.state.epoch, "step": 0})
        order = self.stream.order
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.process.device)
        started = shown = perf_counter()
        self.wrapped.train()
        for step, batch in enumerate(self.clock.waiting(self.stream)):
            loss_sum += self.train_step(batch, step, order.steps)
            if self.process.leads and perf_counter() - shown > PROGRESS_SECONDS:
                shown = perf_counter()
                self.write_progress((step + 1) / order.steps)
        seconds = perf_counter() - started
        self.clock.spent["compute"] += seconds - self.clock.spent["data_wait"]
        mean_loss = self.process.total(loss_sum).item() / (order.steps * self.process.world_size)
        return {
            "train_loss": mean_loss,
            "rows": order.steps * order.batch_size,
            "dropped": order.dropped,
            "seconds": seconds,
        }

    def timings(self) -> list[dict[str, float]]:
        """What each rank has spent its seconds on since the last call; «checkpoint» is that of the epoch before."""
        spent = self.clock.reset()
        return [dict(zip(spent, of_rank, strict=True)) for of_rank in self.process.collect(list(spent.values()))]

    def train_step(self, batch: Batch, step: int, steps: int) -> Tensor:
        """Forward, backward, and after `accumulate` batches (or the epoch's last) an update. Returns the loss."""
        recipe, process = self.recipe, self.process
        process.seed(seed_of(self.config.seed, self.fold, self.state.epoch * steps + step, process.rank))
        first_of_group = step - step % recipe.accumulate
        group = min(recipe.accumulate, steps - first_of_group)
        x, y = (tensor.to(process.device, non_blocking=True) for tensor in (batch.x, batch.y))
        with autocast(process.device, recipe.precision):
            loss = self.objective.loss(self.wrapped(self.prepare(x)), y)
        if step == first_of_group:  # only now: the backward pass then gets the memory that is still in the cache
            self.optimizer.zero_grad()
        self.scaler.scale(loss / group if group > 1 else loss).backward()  # type: ignore[no-untyped-call]
        if step + 1 == first_of_group + group:
            if recipe.clip_grad_norm:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()
        return loss.detach()

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Loss and metrics over all held-out rows, on every rank."""
        self.process.average_buffers(self.model)
        self.model.eval()
        metrics = make_metrics(self.job.schema).to(self.process.device)
        mean_loss = make_loss_metric().to(self.process.device)
        for batch in self.held_out:
            x, y = batch.x.to(self.process.device), batch.y.to(self.process.device)
            with autocast(self.process.device, self.recipe.precision):
                outputs = self.model(self.prepare(x))
            mean_loss.update(self.objective.loss(outputs, y), weight=len(y))
            predicted = self.objective.predict(outputs)
            metrics.update(predicted, y.long() if self.job.schema.classes else y.reshape(predicted.shape).float())
        return {"loss": float(mean_loss.compute()), **name_metrics(self.job.schema, metrics.compute())}

    def keep_best(self, metrics: dict[str, Any]) -> None:
        """With early stopping, remember the weights of the lowest validation loss."""
        if self.recipe.patience and metrics["loss"] < self.state.best.get("loss", math.inf):
            weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.state.best = {"loss": metrics["loss"], "epoch": self.state.epoch, "weights": weights}

    def exhausted(self) -> bool:
        """Whether early stopping says that it is enough."""
        return bool(self.recipe.patience and self.state.epoch - self.state.best.get("epoch", 0) >= self.recipe.patience)

    def snapshot(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {
            "epoch": self.state.epoch,
            "history": self.state.history,
            "best": self.state.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self) -> None:
        """Go back to the last checkpoint, if there is one."""
        state = load_checkpoint(self.folder.checkpoint, self.process.device)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.state = FoldState(state["epoch"], state["history"], state["best"])

    def finish(self) -> None:
        """Write the weights, this rank's predictions, and once all ranks have written theirs, the mark."""
        if self.state.best:
            self.model.load_state_dict(self.state.best["weights"])
        self.process.average_buffers(self.model)
        predictor = Predictor(self.model, self.prepare, self.objective, self.process.device)
        predict_fold(predictor, self.held_out, self.folder)
        if self.process.leads:
            save_weights(self.folder.weights, self.model)
        self.process.wait()
        if self.process.leads:
            final = self.state.history[self.state.best["epoch"] - 1 if self.state.best else -1]
            write_json(self.folder.done, {"fold": self.fold, "metrics": final, "history": self.state.history})
            self.folder.checkpoint.unlink()

    def write_progress(self, part_of_epoch: float) -> None:
        """Say how far the fold is, to whoever looks: the training does not wait for the disk."""
        progress = {
            "epochs": self.state.epoch + part_of_epoch,
            "history": self.state.history,
        }
        write_json(self.folder.progress, progress, durable=False)

    def open_logs(self) -> AbstractContextManager[SummaryWriter | None]:
        """TensorBoard's log on the rank that leads. An epoch that is done over after a kill replaces the first one."""
        if not self.process.leads:
            return nullcontext()
        folder, epoch = str(self.folder.tensorboard), self.state.epoch + 1
        logs: AbstractContextManager[SummaryWriter | None] = SummaryWriter(folder, purge_step=epoch)
        return logs

    def write_logs(self, logs: SummaryWriter, metrics: dict[str, Any]) -> None:
        """Write an epoch to TensorBoard."""
        epoch = int(metrics["epoch"])
        for rank, spent in enumerate(metrics["ranks"]):
            for name, seconds in spent.items():
                logs.add_scalar(f"seconds/{name}/rank-{rank}", seconds, epoch)
        for name in metrics.keys() - {"ranks"}:
            logs.add_scalar(name, metrics[name], epoch)
        logs.add_scalar("lr", self.scheduler.get_last_lr()[0], epoch)
        logs.flush()


class Clock:
    """Seconds that a rank spends waiting for data, computing (the rest of the training pass), and so on."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(("data_wait", "compute", "evaluate", "checkpoint"), 0.0)

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with the time that it takes to get them."""
        rest = iter(batches)
        while True:
            with self.measure("data_wait"):
                batch = next(rest, None)
            if batch is None:
                return
            yield batch

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


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's parameters.

    Adam's update in one pass over the memory («fused») takes a third of the time of torch's default, on a CPU too.
    """
    options: dict[str, Any] = {"momentum": recipe.momentum} if recipe.momentum else {}
    if recipe.optimizer in ("Adam", "AdamW") and all(p.is_floating_point() for p in model.parameters()):
        options["fused"] = True
    groups = parameter_groups(model, recipe.weight_decay)
    optimizer: torch.optim.Optimizer = getattr(torch.optim, recipe.optimizer)(groups, lr=recipe.lr, **options)
    return optimizer


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, updates: int) -> lr_scheduler.LRScheduler:
    """The recipe's schedule, stepped once an optimizer step, `updates` times in all."""
    match recipe.scheduler:
        case "OneCycleLR":
            return lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=updates + 1)
        case "CosineAnnealingLR":
            return lr_scheduler.CosineAnnealingLR(optimizer, updates)
        case "StepLR":
            return lr_scheduler.StepLR(optimizer, recipe.step_size, recipe.gamma)
        case "ExponentialLR":
            return lr_scheduler.ExponentialLR(optimizer, recipe.gamma)
        case _:
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def is_done(folder: FoldFolder) -> bool:
    """Whether a fold has been trained to its end."""
    return folder.done.exists()


def read_result(folder: FoldFolder) -> dict[str, Any]:
    """The result of a fold that is done: its number, final metrics, and the metrics of each epoch."""
    result: dict[str, Any] = read_json(folder.done)
    return result
