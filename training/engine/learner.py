"""A fold's network on one rank, its optimizer, and the training step.

All randomness is keyed by (seed, fold, step, share of the batch): a fold gets bit-identical weights whether it is
trained alone or in one pass with others, and whether it was interrupted or not.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...storage.errors import UsageError
from ..config import Recipe
from ..model.augmentation import Augmentation
from ..model.objective import Normalizer, Objective, autocast
from ..model.optimizer import make_scheduler, step_schedule
from ..run import RunFold
from ..seeding import seed_of
from ..stream.order import Batches
from ..zoo.model_errors import errors_of_model
from .process import Process
from .shares import EpochPass, Rows, Shares

if TYPE_CHECKING:
    from .sharded import ShardedModel

AUGMENTATION = 6  # keeps its random numbers apart from those of a model


class Network:
    """A fold's model in the forms in which a rank uses it.

    `model` is the full model. `module` has the parameters that the optimizer updates: the model, or its sharded twin.
    `wrapped` is the module that a pass trains: the model, or the wrapper that averages gradients over the ranks.
    """

    def __init__(self, model: nn.Module, sharded: "ShardedModel | None", process: Process, recipe: Recipe) -> None:
        self.model, self.sharded, self.process, self.recipe = model, sharded, process, recipe
        self.module = sharded.module if sharded else model
        self.wrapped = model
        self.forward = self._compiled(model)

    @property
    def needs_all_ranks(self) -> bool:
        """Whether a step needs communication between all ranks."""
        return self.sharded is not None or (self.recipe.sync_batchnorm and self.process.world_size > 1)

    @property
    def together(self) -> bool:
        """Whether this rank trains the network together with the others."""
        return self.wrapped is not self.model

    def begin_pass(self, together: bool) -> None:
        """Prepare for a pass that trains the network on this rank, or `together` with the other ranks."""
        if together != self.together:
            self.wrapped = self._averaged() if together else self.model
            self.forward = self._compiled(self.wrapped)
        self.wrapped.train()

    def _averaged(self) -> nn.Module:
        """The wrapper that averages gradients over the ranks.

        Buffers are not synchronized at each step, because that would mean waiting for the slowest rank a second time.
        """
        if self.sharded:
            return self.module
        unused = self.recipe.find_unused_parameters
        return DistributedDataParallel(self.model, broadcast_buffers=False, find_unused_parameters=unused)

    def _compiled(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """The callable for a training step: the model, compiled if the recipe says so, with the same parameters."""
        return torch.compile(model) if self.recipe.compile else model

    def averaging(self, wanted: bool) -> AbstractContextManager[None]:
        """If the ranks train together, make the backward pass average gradients over them if `wanted`."""
        if self.sharded:
            self.sharded.average_gradients(wanted)
        if isinstance(self.wrapped, DistributedDataParallel) and not wanted:
            return self.wrapped.no_sync()
        return nullcontext()

    def end_pass(self, shares: Shares, loss: Tensor) -> Tensor:
        """Average the running statistics over all shares. Returns the sum of the loss over the shares."""
        if not self.together:
            shares.average_buffers()
            return loss
        for buffer in self.module.buffers():
            self.process.average(buffer)
        self.gather_weights()
        return self.process.all_reduce(loss)

    def gather_weights(self) -> None:
        """Copy the current weights to the full model, if another form was trained."""
        if self.sharded:
            self.sharded.gather_weights(self.model)

    def use_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy other weights of `module` to the full model. With a sharded model all ranks must call this together."""
        if self.sharded:
            from .sharded import gather_weights

            gather_weights(weights, self.model)
        else:
            self.model.load_state_dict(weights)

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The weights and the optimizer's state: of a sharded model, this rank's part."""
        return {"model": self.module.state_dict(), "optimizer": optimizer.state_dict()}

    def set_state(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Set the weights and the optimizer's state. With a sharded model all ranks must call this together."""
        if self.sharded:
            self.sharded.set_state(state["model"], optimizer, state["optimizer"])
            self.gather_weights()
            return
        self.model.load_state_dict(state["model"])
        of_optimizer = state["optimizer"]
        if self.recipe.strategy == "fsdp":  # several ranks may have saved it
            from .sharded import fit_state

            of_optimizer = fit_state(of_optimizer, optimizer)
        optimizer.load_state_dict(of_optimizer)


def with_sync_batchnorm(model: nn.Module, process: Process) -> nn.Module:
    """The model with batch norm over the global batch. Raises UsageError if torch does not support this."""
    if process.world_size == 1:
        return model
    if process.device.type != "cuda":
        raise UsageError("--set sync_batchnorm=true: torch supports this only on GPUs; remove the setting")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]


