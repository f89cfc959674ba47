"""When a fold's checkpoints are due, by its policy."""

from collections.abc import Callable
from time import perf_counter

from ..config import CheckpointPolicy


class CheckpointSchedule:
    """When a fold's next checkpoint is due. Steps count over all of its epochs; `clock` gives seconds."""

    def __init__(self, policy: CheckpointPolicy, clock: Callable[[], float] = perf_counter) -> None:
        self.policy, self.clock = policy, clock
        self.check_at = 0
        """The step before which ranks that train together need not ask for the main rank's clock."""
        self.note_saved(0)

    def note_saved(self, step: int) -> None:
        """A checkpoint was written, or loaded, after so many steps."""
        self.saved_at, self.saved_step = self.clock(), step

    def is_due(self, step: int, since: int) -> bool:
        """Whether one is due after `step` steps but was not `since` steps ago, by their number or by the clock."""
        match self.policy.unit:
            case "step":
                return step // self.policy.every > (step - since) // self.policy.every
            case "minute":
                return self.clock() - self.saved_at >= 60 * self.policy.every
        return False

    def is_due_after(self, epoch: int, step: int, since: int) -> bool:
        """The same at the end of an epoch."""
        return self.is_due(step, since) or (self.policy.unit == "epoch" and epoch % self.policy.every == 0)

    def check_clock(self, step: int) -> tuple[bool, int]:
        """Whether one is due by the clock, and the number of steps until the next check: as many as take half of the
        time that is left."""
        due = self.is_due(step, 0)
        passed = self.clock() - self.saved_at
        left = 60 * self.policy.every - (0 if due else passed)
        return due, max(1, int(left / 2 * (step - self.saved_step) / passed))
