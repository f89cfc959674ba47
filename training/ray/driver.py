"""A fold's driver: it has Ray Train train folds together, and listens for workers that hang.

The command that starts drivers loads this, and not Ray Train, which takes seconds.
"""

from dataclasses import dataclass
from time import monotonic
from typing import Any

from .group import START_SECONDS, GroupRequest

LONGEST_TIMES = 5.0  # the longest pause so far, as a measure of silence for those that are slow by nature


@dataclass(frozen=True)
class Health:
    """How the workers of an attempt are."""

    silence: float
    """The seconds for which a process was silent, or all loops were, if that is too long; else 0."""
    deaths: tuple[str, ...]
    """Why workers were replaced, each time that they were."""


class FoldDriver:
    """Drives one Ray Train run, in an actor: several may run at once, and what it has started ends with it."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.deaths: tuple[str, ...] = ()
        self.alive: dict[int, float] = {}
        """When each worker's process was heard last."""
        self.beats: dict[int, tuple[float, float]] = {}
        """Of each worker's loop, when it was heard last, and for how long it may be silent."""

    def train(self, request: GroupRequest, driver: Any) -> None:
        """See `train_folds`; `driver` is this one, as others call it."""
        from .train import train_folds

        self._start()
        train_folds(request, driver)

    def replace(self, reason: str) -> None:
        """Workers have died, and all start anew."""
        self.deaths += (reason,)
        self._start()

    def _start(self) -> None:
        """None is heard for a while."""
        self.alive, self.beats = {}, {-1: (monotonic(), START_SECONDS)}

    def group(self) -> int:
        """The number of the workers that were started last: those of before are to be gone."""
        return len(self.deaths)

    def live(self, rank: int, group: int) -> None:
        """The process of a worker of a group says that it is there."""
        if group == self.group():
            self.alive[rank] = monotonic()

    def beat(self, rank: int, group: int, longest: float, working: bool) -> None:
        """The loop of a worker of a group says that it goes on; `longest` is the longest pause that it has made, in
        seconds. Raises RuntimeError for a worker that was replaced, so that it does not write."""
        if group != self.group():
            raise RuntimeError(f"worker {rank} was replaced")
        self.beats.pop(-1, None)
        self.beats[rank] = monotonic(), max(self.patience, LONGEST_TIMES * longest) if working else START_SECONDS

    def health(self) -> Health:
        """How the workers are."""
        return Health(self._silence(), self.deaths)

    def _silence(self) -> float:
        """A loop that waits for another one, which writes, is silent too: so one that goes on is enough."""
        now = monotonic()
        frozen = max((now - heard for heard in list(self.alive.values())), default=0.0)
        if frozen > self.patience:
            return frozen
        beats = list(self.beats.values())
        silent = all(now - heard > allowed for heard, allowed in beats)
        return min((now - heard for heard, _ in beats), default=0.0) if silent else 0.0
