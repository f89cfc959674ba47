"""Simulates folds on nodes that fail, without training: the real schedule, driven by a virtual clock in hours.

- Nodes with one GPU fail by Poisson processes, and return after an exponentially distributed time. The hours of a fold
  are lognormally distributed. A fold keeps its completed epochs.
- An attempt starts when the schedule requests it, on the first free nodes. If it loses a node, Ray Train restarts its
  workers as soon as there are enough nodes, up to RESTARTS times. After PATIENCE without nodes, the coordinator
  considers it silent.
- Events arrive without delay. The coordinator never dies, and neither do the drivers.
"""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from foldstream.cluster.runs.schedule import (
    Ended,
    Event,
    NodeLost,
    NodeSeen,
    Resources,
    Schedule,
    Silent,
    Start,
    Status,
    TrainingUnit,
)

FOLDS, NODES, EPOCHS = 20, 64, 20
FOLD_HOURS, SPREAD = 4.0, 0.2  # mean of a fold's hours, standard deviation of their logarithm
REPAIR_HOURS = 0.5
RESTART_HOURS = 1 / 60  # from the loss of a worker until its fold trains again
RESTARTS, PATIENCE = 2, 600 / 3600  # MAX_FAILURES and START_SECONDS of training/ray/train.py, which loads Ray
BUSY, NONE_WAITS, TOO_FEW, WOULD_FIT = "busy", "no fold waits", "too few for a fold", "a fold would fit"
IDLE = (NONE_WAITS, TOO_FEW, WOULD_FIT)


@dataclass
class Attempt:
    """An attempt at a fold. It trains on `nodes` from `since` on. At `due` it is done or, without nodes, silent."""

    unit: str
    number: int
    nodes: set[int] = field(default_factory=set)
    since: float = math.inf
    due: float = math.inf
    restarts: int = 0


class Cluster:
    """Nodes that fail, folds that train, and the schedule, which receives every event and whose actions are performed.

    A fold requires `demand` nodes. A node fails `between_failures` hours after it has joined, on average.
    """

    def __init__(
        self,
        demand: int,
        between_failures: float,
        max_retries: int,
        seed: int,
        folds: int = FOLDS,
        nodes: int = NODES,
    ) -> None:
        self.demand, self.between_failures, self.draw = demand, between_failures, random.Random(seed)
        units = [TrainingUnit(f"fold-{fold}", (f"fold-{fold}",), Resources(gpus=demand)) for fold in range(folds)]
        self.nodes = nodes
        self.schedule = Schedule({unit.name: unit for unit in units}, max_retries)
        location = math.log(FOLD_HOURS) - SPREAD**2 / 2
        self.hours = {unit.name: self.draw.lognormvariate(location, SPREAD) for unit in units}
        self.epochs = dict.fromkeys(self.hours, 0)
        self.attempts: dict[str, Attempt] = {}
        self.alive: set[int] = set()
        self.free: set[int] = set()
        self.spent = dict.fromkeys((BUSY, *IDLE), 0.0)
        """Hours of live nodes: busy, or idle for one of three reasons."""
        self.now, self.serial = 0.0, 0
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []

    def run(self) -> None:
        """Run until each fold is done or given up."""
        for node in range(self.nodes):
            self.gain(node)
        while not self.schedule.finished:
            time, _, happen = heapq.heappop(self.agenda)
            self.count(time - self.now)
            self.now = time
            happen()

    def count(self, hours: float) -> None:
        """Account for the use of the nodes over some hours."""
        waits = self.schedule.units_with(Status.WAITING) or any(not one.nodes for one in self.attempts.values())
        reason = NONE_WAITS if not waits else TOO_FEW if len(self.free) < self.demand else WOULD_FIT
        self.spent[reason] += hours * len(self.free)
        self.spent[BUSY] += hours * len(self.alive - self.free)

    def later(self, hours: float, happen: Callable[[], None]) -> float:
        """Schedule an action in some hours. Returns its time."""
        self.serial += 1
        heapq.heappush(self.agenda, (self.now + hours, self.serial, happen))
        return self.now + hours

    def gain(self, node: int) -> None:
        """A node joins, until it fails."""
        self.alive.add(node)
        self.free.add(node)
        if self.between_failures < math.inf:
            self.later(self.draw.expovariate(1 / self.between_failures), partial(self.lose, node))
        self.take(NodeSeen(str(node), Resources(gpus=1)))

    def lose(self, node: int) -> None:
        """A node fails. Attempts with workers there restart them, or fail if they have restarted too often."""
        self.later(self.draw.expovariate(1 / REPAIR_HOURS), partial(self.gain, node))
        self.alive.remove(node)
        self.free.discard(node)
        events: list[Event] = [NodeLost(str(node))]
        for one in list(self.attempts.values()):
            if node in one.nodes:
                self.release(one)
                self.wait(one)
                one.restarts += 1
            if one.restarts > RESTARTS:
                self.drop(one)
                events.append(Ended(one.unit, one.number, "a node is gone"))
        self.take(*events)

    def take(self, *events: Event) -> None:
        """Pass events to the schedule, perform its actions, and give free nodes to waiting attempts, oldest first."""
        for event in events:
            for action in self.schedule.handle(event):
                if isinstance(action, Start):
                    one = Attempt(action.unit, action.attempt)
                    self.attempts[one.unit] = one
                    self.wait(one)
                else:
                    self.drop(self.attempts[action.unit])
            self.schedule.check_invariants()
        for one in self.attempts.values():
            if not one.nodes and len(self.free) >= self.demand:
                self.place(one)

    def wait(self, one: Attempt) -> None:
        """Let an attempt wait for nodes, for at most PATIENCE."""
        one.due = self.later(PATIENCE, partial(self.end, one))

    def place(self, one: Attempt) -> None:
        """Give an attempt the first free nodes, to train the remaining epochs of its fold."""
        one.nodes = set(sorted(self.free)[: self.demand])
        self.free -= one.nodes
        start = RESTART_HOURS if one.number + one.restarts > 1 else 0.0
        left = self.hours[one.unit] * (1 - self.epochs[one.unit] / EPOCHS)
        one.since, one.due = self.now + start, self.later(start + left, partial(self.end, one))

    def release(self, one: Attempt) -> None:
        """Release the nodes of an attempt. Its fold keeps its completed epochs."""
        self.epochs[one.unit] += int(max(0.0, self.now - one.since) / self.hours[one.unit] * EPOCHS)
        self.free |= one.nodes & self.alive
        one.nodes, one.since = set(), math.inf

    def drop(self, one: Attempt) -> None:
        """Remove an attempt."""
        self.release(one)
        del self.attempts[one.unit]

    def end(self, one: Attempt) -> None:
        """End an attempt that is done or has waited too long for nodes, unless its due time has changed since."""
        if self.attempts.get(one.unit) is not one or one.due != self.now:
            return
        if one.nodes:
            self.drop(one)
            self.take(Ended(one.unit, one.number))
        else:
            self.take(Silent(one.unit, one.number, PATIENCE * 3600))
