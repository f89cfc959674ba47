"""Decides which folds run when: a state machine without I/O, clock or randomness. Events go in, actions come out.

A *unit* is what one Ray Train run trains: a single fold, or all folds in one pass. Units start while the cluster has
enough free resources. A failed unit is retried up to `max_retries` times, after which the other units continue; each
node lost in the meantime grants one extra retry. Errors that would recur, such as an invalid value in the data, are
not retried. Events may arrive twice, late or never: the attempt number identifies what ended, and `Observed` reports
which attempts actually exist.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ...storage.machine import size_text

SILENT_ERROR = "a worker made no progress for {:.0f} s; if the model or the disk is just slow, increase --hang-timeout"
DRIVER_DIED = (
    "the driver process of its workers died, most likely because it ran out of memory or its node was lost; use fewer "
    "--workers or a smaller --batch-size to reduce memory"
)


@dataclass(frozen=True)
class Resources:
    """Resources of a node, or required by a unit: cores, GPUs, bytes of memory."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus, self.memory + other.memory)

    def __str__(self) -> str:
        return f"{self.cpus:g} cores, {self.gpus:g} GPUs, {size_text(self.memory)}"

    def fits_in(self, other: "Resources") -> bool:
        return self.cpus <= other.cpus and self.gpus <= other.gpus and self.memory <= other.memory


@dataclass(frozen=True)
class TrainingUnit:
    """The unit of scheduling: folds that one Ray Train run trains, and the resources it requires.

    It starts once the units in `after` are done, and never if one of them has failed permanently.
    """

    name: str
    folds: tuple[str, ...]
    required: Resources
    after: tuple[str, ...] = ()


