"""The coordinator's state machine: single decisions, and a thousand random schedules with every kind of failure."""

import heapq
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from foldstream.cluster.runs.schedule import (
    Action,
    Ended,
    Event,
    NodeLost,
    NodeSeen,
    Observed,
    Resources,
    Restarted,
    Schedule,
    Silent,
    Start,
    Status,
    Stop,
    TrainingUnit,
)

from ..benchmarks.simulated_cluster import BUSY, WOULD_FIT, Cluster

NODE = Resources(cpus=4)


def make(folds: int = 3, cpus: float = 2, max_retries: int = 2) -> Schedule:
    units = {f"fold {i}": TrainingUnit(f"fold {i}", (f"fold {i}",), Resources(cpus)) for i in range(folds)}
    return Schedule(units, max_retries)


def take(schedule: Schedule, *events: Event) -> list[Action]:
    actions = [action for event in events for action in schedule.handle(event)]
    schedule.check_invariants()
    return actions


def test_as_many_units_start_as_fit_on_the_nodes() -> None:
    schedule = make(5)
    assert take(schedule) == []
    assert take(schedule, NodeSeen("a", NODE)) == [Start("fold 0", 1), Start("fold 1", 1)]
    assert take(schedule, NodeSeen("a", NODE)) == []
    assert take(schedule, NodeSeen("b", Resources(3))) == [Start("fold 2", 1)]
    assert take(schedule, Ended("fold 1", 1)) == [Start("fold 3", 1)]


def test_nothing_starts_on_a_lost_node() -> None:
    schedule = make(3)
    take(schedule, NodeSeen("a", NODE), NodeSeen("b", NODE), NodeLost("b"))
    assert take(schedule, Ended("fold 0", 1)) == []
    assert take(schedule, Ended("fold 1", 1), Ended("fold 2", 1)) == []
    assert schedule.finished


def test_a_failed_unit_is_retried_and_then_given_up() -> None:
    schedule = make(1)
    take(schedule, NodeSeen("a", NODE))
    assert take(schedule, Ended("fold 0", 1, "no")) == [Start("fold 0", 2)]
    assert take(schedule, Ended("fold 0", 1, "late")) == []
    assert take(schedule, Silent("fold 0", 2, 31)) == [Stop("fold 0", 2), Start("fold 0", 3)]
    assert take(schedule, Ended("fold 0", 3, "still no")) == []
    assert schedule.finished
    assert schedule.states["fold 0"].error == "still no"
    assert schedule.units_with(Status.FAILED) == ["fold 0"]


def test_the_other_units_continue_when_one_is_given_up() -> None:
    schedule = make(2, cpus=4, max_retries=0)
    take(schedule, NodeSeen("a", NODE))
    assert take(schedule, Ended("fold 0", 1, "no")) == [Start("fold 1", 1)]


def test_a_vanished_attempt_is_retried_and_an_unknown_one_is_stopped() -> None:
    schedule = make(1)
    take(schedule, NodeSeen("a", NODE))
    assert take(schedule, Observed(frozenset({("fold 0", 1)}))) == []
    assert take(schedule, Observed(frozenset({("fold 0", 7)}))) == [Stop("fold 0", 7), Start("fold 0", 2)]


def test_a_restart_of_the_coordinator_is_not_a_failure() -> None:
    schedule = make(1, max_retries=0)
    take(schedule, NodeSeen("a", NODE))
    assert take(schedule, Restarted()) == []
    assert take(schedule, NodeSeen("b", NODE)) == [Start("fold 0", 2)]
    assert schedule.states["fold 0"].failures == 0


def test_a_lost_node_grants_an_extra_retry_in_either_order_of_events() -> None:
    schedule = make(1, max_retries=1)
    take(schedule, NodeSeen("a", NODE), NodeSeen("b", NODE), NodeSeen("c", NODE))
    assert take(schedule, NodeLost("c"), Ended("fold 0", 1, "its workers are gone")) == [Start("fold 0", 2)]
    assert take(schedule, Ended("fold 0", 2, "its workers are gone"), NodeLost("b")) == [Start("fold 0", 3)]
    assert take(schedule, NodeLost("b"), Ended("fold 0", 3, "no")) == [Start("fold 0", 4)]
    assert take(schedule, Ended("fold 0", 4, "no")) == []
    assert schedule.units_with(Status.FAILED) == ["fold 0"]


def test_a_permanent_failure_is_given_up_at_once_and_the_others_continue() -> None:
    schedule = make(2, cpus=4)
    take(schedule, NodeSeen("a", NODE))
    assert take(schedule, Ended("fold 0", 1, "a loss that is nan", final=True)) == [Start("fold 1", 1)]
    assert take(schedule, Ended("fold 1", 1)) == []
    assert (schedule.units_with(Status.FAILED), schedule.units_with(Status.DONE)) == (["fold 0"], ["fold 1"])


def test_a_node_lost_before_a_unit_started_grants_no_retry() -> None:
    schedule = make(1, max_retries=0)
    take(schedule, NodeSeen("a", Resources(1)), NodeLost("a"), NodeSeen("b", NODE))
    assert take(schedule, Ended("fold 0", 1, "no")) == []
    assert schedule.units_with(Status.FAILED) == ["fold 0"]