class RateSchedule:
    """A recipe's learning rate schedule, which restarts wherever the number of epochs was increased.

    Args:
        optimizer: The optimizer, newly created.
        recipe: The recipe.
        updates: Optimizer steps in an epoch.
        ends: The epochs after which a course of the schedule ends, the last of them that of the training.
        mode: Whether the better values of the monitored metric are the lower or the higher ones.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        updates: int,
        ends: Sequence[int],
        mode: Literal["min", "max"] = "min",
    ) -> None:
        self.optimizer, self.recipe, self.updates, self.ends, self.mode = optimizer, recipe, updates, ends, mode
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self._start(0)

    def begin_epoch(self, epoch: int) -> None:
        """Restart the schedule if the last course ended before this epoch, counted from 0."""
        if epoch in self.ends[:-1]:
            self._start(self.ends.index(epoch) + 1)

    def resume(self, epoch: int, step: int) -> None:
        """Prepare for the state after `epoch` epochs and `step` steps of the next one."""
        if course := sum(end < epoch or (end == epoch and step > 0) for end in self.ends[:-1]):
            self._start(course)

    def step(self, metric: float | None = None) -> None:
        """See `step_schedule`."""
        step_schedule(self.now, metric)

    def _start(self, course: int) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.rates, strict=True):
            group.pop("initial_lr", None)
            group["lr"] = lr
        first = self.ends[course - 1] if course else 0
        updates = self.updates * (self.ends[course] - first)
        self.now = make_scheduler(self.optimizer, self.recipe, updates, self.mode)
        """torch's schedule of the current course."""


@dataclass(eq=False)
class Learner:
    """Trains a fold's network on the batches of each epoch, with an update after every few batches."""

    run_fold: RunFold
    batches: Batches
    network: Network
    prepare: Normalizer
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: RateSchedule
    scaler: torch.amp.GradScaler
    augmentation: Augmentation
    current: EpochPass = field(init=False)
    """The epoch that is currently being trained, or was trained last."""
    pending: dict[str, Any] | None = field(default=None, init=False)
    """The state of the shares in a checkpoint that was written within an epoch, until the epoch is resumed."""

    def begin_pass(self, numbers: Sequence[int], count: int, together: bool) -> None:
        """Begin or resume the next epoch, with the shares `numbers` out of `count` of each batch; `together` with the
        other ranks, which have the other shares."""
        shares = Shares(self.network.module, numbers, count)
        self.network.begin_pass(together)
        self.current = EpochPass(shares, self.network.process.device)
        if self.pending is not None:
            self.current.resume(self.pending)
            self.pending = None

    def begins_update(self, step: int) -> bool:
        """Whether a step's gradients are the first of an update."""
        return step % self.network.recipe.accumulate == 0

    def in_update(self, step: int) -> int:
        """Number of batches whose gradients are accumulated for the update of a step; fewer at the end of an epoch."""
        accumulate = self.network.recipe.accumulate
        return min(accumulate, self.batches.steps - (step - step % accumulate))

    def ends_update(self, step: int) -> bool:
        """Whether a step is the last one of an update."""
        return self.begins_update(step + 1) or step + 1 == self.batches.steps

    def add_gradients(self, parts: Sequence[Rows], epoch: int, step: int) -> None:
        """Run the forward and backward pass with the rows of each share."""
        network, current = self.network, self.current
        process, (size,) = network.process, self.batches.sizes(range(step, step + 1))
        for position, (number, rows) in enumerate(zip(current.shares.numbers, parts, strict=True)):
            x, y, *weight = self.seeded(rows, epoch, step, number)
            # The shares' means are averaged, so those of unequal shares count by their rows.
            divisor = self.in_update(step) * size / (len(y) * current.shares.count)
            with current.shares.share(position), network.averaging(self.ends_update(step)):
                with autocast(process.device, network.recipe.precision):
                    with errors_of_model("forward pass"):
                        outputs = network.forward(self.prepare(x))
                    with errors_of_model("loss"):
                        loss = self.objective(outputs, y, *weight)
                if self.begins_update(step):  # only now: the backward pass then gets memory that is still in the cache
                    self.optimizer.zero_grad()
                with errors_of_model("backward pass"):
                    self.scaler.scale(loss / divisor if divisor != 1 else loss).backward()
            current.add_loss(position, loss, len(y))

    def seeded(self, rows: Rows, epoch: int, step: int, share: int) -> Rows:
        """Seed torch's generators for a share of a batch and augment its rows."""
        keys = self.run_fold.job.config.seed, self.run_fold.fold, epoch * self.batches.steps + step, share
        self.network.process.seed(seed_of(*keys))
        x, y, *weight = rows
        return (*self.augmentation(x, y, seed_of(AUGMENTATION, *keys)), *weight)

    def update(self) -> None:
        """Run an optimizer step with the gradients of all shares."""
        self.current.shares.merge_gradients()
        if limit := self.network.recipe.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.module.parameters(), limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()

    def end_pass(self) -> float:
        """Average the buffers over all shares. Returns the mean loss of the epoch's rows."""
        self.current.keep()
        loss = self.network.end_pass(self.current.shares, self.current.losses.sum()).item() / self.batches.rows
        return self.objective.in_units(loss)

    def state(self) -> dict[str, Any]:
        """The state that the next steps depend on, between two epochs."""
        schedule = {"scheduler": self.schedule.now.state_dict(), "scaler": self.scaler.state_dict()}
        return {**self.network.state(self.optimizer), **schedule}

    def set_state(self, state: dict[str, Any]) -> None:
        self.network.set_state(state, self.optimizer)
        self.schedule.now.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])

    def state_within(self) -> dict[str, Any]:
        """The state that the next steps depend on, between two updates of an epoch."""
        return {**self.state(), **self.current.state()}

    def set_state_within(self, state: dict[str, Any]) -> None:
        self.set_state(state)
        self.current.set_state(state)
