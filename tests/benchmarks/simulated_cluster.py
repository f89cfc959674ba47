"""Folds on nodes that fail, with no training: the product's schedule is told what happens by a virtual clock, in hours.

- Nodes of one GPU fail by Poisson processes and are back after a time of exponential distribution. The hours of folds
  are lognormal. A fold keeps the epochs that it has finished.
- An attempt begins when the schedule says so and takes the first free nodes. If it loses one of them, Ray Train begins
  its workers again as soon as nodes suffice, RESTARTS times. After PATIENCE without nodes the coordinator finds it
  silent.
- News comes at once. The coordinator never dies, and with it live the drivers.
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
RESTART_HOURS = 1 / 60  # until the workers of a fold that lost one train again
RESTARTS, PATIENCE = 2, 600 / 3600  # MAX_FAILURES and START_SECONDS of training/ray/train.py, which loads Ray
BUSY, NONE_WAITS, TOO_FEW, WOULD_FIT = "busy", "no fold waits", "too few for a fold", "a fold would fit"
IDLE = (NONE_WAITS, TOO_FEW, WOULD_FIT)


@dataclass
class Attempt:
    """An attempt at a fold. On its nodes it trains from `since` on; it is over at `due`, or silent if it has none."""

    unit: str
    number: int
    nodes: set[int] = field(default_factory=set)
    since: float = math.inf
    due: float = math.inf
    restarts: int = 0


class Cluster:
    """Nodes that fail, folds that take their time, and the schedule, which is told everything and obeyed.

    A fold demands `demand` nodes; a node fails `between_failures` hours after it was there, in the mean.
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
        """Hours of the nodes that are there: busy, or idle for one of three reasons."""
        self.now, self.serial = 0.0, 0
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []

    def run(self) -> None:
        """Go on until each fold is done or given up."""
        for node in range(self.nodes):
            self.gain(node)
        while not self.schedule.finished:
            time, _, happen = heapq.heappop(self.agenda)
            self.count(time - self.now)
            self.now = time
            happen()

    def count(self, hours: float) -> None:
        """Add up what the nodes have done for some hours."""
        waits = self.schedule.units_with(Status.WAITING) or any(not one.nodes for one in self.attempts.values())
        reason = NONE_WAITS if not waits else TOO_FEW if len(self.free) < self.demand else WOULD_FIT
        self.spent[reason] += hours * len(self.free)
        self.spent[BUSY] += hours * len(self.alive - self.free)

    def later(self, hours: float, happen: Callable[[], None]) -> float:
        """Have something happen in some hours. Returns when that is."""
        self.serial += 1
        heapq.heappush(self.agenda, (self.now + hours, self.serial, happen))
        return self.now + hours

    def gain(self, node: int) -> None:
        """A node is there, until it fails."""
        self.alive.add(node)
        self.free.add(node)
        if self.between_failures < math.inf:
            self.later(self.draw.expovariate(1 / self.between_failures), partial(self.lose, node))
        self.take(NodeSeen(str(node), Resources(gpus=1)))

    def lose(self, node: int) -> None:
        """A node fails: attempts that had workers there begin them again, or fail if they have done so too often."""
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
        """Tell the schedule, do what it says, and give free nodes to attempts that have none, the oldest first."""
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
        """For nodes, with patience."""
        one.due = self.later(PATIENCE, partial(self.end, one))

    def place(self, one: Attempt) -> None:
        """An attempt gets the first free nodes, and trains the epochs that its fold has left."""
        one.nodes = set(sorted(self.free)[: self.demand])
        self.free -= one.nodes
        start = RESTART_HOURS if one.number + one.restarts > 1 else 0.0
        left = self.hours[one.unit] * (1 - self.epochs[one.unit] / EPOCHS)
        one.since, one.due = self.now + start, self.later(start + left, partial(self.end, one))

    def release(self, one: Attempt) -> None:
        """An attempt has no nodes any more; the epochs that it has finished stay."""
        self.epochs[one.unit] += int(max(0.0, self.now - one.since) / self.hours[one.unit] * EPOCHS)
        self.free |= one.nodes & self.alive
        one.nodes, one.since = set(), math.inf

    def drop(self, one: Attempt) -> None:
        """An attempt is no more."""
        self.release(one)
        del self.attempts[one.unit]

    def end(self, one: Attempt) -> None:
        """An attempt is done, or was without nodes for too long, unless something has come between."""
        if self.attempts.get(one.unit) is not one or one.due != self.now:
            return
        if one.nodes:
            self.drop(one)
            self.take(Ended(one.unit, one.number))
        else:
            self.take(Silent(one.unit, one.number, PATIENCE * 3600))
