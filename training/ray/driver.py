"""The driver of a group of folds: it trains them with Ray Train and detects workers that hang.

The command that starts drivers imports this module, so it does not import Ray Train, which takes seconds.
"""

from dataclasses import dataclass
from threading import Event
from time import monotonic
from typing import Any

from ..stopping import GRACE_SECONDS
from .group import START_SECONDS, GroupRequest

LONGEST_TIMES = 5.0  # how many times its longest pause so far a worker may be silent: some are slow by nature


@dataclass(frozen=True)
class Health:
    """The health of the workers of an attempt."""

    silence: float
    """Seconds for which a process, or every training loop, has been silent, if this is too long; otherwise 0."""
    deaths: tuple[str, ...]
    """The reason for each restart of the workers."""


class FoldDriver:
    """An actor that drives one Ray Train run. Several may run at once; everything an actor has started ends with it."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.deaths: tuple[str, ...] = ()
        self.alive: dict[int, float] = {}
        """When the process of each rank last reported."""
        self.heartbeats: dict[int, tuple[float, float]] = {}
        """When the training loop of each rank last sent a heartbeat, and for how many seconds it may be silent."""
        self.stopping, self.stopped = False, Event()
        """Whether the workers should stop and not be restarted, and whether they have stopped."""
        self.draining: frozenset[str] = frozenset()
        """The nodes that are about to be preempted."""

    def train(self, request: GroupRequest, driver: Any) -> None:
        """See `train_folds`; `driver` is the handle of this actor."""
        from .train import train_folds

        self._start()
        try:
            train_folds(request, driver)
        finally:
            self.stopped.set()

    def replace(self, reason: str) -> None:
        """Record that all workers are restarted, and why."""
        self.deaths += (reason,)
        self._start()

    def _start(self) -> None:
        """Allow the workers to be silent while they start."""
        self.alive, self.heartbeats = {}, {-1: (monotonic(), START_SECONDS)}

    def group(self) -> int:
        """Number of the current worker group. Workers of earlier groups must stop."""
        return len(self.deaths)

    def stop(self) -> None:
        """Make the workers write checkpoints and stop. Returns once they have stopped; immediately if they have not
        begun."""
        self.stopping = True
        if self.alive:
            self.stopped.wait(GRACE_SECONDS)

    def note_stopped(self) -> bool:
        """Record that the workers have stopped. Returns whether this driver asked them to stop, in which case they must
        not be restarted."""
        if self.stopping:
            self.stopped.set()
        return self.stopping

    def leave(self, nodes: frozenset[str]) -> None:
        """Make workers on these nodes stop, so that all workers are restarted elsewhere from new checkpoints."""
        self.draining = nodes

    def report_alive(self, rank: int, group: int, node: str) -> bool:
        """Called by the process of a worker, whatever its training loop does. Returns whether it should stop."""
        if group == self.group():
            self.alive[rank] = monotonic()
        return self.stopping or node in self.draining

    def heartbeat(self, rank: int, group: int, longest: float, working: bool) -> None:
        """Called by the training loop of a worker; `longest` is its longest pause so far, in seconds.

        Raises RuntimeError for a worker that was replaced, so that it does not write.
        """
        if group != self.group():
            raise RuntimeError(f"worker {rank} was replaced")
        self.heartbeats.pop(-1, None)
        allowed = max(self.patience, LONGEST_TIMES * longest) if working else START_SECONDS
        self.heartbeats[rank] = monotonic(), allowed

    def health(self) -> Health:
        """The current health of the workers."""
        return Health(self._silence(), self.deaths)

    def _silence(self) -> float:
        """Seconds of silence. A loop that waits for another one to write is also silent, so one active loop is
        enough."""
        now = monotonic()
        frozen = max((now - heard for heard in list(self.alive.values())), default=0.0)
        if frozen > self.patience:
            return frozen
        heartbeats = list(self.heartbeats.values())
        silent = all(now - heard > allowed for heard, allowed in heartbeats)
        return min((now - heard for heard, _ in heartbeats), default=0.0) if silent else 0.0