class Status(Enum):
    """Status of a unit."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class NodeSeen:
    """A node is alive and has these resources."""

    node: str
    resources: Resources


@dataclass(frozen=True)
class NodeLost:
    """A node has disappeared."""

    node: str


@dataclass(frozen=True)
class Ended:
    """An attempt at a unit has ended, successfully or with an error."""

    unit: str
    attempt: int
    error: str | None = None
    final: bool = False
    """Whether a retry would fail in the same way."""
    everywhere: bool = False
    """Whether all other units would also fail in the same way."""


@dataclass(frozen=True)
class Silent:
    """A worker of an attempt neither makes progress nor dies."""

    unit: str
    attempt: int
    seconds: float


@dataclass(frozen=True)
class Observed:
    """All attempts that exist. A running attempt that is not among them has vanished."""

    attempts: frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Restarted:
    """The coordinator itself was restarted: its running attempts ended with it, which is not counted as a failure."""


Event = NodeSeen | NodeLost | Ended | Silent | Observed | Restarted


@dataclass(frozen=True)
class Start:
    """Start an attempt at a unit."""

    unit: str
    attempt: int


@dataclass(frozen=True)
class Stop:
    """Stop an attempt at a unit, if it still exists."""

    unit: str
    attempt: int


Action = Start | Stop


@dataclass
class UnitState:
    """State of a unit. Attempts are numbered from 1; the last one is running if the status says so."""

    status: Status = Status.WAITING
    attempt: int = 0
    failures: int = 0
    extra_retries: int = 0
    """Failures attributed to lost nodes: one for each node lost since the unit first started."""
    error: str | None = None
    final: bool = False
    """Whether a retry would fail in the same way as the last attempt."""


@dataclass
class Schedule:
    """The state of the schedule. Only `handle` changes it."""

    units: Mapping[str, TrainingUnit]
    max_retries: int = 2
    states: dict[str, UnitState] = field(default_factory=dict)
    nodes: dict[str, Resources] = field(default_factory=dict)
    given_up: bool = False
    """Whether a unit has failed in a way that affects all units, so that no more are started."""

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset the state: no unit has started, no node is known."""
        self.states = {name: UnitState() for name in self.units}
        self.nodes, self.given_up = {}, False

    @property
    def capacity(self) -> Resources:
        return sum(self.nodes.values(), Resources())

    @property
    def used(self) -> Resources:
        return sum((self.units[name].required for name in self.units_with(Status.RUNNING)), Resources())

    def units_with(self, status: Status) -> list[str]:
        """Names of the units with this status, in order."""
        return [name for name, state in self.states.items() if state.status is status]

    @property
    def finished(self) -> bool:
        """Whether every unit is done, has failed permanently or waits for one that has, or no more units are
        started."""
        blocked = all(map(self._is_blocked, self.units_with(Status.WAITING)))
        return self.given_up or (blocked and not self.units_with(Status.RUNNING))

    def _is_blocked(self, name: str) -> bool:
        """Whether a unit waits for one that has failed permanently."""
        return any(self.states[other].status is Status.FAILED for other in self.units[name].after)

    def _may_start(self, name: str) -> bool:
        """Whether a unit waits only for resources, and they are free."""
        unit = self.units[name]
        ready = all(self.states[other].status is Status.DONE for other in unit.after)
        return ready and (self.used + unit.required).fits_in(self.capacity)

    def handle(self, event: Event) -> list[Action]:
        """Update the state for an event, and return the actions to perform."""
        actions: list[Action] = []
        match event:
            case NodeSeen(node, resources):
                self.nodes[node] = resources
            case NodeLost(node):
                self._remove_node(node)
            case Ended(unit, attempt, error, final, everywhere) if self._is_running(unit, attempt):
                self._end_attempt(unit, error, final)
                if everywhere:
                    actions += self._give_up()
            case Silent(unit, attempt, seconds) if self._is_running(unit, attempt):
                self._end_attempt(unit, SILENT_ERROR.format(seconds))
                actions.append(Stop(unit, attempt))
            case Observed(attempts):
                for unit in self.units_with(Status.RUNNING):
                    if (unit, self.states[unit].attempt) not in attempts:
                        self._end_attempt(unit, DRIVER_DIED)
                actions += [Stop(*one) for one in sorted(attempts) if not self._is_running(*one)]
            case Restarted():
                self.nodes = {}  # the cluster may be a different one
                for unit in self.units_with(Status.RUNNING):
                    self.states[unit].status = Status.WAITING
        return [*actions, *self._start_waiting()]

    def _is_running(self, unit: str, attempt: int) -> bool:
        state = self.states.get(unit)
        return state is not None and state.status is Status.RUNNING and state.attempt == attempt

    def _remove_node(self, node: str) -> None:
        """Remove a node, and grant every started unit an extra retry: whether a failure was caused by the node is
        unknown, and the failure may be reported before or after the loss."""
        if self.nodes.pop(node, None):
            for state in self.states.values():
                started = state.status is Status.RUNNING or (state.status is Status.WAITING and state.attempt > 0)
                state.extra_retries += started

    def _end_attempt(self, unit: str, error: str | None, final: bool = False) -> None:
        state = self.states[unit]
        state.error, state.final = error, final
        if error is None:
            state.status = Status.DONE
            return
        state.failures += 1
        given_up = final or state.failures - state.extra_retries > self.max_retries
        state.status = Status.FAILED if given_up else Status.WAITING

    def _give_up(self) -> list[Stop]:
        """Stop the running units, and start no more."""
        self.given_up = True
        running = self.units_with(Status.RUNNING)
        for unit in running:
            self.states[unit].status = Status.WAITING
        return [Stop(unit, self.states[unit].attempt) for unit in running]

    def _start_waiting(self) -> Sequence[Start]:
        """Start the units that fit into the free resources, in order. A unit that fits need not wait for an earlier one
        that does not."""
        started: list[Start] = []
        if self.given_up:
            return started
        for name in self.units_with(Status.WAITING):
            if self._may_start(name):
                state = self.states[name]
                state.status, state.attempt = Status.RUNNING, state.attempt + 1
                started.append(Start(name, state.attempt))
        return started

    def check_invariants(self) -> None:
        """Raise AssertionError if an invariant is violated."""
        for name, state in self.states.items():
            assert state.failures <= state.attempt, f"{name} has more failures than attempts"
            own = state.failures - state.extra_retries
            assert own <= self.max_retries + 1, f"{name} was retried too often"
            assert (state.status is Status.FAILED) == (state.final or own > self.max_retries), f"{name}: {state}"
            assert state.status is not Status.DONE or state.error is None, f"{name} is done but has an error"
            assert state.attempt or state.status is Status.WAITING, f"{name} was never started"
        for name in self.units_with(Status.WAITING):
            may = self.given_up or not self._may_start(name)
            assert may, f"{name} is waiting although its resources are free"
