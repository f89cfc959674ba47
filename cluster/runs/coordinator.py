"""The coordinator: it watches nodes and attempts, writes what happens to its journal, and does what the schedule says.

It holds nothing that is not in the journal or in the folds' folders: after its death the same command goes on.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...storage.errors import AttemptError, FoldstreamError, RunError
from ...storage.files import remove_file
from ...training.ray.driver import FoldDriver, Health
from ...training.ray.group import GroupRequest
from ..ray.reservations import free_reservations
from .journal import Journal
from .schedule import (
    GONE,
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
)

Driver = ray.remote(num_cpus=0, max_concurrency=4)(FoldDriver)  # it listens while it trains
log = logging.getLogger(__name__)
POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0  # between two looks at the nodes, and at how long the workers have been silent
FIND_SECONDS = 2 * LOOK_SECONDS + POLL_SECONDS  # from a silence's end of patience until a look has heard of it


@dataclass
class Attempt:
    """An attempt that is under way: its driver, its result to come, and a question to the driver how its workers
    are."""

    driver: Any
    result: Any
    question: Any = None
    asked: float = 0.0
    deaths: int = 0
    """That the journal knows of."""


class Coordinator:
    """Trains the units of a schedule on the Ray cluster that is connected.

    `request` says what an attempt at a unit is to train. An attempt whose workers are silent is found, and ended,
    within `hang_seconds`.
    """

    def __init__(
        self, schedule: Schedule, request: Callable[[str], GroupRequest], journal: Journal, hang_seconds: float
    ) -> None:
        self.schedule, self.request, self.journal = schedule, request, journal
        self.patience = hang_seconds - FIND_SECONDS
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.looked = -LOOK_SECONDS
        self.waits = self.asked = False

    def run(self) -> None:
        """Return when every unit is done. Raises RunError where some were given up, once the others are done."""
        self._go_on()
        try:
            while not self.schedule.finished:
                for event in self._news():
                    self._take(event)
                if results := [attempt.result for attempt in self.attempts.values()]:
                    ray.wait(results, timeout=POLL_SECONDS)
                else:
                    self._wait_for_nodes()
        finally:
            for attempt in self.attempts.values():
                ray.kill(attempt.driver)
            self.journal.record_stop()
            if self.asked:
                request_resources(bundles=[])
        failed = self.schedule.units_with(Status.FAILED)
        if failed:
            errors = "; ".join(f"{name}: {self.schedule.states[name].error}" for name in failed)
            units = self.schedule.units
            done = sum(len(unit.folds) for name, unit in units.items() if name not in failed)
            left = sum(len(unit.folds) for unit in units.values())
            run = str(self.journal.path).rpartition("/")[0]
            raise RunError(
                f"training failed, the run is incomplete: {errors}. Of the {left} folds that were left {done} are done "
                f"now and kept; «foldstream status {run}» shows what happened. Once it is mended, run the same command "
                "again"
            )

    def _go_on(self) -> None:
        """Take up what the journal says, unless that came to an end: then everything that is left is new."""
        events = list(self.journal.read())
        for event in events:
            self.schedule.handle(event)
        if self.schedule.finished:
            remove_file(self.journal.path)
            self.schedule.reset()
        elif events:
            self._take(Restarted())

    def _wait_for_nodes(self) -> None:
        """Nothing runs, so nothing that is left fits: say so, and wait for nodes."""
        waiting = self.schedule.units_with(Status.WAITING)
        if waiting and not self.waits:
            demand = self.schedule.units[waiting[0]].demand
            log.warning(
                "waiting for nodes: a fold needs %s, and there are %s; add nodes, or stop this with Ctrl-C and begin a "
                "new run with fewer --workers or less --memory",
                demand,
                self.schedule.capacity,
            )
            request_resources(bundles=_bundles(demand, self.request(waiting[0]).workers))
            self.asked = True
        self.waits = bool(waiting)
        time.sleep(LOOK_SECONDS)

    def _take(self, event: Event) -> None:
        self.journal.append(event)
        if isinstance(event, Ended) and event.error:
            log.warning("%s, attempt %d: %s", event.unit, event.attempt, event.error)
        for action in self.schedule.handle(event):
            self._act(action)
        self.schedule.check_invariants()

    def _act(self, action: Action) -> None:
        key = action.unit, action.attempt
        if isinstance(action, Start):
            self.journal.record_start(action, self.schedule.units[action.unit].folds)
            driver = self._start_driver()
            self.attempts[key] = Attempt(driver, driver.train.remote(self.request(action.unit), driver))
        elif key in self.attempts:
            ray.kill(self.attempts.pop(key).driver)

    def _start_driver(self) -> Any:
        """A driver on this node, with which Ray Train's controller stays: what a lost node takes are workers."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return Driver.options(scheduling_strategy=here).remote(self.patience)

    def _news(self) -> Iterator[Event]:
        """What has happened since the last call."""
        for (unit, number), attempt in list(self.attempts.items()):
            if ray.wait([attempt.result], timeout=0)[0]:
                del self.attempts[unit, number]
                yield Ended(unit, number, *_error_of(attempt.result))
                ray.kill(attempt.driver)
        if monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = monotonic()
        yield from self._look_at_nodes()
        if any(unit.failures for unit in self.schedule.states.values()):
            free_reservations()
        for (unit, number), attempt in list(self.attempts.items()):
            health = self._health(attempt)
            for reason in health.deaths[attempt.deaths :]:
                self.journal.record_replacement(unit, number, reason)
                log.warning("%s, attempt %d: %s", unit, number, reason)
            attempt.deaths = max(attempt.deaths, len(health.deaths))
            if health.silence > self.patience:
                yield Silent(unit, number, health.silence)
        running = {(unit, self.schedule.states[unit].attempt) for unit in self.schedule.units_with(Status.RUNNING)}
        if running != self.attempts.keys():
            yield Observed(frozenset(self.attempts))

    def _look_at_nodes(self) -> Iterator[Event]:
        nodes = {node["NodeID"]: _resources(node["Resources"]) for node in ray.nodes() if node["Alive"]}
        for node in self.schedule.nodes.keys() - nodes.keys():
            yield NodeLost(node)
        for node, resources in nodes.items():
            if self.schedule.nodes.get(node) != resources:
                yield NodeSeen(node, resources)

    def _health(self, attempt: Attempt) -> Health:
        """How the workers of an attempt are, by its driver; one that does not answer is silent itself."""
        if attempt.question is None:
            attempt.question, attempt.asked = attempt.driver.health.remote(), monotonic()
        if not ray.wait([attempt.question], timeout=0)[0]:
            return Health(monotonic() - attempt.asked, ())
        answer, attempt.question = attempt.question, None
        try:
            health: Health = ray.get(answer)
        except RayActorError:
            return Health(0.0, ())  # its result says so too
        return health


def _error_of(result: Any) -> tuple[str | None, bool]:
    """Why an attempt has failed, if it has, and whether it would fail again."""
    try:
        ray.get(result)
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        final = isinstance(cause, FoldstreamError) and not isinstance(cause, AttemptError)
        return str(cause).strip() or type(cause).__name__, final
    except RayActorError:
        return GONE, False
    return None, False


def _bundles(demand: Resources, workers: int) -> list[dict[str, float]]:
    """What each of the workers needs, as Ray's autoscaler is told."""
    whole = {"CPU": demand.cpus, "GPU": demand.gpus, "memory": float(demand.memory)}
    return [{name: amount / workers for name, amount in whole.items() if amount} for _ in range(workers)]


def _resources(given: dict[str, float]) -> Resources:
    return Resources(given.get("CPU", 0.0), given.get("GPU", 0.0), int(given.get("memory", 0)))
