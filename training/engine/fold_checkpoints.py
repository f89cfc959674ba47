"""The progress of a fold's training, its checkpoints, and when they are due."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from ..config import CheckpointPolicy
from ..model.weights import save_weights
from ..run import FoldFolder
from .checkpoint import Checkpoints
from .learner import Learner


@dataclass(eq=False)
class FoldState:
    """The progress of a fold's training: `epoch` complete epochs, and `step` steps of the next one, up to an update.

    An epoch has `steps` steps. The training ends after `epochs` epochs, or with early stopping once the monitored
    metric has not improved for `patience` epochs.
    """

    steps: int
    epochs: int
    patience: int
    monitored: str = "loss"
    higher_is_better: bool = False
    """Whether that holds for the monitored metric."""
    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of each epoch."""
    best: dict[str, Any] = field(default_factory=dict)
    """With early stopping: the best `score`, of which higher is better, its epoch and its weights."""

    @property
    def ended(self) -> bool:
        """Whether training has ended."""
        stopped = self.patience and self.epoch - self.best.get("epoch", 0) >= self.patience
        return self.epoch >= self.epochs or bool(stopped)

    @property
    def steps_done(self) -> int:
        """Steps of all epochs, up to the last update."""
        return self.epoch * self.steps + self.step

    def improves(self, metrics: dict[str, Any]) -> bool:
        """Whether early stopping is on, and an epoch's monitored metric is the best one so far."""
        return bool(self.patience) and self.score(metrics) > self.best.get("score", -math.inf)

    def score(self, metrics: dict[str, Any]) -> float:
        """An epoch's monitored metric, as a number of which higher is better."""
        value = float(metrics[self.monitored])
        return value if self.higher_is_better else -value

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """Add a complete epoch."""
        self.epoch, self.step = self.epoch + 1, 0
        self.history.append(metrics)

    @property
    def final_metrics(self) -> dict[str, Any]:
        """The metrics of the best epoch with early stopping, otherwise of the last one."""
        return self.history[self.best["epoch"] - 1 if self.best else -1]

    def stored(self) -> dict[str, Any]:
        """The part of this state that a checkpoint stores."""
        return {"epoch": self.epoch, "step": self.step, "history": self.history, "best": self.best}

    def restore(self, values: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.epoch, self.step, self.history, self.best = (values[name] for name in self.stored())


class CheckpointSchedule:
    """When a fold's next checkpoint is due. Steps are counted over all epochs; `clock` returns seconds."""

    def __init__(self, policy: CheckpointPolicy, clock: Callable[[], float] = perf_counter) -> None:
        self.policy, self.clock = policy, clock
        self.check_at = 0
        """The step before which ranks that train together need not query the main rank's clock."""
        self.note_saved(0)

    def note_saved(self, step: int) -> None:
        """Record that a checkpoint was written or loaded after `step` steps."""
        self.saved_at, self.saved_step = self.clock(), step

    def is_due(self, step: int, since: int) -> bool:
        """Whether a checkpoint is due after `step` steps but was not `since` steps ago, by steps or by the clock."""
        match self.policy.unit:
            case "step":
                return step // self.policy.every > (step - since) // self.policy.every
            case "minute":
                return self.clock() - self.saved_at >= 60 * self.policy.every
        return False

    def is_due_after(self, epoch: int, step: int, since: int) -> bool:
        """Like `is_due`, at the end of an epoch."""
        return self.is_due(step, since) or (self.policy.unit == "epoch" and epoch % self.policy.every == 0)

    def check_clock(self, step: int) -> tuple[bool, int]:
        """Whether a checkpoint is due by the clock, and the number of steps until the next check, which take half of
        the remaining time."""
        due = self.is_due(step, 0)
        passed = self.clock() - self.saved_at
        left = 60 * self.policy.every - (0 if due else passed)
        return due, max(1, int(left / 2 * (step - self.saved_step) / passed))


class FoldCheckpoints:
    """A fold's checkpoints: when one is due, what it contains, and how training resumes from it."""

    def __init__(self, folder: FoldFolder, policy: CheckpointPolicy, state: FoldState, learner: Learner) -> None:
        self.folder, self.state, self.learner = folder, state, learner
        self.schedule = CheckpointSchedule(policy)
        self.files = Checkpoints(folder.checkpoints, policy.keep, learner.network.sharded)
        self.saved_best = 0
        """The epoch of the weights in the file of the best weights."""

    def is_due(self) -> bool:
        """Whether a checkpoint is due after the last update, on the rank that writes it."""
        state, accumulate = self.state, self.learner.network.recipe.accumulate
        if state.step:
            return self.schedule.is_due(state.steps_done, accumulate)
        since = (state.steps - 1) % accumulate + 1  # steps of the epoch's last update
        return state.ended or self.schedule.is_due_after(state.epoch, state.steps_done, since)

    def save(self, within: dict[str, Any] | None = None) -> None:
        """Write a checkpoint between two epochs, or within one, in which case `within` is the state of all shares.

        With a sharded model all ranks must call this together, each with the state `within` of its own share. The best
        weights are part of a checkpoint; they are also written to a separate file, for monitoring.
        """
        state, training = self.state, self.learner.state()
        self.schedule.note_saved(state.steps_done)
        if state.best and state.best["epoch"] != self.saved_best:
            self._save_best(state.best["weights"])
            self.saved_best = state.best["epoch"]
        self.files.save(state.epoch, state.step, {**state.stored(), **training, "within": within})

    def _save_best(self, weights: dict[str, Any]) -> None:
        network = self.learner.network
        if network.sharded:
            network.sharded.save_weights(self.folder.best, weights)
        else:
            save_weights(self.folder.best, weights)

    def load(self) -> None:
        """Resume from the last checkpoint, if one exists."""
        if stored := self.files.load():
            self.learner.schedule.resume(stored["epoch"], stored["step"])
            self.learner.set_state(stored)
            self.state.restore(stored)
            self.learner.pending, self.saved_best = stored["within"], self.state.best.get("epoch", 0)
            self.schedule.note_saved(self.state.steps_done)
