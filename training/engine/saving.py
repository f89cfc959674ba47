"""When checkpoints are written, and how many of them stay: `--checkpoint-every` and `--keep`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from ...storage.errors import UsageError


@dataclass(frozen=True)
class Saving:
    """A checkpoint after `every` so many units, which are epochs, steps or minutes. It changes nothing in what is
    trained."""

    every: float = 1
    unit: str = "epoch"
    keep: int = 1
    """Checkpoints of a fold that stay: the last ones."""


EACH_EPOCH = Saving()


def parse_saving(every: str, keep: int) -> Saving:
    """`--checkpoint-every` and `--keep`. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(epoch|step|minute)s?", every.strip())
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if number <= 0 or (unit != "minute" and number % 1):
        raise UsageError(
            f"--checkpoint-every «{every}»: give a whole number of epochs or steps, or a number of minutes, as in "
            "«1 epoch», «500 steps» or «10 minutes»"
        )
    if keep < 1:
        raise UsageError(f"--keep {keep}: it must be at least 1")
    return Saving(number, unit, keep)


class Pace:
    """Says of one fold when a checkpoint is due. Steps are those of all its epochs; `clock` gives seconds."""

    def __init__(self, saving: Saving, clock: Callable[[], float] = perf_counter) -> None:
        self.saving, self.clock = saving, clock
        self.look_at = 0
        """The step before which ranks that train together need not ask the leader's clock."""
        self.saved(0)

    def saved(self, step: int) -> None:
        """One was written, or read, after so many steps."""
        self.saved_at, self.saved_step = self.clock(), step

    def is_due(self, step: int, since: int) -> bool:
        """Whether one is due after `step` steps, `since` so many of which it was not: by their number or the clock."""
        match self.saving.unit:
            case "step":
                return step // self.saving.every > (step - since) // self.saving.every
            case "minute":
                return self.clock() - self.saved_at >= 60 * self.saving.every
        return False

    def is_due_after(self, epoch: int, step: int, since: int) -> bool:
        """The same at the end of an epoch."""
        return self.is_due(step, since) or (self.saving.unit == "epoch" and epoch % self.saving.every == 0)

    def look(self, step: int) -> tuple[bool, int]:
        """Whether one is due by the clock, and after how many steps to look again: as many as half of the time that is
        left will take."""
        due = self.is_due(step, 0)
        passed = self.clock() - self.saved_at
        left = 60 * self.saving.every - (0 if due else passed)
        return due, max(1, int(left / 2 * (step - self.saved_step) / passed))