class World:
    """A simulated cluster: attempts run and end, nodes come and go, and their events arrive late, twice or never."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.units = {
            f"fold {i}": TrainingUnit(f"fold {i}", (f"fold {i}",), Resources(self.draw.choice([1, 2, 3])))
            for i in range(self.draw.randint(1, 8))
        }
        self.schedule = Schedule(self.units, self.draw.randint(0, 3))
        self.news: list[tuple[float, int, Event]] = []
        self.running: set[tuple[str, int]] = set()
        self.begun: Counter[str] = Counter()
        self.done: set[str] = set()
        self.nodes: dict[str, Resources] = {}
        self.now, self.serial = 0.0, 0

    def tell(self, event: Event) -> None:
        """Send an event: it may be lost, arrive late, or arrive twice."""
        for _ in range(self.draw.choices([0, 1, 2], [1, 8, 2])[0]):
            self.serial += 1
            heapq.heappush(self.news, (self.now + self.draw.expovariate(0.5), self.serial, event))

    def act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Stop):
                self.running.discard((action.unit, action.attempt))
                continue
            self.begun[action.unit] += 1
            assert action.attempt == self.begun[action.unit], "attempts are numbered without gaps"
            assert action.unit not in self.schedule.units_with(Status.DONE)
            self.running.add((action.unit, action.attempt))

    def happen(self) -> None:
        """Let one random thing happen."""
        match self.draw.randrange(8):
            case 0:
                node = f"node {self.draw.randrange(4)}"
                self.nodes[node] = Resources(self.draw.randint(1, 4))
                self.tell(NodeSeen(node, self.nodes[node]))
            case 1 if self.nodes:
                node = self.draw.choice(sorted(self.nodes))
                del self.nodes[node]
                self.tell(NodeLost(node))
                lost = {one for one in self.running if self.draw.random() < 0.3}
                self.running -= lost  # along with their drivers: no event reports it
            case 2 | 3 | 4 if self.running:
                unit, attempt = self.draw.choice(sorted(self.running))
                self.running.discard((unit, attempt))
                error = "failed" if self.draw.random() < 0.3 else None
                self.tell(Ended(unit, attempt, error, final=error is not None and self.draw.random() < 0.1))
            case 5 if self.running:
                self.tell(Silent(*self.draw.choice(sorted(self.running)), 30.0))
            case 6:
                self.take(Observed(frozenset(self.running)))  # existing attempts are observed at once
            case 7 if self.draw.random() < 0.2:
                self.running.clear()
                self.take(Restarted())

    def take(self, event: Event) -> None:
        before = {name: state.status for name, state in self.schedule.states.items()}
        self.act(self.schedule.handle(event))
        self.schedule.check_invariants()
        for name, state in self.schedule.states.items():
            if before[name] in (Status.DONE, Status.FAILED):
                assert state.status is before[name], f"{name} was {before[name]}"

    def run(self, steps: int = 300) -> None:
        for _ in range(steps):
            self.now += self.draw.random()
            while self.news and self.news[0][0] <= self.now:
                self.take(heapq.heappop(self.news)[2])
            self.happen()
        # In the end the nodes stay and all attempts are observed: then every unit must finish.
        self.take(NodeSeen("last", Resources(3)))
        for _ in range(2 * len(self.units) * (self.schedule.max_retries + 2)):
            self.take(Observed(frozenset(self.running)))
            for unit, attempt in sorted(self.running):
                self.running.discard((unit, attempt))
                self.take(Ended(unit, attempt, None))
        assert self.schedule.finished, self.schedule.states


@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_schedules_keep_the_invariants(hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        try:
            World(seed).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, run again by World({seed}).run(): {error}") from error


@pytest.mark.parametrize("demand", [1, 4, 8])
def test_no_fold_waits_while_nodes_are_idle_and_all_finish_on_failing_nodes(demand: int) -> None:
    cluster = Cluster(demand, between_failures=8, max_retries=1_000, seed=0)
    cluster.run()
    assert cluster.schedule.units_with(Status.DONE) == list(cluster.schedule.units)
    assert cluster.spent[BUSY] > demand * sum(cluster.hours.values()), "nothing failed, so no work was lost"
    assert cluster.spent[WOULD_FIT] == 0


def test_a_unit_waits_for_those_before_it_and_never_starts_if_one_is_given_up() -> None:
    units = {name: TrainingUnit(name, (name,), Resources(1)) for name in ("one", "two")}
    units["refit"] = TrainingUnit("refit", ("refit",), Resources(1), after=("one", "two"))
    node, done = NodeSeen("a", Resources(8)), Ended("one", 1)
    schedule = Schedule(units)
    assert take(schedule, node, done) == [Start("one", 1), Start("two", 1)]
    assert schedule.units_with(Status.WAITING) == ["refit"]
    assert take(schedule, Ended("two", 1)) == [Start("refit", 1)]
    take(schedule, Ended("refit", 1))
    assert schedule.finished
    schedule = Schedule(units)
    assert take(schedule, node, done, Ended("two", 1, "no", final=True)) == [Start("one", 1), Start("two", 1)]
    assert schedule.finished
