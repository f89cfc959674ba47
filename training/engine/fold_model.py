"""One fold's model on one rank, and all that its training has made of it: step, evaluate, keep, go on.

All randomness is keyed by (seed, fold, step, share of the batch): a fold gives the same weights, to the last bit,
whether it is trained alone or with others from one pass, and whether it was cut short or not.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...storage.errors import RunError
from ...storage.places.json_files import write_json
from ..model.metrics import make_loss_metric, make_metrics, name_metrics
from ..model.objective import Normalizer, Objective, autocast, make_model
from ..model.optimizer import make_optimizer, make_scheduler
from ..model.prediction import Predictor
from ..model.weights import save_weights
from ..run import RunFold
from ..seeding import seed_of
from ..stream.batch import Batch
from .checkpoint import Checkpoints
from .event_logs import open_logs
from .process import Process
from .saving import EACH_EPOCH, Pace, Saving
from .shares import Rows, Shares

if TYPE_CHECKING:
    from .sharded import ShardedModel

PROGRESS_SECONDS, BUCKET_SECONDS = 1.0, 15.0  # between two words about progress: in a bucket each takes its time
LOSSES = {"train_loss": "training", "loss": "held-out"}


def _shard(model: nn.Module, process: Process) -> "ShardedModel":
    from .sharded import ShardedModel  # only here: it takes a second to load

    return ShardedModel(model, process)


@dataclass
class FoldState:
    """Where a fold's training stands: so many epochs are over, and steps of the next one up to an update."""

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    """With early stopping: the lowest validation loss, its epoch and its weights."""


