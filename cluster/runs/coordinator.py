"""The coordinator: monitors nodes and attempts, writes events to its journal, and executes the schedule's decisions.

It keeps no state besides the journal and the folds' folders: if it dies, the same command resumes the run.
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

from ...storage.errors import FoldstreamError
from ...training.ray.driver import FoldDriver, Health
from ...training.ray.group import Failure, GroupRequest, describe_failure
from ...training.ray.internals import draining_nodes
from ...training.stopping import GRACE_SECONDS, STOP, stopped
from ..ray.reservations import free_reservations
from .durable_schedule import DurableSchedule
from .schedule import DRIVER_DIED, Action, Ended, Event, NodeLost, NodeSeen, Observed, Resources, Silent, Start, Status

Driver = ray.remote(num_cpus=0, max_concurrency=4)(FoldDriver)  # it answers health checks while it trains
log = logging.getLogger(__name__)
POLL_SECONDS = 0.2
CHECK_SECONDS = 1.0  # between two checks of the nodes and of the workers' health
DETECTION_SECONDS = 2 * CHECK_SECONDS + POLL_SECONDS  # from a worker's timeout until a check notices it


@dataclass
class Attempt:
    """A running attempt: its driver, its pending result, and a pending health check of its workers."""

    driver: Any
    result: Any
    pending_health: Any = None
    asked_at: float = 0.0
    recorded_deaths: int = 0


class Coordinator:
    """Trains the units of a schedule on the connected Ray cluster.

    `request` returns what an attempt at a unit has to train. An attempt whose workers make no progress for
    `hang_seconds` is stopped.
    """

    def __init__(self, schedule: DurableSchedule, request: Callable[[str], GroupRequest], hang_seconds: float) -> None:
        self.schedule, self.request = schedule, request
        self.state, self.journal = schedule.state, schedule.journal
        self.timeout = hang_seconds - DETECTION_SECONDS
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.checked_at = -CHECK_SECONDS
        self.waiting = self.nodes_requested = False

    def run(self) -> None:
        """Train until every unit is done. Raises RunError if any unit failed permanently (once the others are done, or
        immediately if all would fail in the same way), and StoppedError once all have stopped on request."""
        self.schedule.resume()
        try:
            with STOP.watched():
                self._run()
        finally:
            for attempt in self.attempts.values():
                ray.kill(attempt.driver)
            self.journal.record_stop()
            if self.nodes_requested:
                request_resources(bundles=[])
        self.schedule.check_done()

    def _run(self) -> None:
        while not self.state.finished:
            if STOP.is_set:
                self._stop()
            for event in self._poll():
                for action in self.schedule.handle(event):
                    self._perform(action)
            if results := [attempt.result for attempt in self.attempts.values()]:
                ray.wait(results, timeout=POLL_SECONDS)
            else:
                self._wait_for_nodes()

    def _stop(self) -> None:
        """Make all attempts write checkpoints and stop. Raises StoppedError once they have stopped."""
        asked = [attempt.driver.stop.remote() for attempt in self.attempts.values()]
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=GRACE_SECONDS)
        raise stopped()

    def _wait_for_nodes(self) -> None:
        """Nothing is running, so no remaining unit fits: log this and wait for nodes."""
        waiting = self.state.units_with(Status.WAITING)
        if waiting and not self.waiting:
            required = self.state.units[waiting[0]].required
            log.warning(
                "waiting for nodes: a fold needs %s, the cluster has %s; add nodes, or stop with Ctrl-C and start a "
                "new run with fewer --workers or less --memory",
                required,
                self.state.capacity,
            )
            request_resources(bundles=_bundles(required, self.request(waiting[0]).request.world_size))
            self.nodes_requested = True
        self.waiting = bool(waiting)
        time.sleep(CHECK_SECONDS)

    def _perform(self, action: Action) -> None:
        key = action.unit, action.attempt
        if isinstance(action, Start):
            self.schedule.record_start(action)
            driver = self._start_driver()
            self.attempts[key] = Attempt(driver, driver.train.remote(self.request(action.unit), driver))
        elif key in self.attempts:
            ray.kill(self.attempts.pop(key).driver)

    def _start_driver(self) -> Any:
        """Start a driver on this node, next to Ray Train's controller, so that losing another node only costs
        workers."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return Driver.options(scheduling_strategy=here).remote(self.timeout)

    def _poll(self) -> Iterator[Event]:
        """The events since the last call."""
        for (unit, number), attempt in list(self.attempts.items()):
            if ray.wait([attempt.result], timeout=0)[0]:
                del self.attempts[unit, number]
                yield Ended(unit, number, *(_failure_of(attempt.result) or (None,)))
                ray.kill(attempt.driver)
        if monotonic() - self.checked_at < CHECK_SECONDS:
            return
        self.checked_at = monotonic()
        yield from self._poll_nodes()
        if any(unit.failures for unit in self.state.states.values()):
            free_reservations()
        for (unit, number), attempt in list(self.attempts.items()):
            health = self._check_health(attempt)
            for reason in health.deaths[attempt.recorded_deaths :]:
                self.journal.record_replacement(unit, number, reason)
                log.warning("%s, attempt %d: %s", unit, number, reason)
            attempt.recorded_deaths = max(attempt.recorded_deaths, len(health.deaths))
            if health.silence > self.timeout:
                yield Silent(unit, number, health.silence)
        running = {(unit, self.state.states[unit].attempt) for unit in self.state.units_with(Status.RUNNING)}
        if running != self.attempts.keys():
            yield Observed(frozenset(self.attempts))

    def _poll_nodes(self) -> Iterator[Event]:
        nodes = {node["NodeID"]: _resources(node["Resources"]) for node in ray.nodes() if node["Alive"]}
        draining = draining_nodes()
        for attempt in self.attempts.values() if draining else ():
            attempt.driver.leave.remote(draining)
        for node in self.state.nodes.keys() - nodes.keys():
            yield NodeLost(node)
        for node, resources in nodes.items():
            if self.state.nodes.get(node) != resources:
                yield NodeSeen(node, resources)

    def _check_health(self, attempt: Attempt) -> Health:
        """The health of an attempt's workers, as reported by its driver. A driver that does not respond counts as
        silent itself."""
        if attempt.pending_health is None:
            attempt.pending_health, attempt.asked_at = attempt.driver.health.remote(), monotonic()
        if not ray.wait([attempt.pending_health], timeout=0)[0]:
            return Health(monotonic() - attempt.asked_at, ())
        answer, attempt.pending_health = attempt.pending_health, None
        try:
            health: Health = ray.get(answer)
        except RayActorError:
            return Health(0.0, ())  # the attempt's result reports it as well
        return health


def _failure_of(result: Any) -> Failure | None:
    """Why an attempt failed; None if it succeeded."""
    try:
        ray.get(result)
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, FoldstreamError):
            return describe_failure(cause)
        return Failure(str(cause).strip() or type(cause).__name__)
    except RayActorError:
        return Failure(DRIVER_DIED)
    return None


def _bundles(required: Resources, workers: int) -> list[dict[str, float]]:
    """The resources of each worker, in the form that Ray's autoscaler expects."""
    total = {"CPU": required.cpus, "GPU": required.gpus, "memory": float(required.memory)}
    return [{name: amount / workers for name, amount in total.items() if amount} for _ in range(workers)]


def _resources(given: dict[str, float]) -> Resources:
    return Resources(given.get("CPU", 0.0), given.get("GPU", 0.0), int(given.get("memory", 0)))
