"""When checkpoints are written, and how many of them are kept: `--checkpoint-every` and `--keep`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from ...storage.errors import UsageError


@dataclass(frozen=True)
class CheckpointPolicy:
    """A checkpoint every `every` units, which are epochs, steps or minutes. It does not affect what is trained."""

    every: float = 1
    unit: str = "epoch"
    keep: int = 1
    """How many of a fold's last checkpoints are kept."""


EACH_EPOCH = CheckpointPolicy()


def parse_checkpoint_policy(every: str, keep: int) -> CheckpointPolicy:
    """Parse the values of `--checkpoint-every` and `--keep`. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(epoch|step|minute)s?", every.strip())
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if number <= 0 or (unit != "minute" and number % 1):
        raise UsageError(
            f"--checkpoint-every '{every}': give a whole number of epochs or steps, or a number of minutes, as in "
            "'1 epoch', '500 steps' or '10 minutes'"
        )
    if keep < 1:
        raise UsageError(f"--keep {keep}: it must be at least 1")
    return CheckpointPolicy(number, unit, keep)


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
