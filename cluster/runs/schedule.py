"""Which folds run when: a state machine without I/O, a clock or randomness. Events go in, actions come out.

A *unit* is what one Ray Train run trains: a fold, or all folds from one pass. Units are admitted while the nodes that
are there have what they demand. A unit that fails is begun again, `max_retries` times, and then the others go on; each
node that is lost meanwhile allows it one failure more. What would fail again, as a wrong value in the data, is not.
Events may come twice, late or never: what ended is known by its attempt, and `Observed` says what is really there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

SILENCE = "a worker did nothing for {:.0f} s; if the model or the disk is only slow, give a longer --hang-timeout"
GONE = (
    "the process that drives its workers has died, most likely for want of memory or with its node; with fewer "
    "--workers or a smaller --batch-size it needs less"
)


@dataclass(frozen=True)
class Resources:
    """What a node has, or a unit demands: cores, GPUs, bytes of memory."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus, self.memory + other.memory)

    def __str__(self) -> str:
        return f"{self.cpus:g} cores, {self.gpus:g} GPUs, {self.memory / 1e9:,.1f} GB"

    def within(self, other: "Resources") -> bool:
        return self.cpus <= other.cpus and self.gpus <= other.gpus and self.memory <= other.memory


@dataclass(frozen=True)
class TrainingUnit:
    """Folds that are trained by one Ray Train run, and what that demands."""

    name: str
    folds: tuple[str, ...]
    demand: Resources


class Status(Enum):
    """Where a unit stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class NodeSeen:
    """A node is there and has these resources."""

    node: str
    resources: Resources


@dataclass(frozen=True)
class NodeLost:
    """A node is gone."""

    node: str


@dataclass(frozen=True)
class Ended:
    """An attempt at a unit came to its end, with its error or well."""

    unit: str
    attempt: int
    error: str | None = None
    final: bool = False
    """Whether it would fail again."""


@dataclass(frozen=True)
class Silent:
    """An attempt at a unit has a worker that neither goes on nor dies."""

    unit: str
    attempt: int
    seconds: float


@dataclass(frozen=True)
class Observed:
    """All attempts that are really there. One that should be and is not has vanished."""

    attempts: frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Restarted:
    """The coordinator itself has died and is back: what ran has gone with it, through no fault of its own."""


Event = NodeSeen | NodeLost | Ended | Silent | Observed | Restarted


@dataclass(frozen=True)
class Start:
    """Begin an attempt at a unit."""

    unit: str
    attempt: int


@dataclass(frozen=True)
class Stop:
    """End an attempt at a unit, if it still is there."""

    unit: str
    attempt: int


Action = Start | Stop


@dataclass
class UnitState:
    """Attempts are numbered from 1; the last one runs if the status says so."""

    status: Status = Status.WAITING
    attempt: int = 0
    failures: int = 0
    excused: int = 0
    """Failures that are put down to lost nodes: one for each since the unit was begun."""
    error: str | None = None
    final: bool = False
    """Whether the last failure would come again."""


@dataclass
class Schedule:
    """The state. `handle` is the only way to change it."""

    units: Mapping[str, TrainingUnit]
    max_retries: int = 2
    states: dict[str, UnitState] = field(default_factory=dict)
    nodes: dict[str, Resources] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: no unit was begun, no node is known."""
        self.states = {name: UnitState() for name in self.units}
        self.nodes = {}

    @property
    def capacity(self) -> Resources:
        return sum(self.nodes.values(), Resources())

    @property
    def used(self) -> Resources:
        return sum((self.units[name].demand for name in self.units_with(Status.RUNNING)), Resources())

    def named(self, status: Status) -> list[str]:
        """The units with a status, in their order."""
        return [name for name, state in self.states.items() if state.status is status]

    @property
    def ended(self) -> bool:
        """Whether every unit is done or has failed for good."""
        return not self.units_with(Status.WAITING) and not self.units_with(Status.RUNNING)

    def handle(self, event: Event) -> list[Action]:
        """Take an event in, and say what is to be done."""
        actions: list[Action] = []
        match event:
            case NodeSeen(node, resources):
                self.nodes[node] = resources
            case NodeLost(node):
                self._lose(node)
            case Ended(unit, attempt, error, final) if self._runs(unit, attempt):
                self._end(unit, error, final)
            case Silent(unit, attempt, seconds) if self._runs(unit, attempt):
                self._end(unit, SILENCE.format(seconds))
                actions.append(Stop(unit, attempt))
            case Observed(attempts):
                for unit in self.units_with(Status.RUNNING):
                    if (unit, self.states[unit].attempt) not in attempts:
                        self._end(unit, GONE)
                actions += [Stop(*one) for one in sorted(attempts) if not self._runs(*one)]
            case Restarted():
                self.nodes = {}  # it may be another cluster
                for unit in self.units_with(Status.RUNNING):
                    self.states[unit].status = Status.WAITING
        return [*actions, *self._admit()]

    def _runs(self, unit: str, attempt: int) -> bool:
        state = self.states.get(unit)
        return state is not None and state.status is Status.RUNNING and state.attempt == attempt

    def _lose(self, node: str) -> None:
        """Forget a node. Whether a failure was the unit's own is not known, and its news may come before or after."""
        if self.nodes.pop(node, None):
            for state in self.states.values():
                begun = state.status is Status.RUNNING or (state.status is Status.WAITING and state.attempt > 0)
                state.excused += begun

    def _end(self, unit: str, error: str | None, final: bool = False) -> None:
        state = self.states[unit]
        state.error, state.final = error, final
        if error is None:
            state.status = Status.DONE
            return
        state.failures += 1
        given_up = final or state.failures - state.excused > self.max_retries
        state.status = Status.FAILED if given_up else Status.WAITING

    def _admit(self) -> Sequence[Start]:
        """Start what fits beside what runs, in order: a later unit that fits does not wait for an earlier one."""
        started = []
        for name in self.units_with(Status.WAITING):
            if (self.used + self.units[name].demand).within(self.capacity):
                state = self.states[name]
                state.status, state.attempt = Status.RUNNING, state.attempt + 1
                started.append(Start(name, state.attempt))
        return started

    def check(self) -> None:
        """Raise AssertionError unless what always holds does."""
        for name, state in self.states.items():
            assert state.failures <= state.attempt, f"{name} failed more often than it was begun"
            own = state.failures - state.excused
            assert own <= self.max_retries + 1, f"{name} was begun too often"
            assert (state.status is Status.FAILED) == (state.final or own > self.max_retries), f"{name}: {state}"
            assert state.status is not Status.DONE or state.error is None, f"{name} is done, with an error"
            assert state.attempt or state.status is Status.WAITING, f"{name} was never begun"
        for name in self.units_with(Status.WAITING):
            fits = (self.used + self.units[name].demand).within(self.capacity)
            assert not fits, f"{name} waits, and there is room for it"