class FoldModel:
    """A fold's model, with its optimizer and its state. An epoch has `rows` rows, so many that its batches are full;
    `dropped` are left over. It has a `number` among those that are trained together, and is `tried` on held-out rows
    if it has some."""

    def __init__(
        self, number: int, trained: RunFold, process: Process, kept: int, tried: bool, saving: Saving = EACH_EPOCH
    ) -> None:
        self.number, self.fold, self.process = number, trained.fold, process
        self.job, self.config, self.recipe = trained.job, trained.job.config, trained.job.config.recipe
        self.run, self.folder, self.tried = trained.run, trained.run.fold(trained.fold), tried
        self.steps, self.dropped = divmod(kept, self.config.batch_size)
        self.rows = kept - self.dropped
        self.objective = Objective(self.job.schema, self.job.statistics, self.recipe, process.device)
        self.prepare = Normalizer(self.job.statistics, self.job.schema.sample_shape).to(process.device)
        self.model = process.prepare(make_model(self.job, self.fold).to(process.device), self.recipe.sync_batchnorm)
        self.sharded = (
            _shard(self.model, process) if self.recipe.strategy == "fsdp" and process.world_size > 1 else None
        )
        self.trained = self.sharded.module if self.sharded else self.model
        self.shares = Shares(self.trained, [0], 1)
        self.wrapped = self.model
        self.forward = self.compiled(self.model)
        self.optimizer = make_optimizer(self.trained, self.recipe)
        self.updates = math.ceil(self.steps / self.recipe.accumulate)
        self.scheduler = make_scheduler(self.optimizer, self.recipe, self.updates * self.config.epochs)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.recipe.precision == "float16")
        self.state = FoldState()
        self.pause = BUCKET_SECONDS if self.folder.root.waits_for_network else PROGRESS_SECONDS
        self.pace, self.checkpoints = Pace(saving), Checkpoints(self.folder.checkpoints, saving.keep)
        self.saved_best = 0
        self.within: dict[str, Any] | None = None
        """What the shares of the epoch have that a checkpoint was written in, until it goes on."""
        self.losses = torch.zeros(1, dtype=torch.float64, device=process.device)
        self.began = self.shown = self.earlier = 0.0
        self.logs: Any = None

    @property
    def needs_all(self) -> bool:
        """Whether its steps are exchanges in which all ranks take part."""
        return self.sharded is not None or (self.recipe.sync_batchnorm and self.process.world_size > 1)

    @property
    def ended(self) -> bool:
        """Whether the last epoch is over, or early stopping says that it is enough."""
        patience, best = self.recipe.patience, self.state.best.get("epoch", 0)
        return self.state.epoch >= self.config.epochs or bool(patience and self.state.epoch - best >= patience)

    @property
    def steps_done(self) -> int:
        """Steps of all epochs, up to the last update."""
        return self.state.epoch * self.steps + self.state.step

    def begin_epoch(self, numbers: Sequence[int], count: int, together: bool) -> None:
        """Train the next epoch, or the rest of it, on the shares `numbers` of `count` of each batch; `together` with
        the other ranks, which have the other shares."""
        self.shares = Shares(self.trained, numbers, count)
        if together != (self.wrapped is not self.model):
            alike = self.trained if self.sharded else self.process.wrap(self.model)
            self.wrapped = alike if together else self.model
            self.forward = self.compiled(self.wrapped)
        self.losses = torch.zeros(len(numbers), dtype=torch.float64, device=self.process.device)
        self.began = self.shown = perf_counter()
        self.earlier = 0.0
        if self.within is not None:
            self.set_within(self.within)
            self.within = None
        self.wrapped.train()

    def train_step(self, parts: Sequence[Rows], step: int) -> None:
        """Forward and backward with the rows of each share, and after `accumulate` batches (or the epoch's last) an
        update."""
        recipe, process = self.recipe, self.process
        first_of_group = step - step % recipe.accumulate
        group = min(recipe.accumulate, self.steps - first_of_group)
        last_of_group = step + 1 == first_of_group + group
        for position, (number, (x, y)) in enumerate(zip(self.shares.numbers, parts, strict=True)):
            process.seed(seed_of(self.config.seed, self.fold, self.state.epoch * self.steps + step, number))
            with self.shares.share(position), self.exchange(last_of_group):
                x, y = (tensor.to(process.device, non_blocking=True) for tensor in (x, y))
                with autocast(process.device, recipe.precision):
                    loss = self.objective.loss(self.forward(self.prepare(x)), y)
                if step == first_of_group:  # only now: the backward pass then gets memory that is still in the cache
                    self.optimizer.zero_grad()
                self.scaler.scale(loss / group if group > 1 else loss).backward()  # type: ignore[no-untyped-call]
            self.losses[position] += loss.detach()
        if last_of_group:
            self.update()
            self.state.step = step + 1
        if perf_counter() - self.shown > self.pause:
            self.shown = perf_counter()
            if process.leads or self.wrapped is self.model:
                self.write_progress((step + 1) / self.steps)

    def compiled(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """What a training step calls: the model, compiled if the recipe says so, with the same parameters."""
        return torch.compile(model) if self.recipe.compile else model

    def exchange(self, wanted: bool) -> AbstractContextManager[None]:
        """Where the ranks train together: have the backward pass average gradients over them, if it is wanted."""
        if self.sharded:
            self.sharded.exchange(wanted)
        if isinstance(self.wrapped, DistributedDataParallel) and not wanted:
            return self.wrapped.no_sync()
        return nullcontext()

    def update(self) -> None:
        """An optimizer step by the gradients of all shares."""
        self.shares.merge_gradients()
        if self.recipe.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()

    def end_pass(self) -> float:
        """Average the buffers over all shares. Returns the mean loss of the epoch's steps over them."""
        if self.wrapped is self.model:
            self.shares.average_buffers()
            total = self.losses.sum()
        else:
            self.process.average_buffers(self.trained)
            if self.sharded:
                self.sharded.gather_weights(self.model)
            total = self.process.total(self.losses.sum())
        return total.item() / (self.steps * self.shares.count)

    def begin_evaluation(self) -> None:
        self.model.eval()
        self.metrics = make_metrics(self.job.schema).to(self.process.device)
        self.held_out_loss = make_loss_metric().to(self.process.device)

    @torch.inference_mode()
    def evaluate(self, batch: Batch) -> None:
        """Measure held-out rows."""
        x, y = batch.x.to(self.process.device), batch.y.to(self.process.device)
        with autocast(self.process.device, self.recipe.precision):
            outputs = self.model(self.prepare(x))
        self.held_out_loss.update(self.objective.loss(outputs, y), weight=len(y))
        predicted = self.objective.predict(outputs)
        self.metrics.update(predicted, y.long() if self.job.schema.classes else y.reshape(predicted.shape).float())

    def scores(self) -> dict[str, float]:
        """Loss and metrics over all ranks' held-out rows, for which each rank asks. None where there are no rows."""
        if not self.tried:
            return {}
        return {"loss": float(self.held_out_loss.compute()), **name_metrics(self.job.schema, self.metrics.compute())}

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """Take the metrics of an epoch, and with early stopping remember the weights of the lowest validation loss.

        Raises RunError where a loss is not finite: from there no step leads back.
        """
        state = self.state
        for name, words in LOSSES.items():
            if not math.isfinite(metrics.get(name, 0.0)):
                raise RunError(
                    f"{self.run.root}, fold {self.fold}, epoch {state.epoch + 1}: the {words} loss is {metrics[name]}, "
                    f"the training diverges; in a new run lower the learning rate (--set lr=…, it is "
                    f"{self.recipe.lr:g}), or clip the gradients (--set clip_grad_norm=1)"
                )
        if self.recipe.patience and metrics["loss"] < state.best.get("loss", math.inf):
            weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            state.best = {"loss": metrics["loss"], "epoch": state.epoch + 1, "weights": weights}
        state.epoch, state.step = state.epoch + 1, 0
        state.history.append(metrics)

    def training_state(self) -> dict[str, Any]:
        """What the next steps depend on, between two epochs."""
        if self.sharded:
            self.sharded.gather_weights(self.model)
        return {
            "model": self.model.state_dict(),
            "optimizer": self.sharded.gather_state(self.optimizer) if self.sharded else self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def set_training_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.sharded:
            self.sharded.set_state(state["model"], self.optimizer, state["optimizer"])
        else:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])

    def state_within(self) -> dict[str, Any]:
        """What the next steps depend on, between two updates of an epoch."""
        return {**self.training_state(), **self.state_of_shares()}

    def set_state_within(self, state: dict[str, Any]) -> None:
        self.set_training_state(state)
        self.losses.copy_(state["losses"])
        self.shares.set_buffers(state["buffers"])

    def state_of_shares(self) -> dict[str, Any]:
        """What this rank's shares have of their own, and the seconds that they have taken."""
        seconds = self.earlier + perf_counter() - self.began
        return {"buffers": self.shares.buffers, "losses": self.losses, "seconds": seconds}

    def set_within(self, state: dict[str, Any]) -> None:
        """Go on with what all shares had. If they are more now, some begin with the same."""
        chosen = [number % len(state["buffers"]) for number in self.shares.numbers]
        self.shares.set_buffers([state["buffers"][share] for share in chosen])
        self.losses.copy_(state["losses"][chosen])
        self.earlier = state["seconds"]

    def is_due(self) -> bool:
        """Whether a checkpoint is due after the last update, on the rank that writes it."""
        if self.state.step:
            return self.pace.is_due(self.steps_done, self.recipe.accumulate)
        last_group = (self.steps - 1) % self.recipe.accumulate + 1
        return self.ended or self.pace.is_due_after(self.state.epoch, self.steps_done, last_group)

    def save(self, within: dict[str, Any] | None = None) -> None:
        """Write the checkpoint: between two epochs, or in one, `within` which all shares have what is given. With a
        sharded model all ranks take part, and the one that leads writes.

        The best weights are part of it; for those who look they stand in a file of their own too.
        """
        state, training = self.state, self.training_state()
        self.pace.saved(self.steps_done)
        if self.sharded and not self.process.leads:
            return
        if state.best and state.best["epoch"] != self.saved_best:
            save_weights(self.folder.best, state.best["weights"])
            self.saved_best = state.best["epoch"]
        self.checkpoints.save(state.epoch, state.step, {**vars(state), **training, "within": within})

    def load(self) -> None:
        """Go back to the last checkpoint, if there is one."""
        if state := self.checkpoints.load():
            self.set_training_state(state)
            self.state = FoldState(*(state[name] for name in ("epoch", "step", "history", "best")))
            self.within, self.saved_best = state["within"], self.state.best.get("epoch", 0)
            self.pace.saved(self.steps_done)

    def final_predictor(self) -> Predictor:
        """The model as it is to predict: with early stopping, by its best weights."""
        if self.state.best:
            self.model.load_state_dict(self.state.best["weights"])
        return Predictor(self.model, self.prepare, self.objective, self.process.device)

    def finish(self) -> None:
        """Write weights and mark, now that all ranks have written their predictions."""
        weights = save_weights(self.folder.weights, self.model.state_dict())
        final = self.state.history[self.state.best["epoch"] - 1 if self.state.best else -1]
        result = {"fold": self.fold, "metrics": final, "history": self.state.history, "weights": weights}
        write_json(self.folder.done, result)

    def write_progress(self, part_of_epoch: float = 0.0) -> None:
        """Say how far the fold is, to whoever looks: the training does not wait for the disk."""
        progress = {"epochs": self.state.epoch + part_of_epoch, "time": time()}
        write_json(self.folder.progress, progress, durable=False)

    def write_history(self) -> None:
        """Say how the epochs so far went, to whoever looks."""
        write_json(self.folder.history, self.state.history, durable=False)
        self.write_progress()

    def write_logs(self) -> None:
        """Write the last epoch to TensorBoard. An epoch that is done over after a kill replaces the first one."""
        if self.logs is None:
            self.logs = open_logs(self.folder.tensorboard, self.state.epoch)
        metrics = self.state.history[-1]
        for rank, spent in enumerate(metrics["ranks"]):
            for name, seconds in spent.items():
                self.logs.add_scalar(f"seconds/{name}/rank-{rank}", seconds, self.state.epoch)
        for name in metrics.keys() - {"ranks"}:
            self.logs.add_scalar(name, metrics[name], self.state.epoch)
        self.logs.add_scalar("lr", self.scheduler.get_last_lr()[0], self.state.epoch)
        self.logs.flush()

    def close(self) -> None:
        if self.logs is not None:
            self.logs.close()
