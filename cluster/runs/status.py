"""How far a run is, read from its folder: it may be on another machine, in a bucket, running, dead or complete."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ...storage.errors import DamagedError
from ...storage.files import names_in, read_json
from ...storage.object_path import AnyPath, ObjectPath
from ...training.run import FoldFolder, RunFolder, is_done, load_job, name_folds
from .grid import CANDIDATES
from .journal import Journal

Line = dict[str, Any]
"""Of the journal."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a fold's time, in seconds since 1970: an attempt at it, by its number, `running` or ended
    (`done`, `failed`, or `cut short` with the command); or `waiting` after that attempt. `stop` is None while it goes
    on, as far as is known: a command that was killed says nothing."""

    state: str
    attempt: int
    start: float
    stop: float | None
    error: str = ""
    """Why it has failed."""


@dataclass(frozen=True)
class FoldStatus:
    """A fold: its name and its candidate's, its epochs so far of how many, the metrics of each, its newest checkpoint,
    and its time."""

    name: str
    done: bool
    epochs: float
    total_epochs: int
    history: list[dict[str, Any]]
    checkpoint: str
    unit: str
    """With which it was trained last: all folds of one pass, or itself."""
    phases: list[Phase]
    updated: float = 0.0
    """When it said something of itself last, in seconds since 1970."""
    candidate: str = ""

    @property
    def scores(self) -> dict[str, Any]:
        """Those of the last epoch."""
        return self.history[-1] if self.history else {}

    @property
    def state(self) -> str:
        """In a word."""
        if self.done:
            return "done"
        if self.phases and self.phases[-1].stop is None:
            return self.phases[-1].state
        tried = [phase.state for phase in self.phases if phase.state != "waiting"]
        return tried[-1] if tried else "begun" if self.epochs else "waiting"


@dataclass(frozen=True)
class RunStatus:
    """A run: whether all of it is done, its folds, what has happened, with its time, and what has failed."""

    complete: bool
    folds: list[FoldStatus]
    events: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def started(self) -> float:
        """When its first fold was to be trained, in seconds since 1970; infinite before that."""
        return min((phase.start for fold in self.folds for phase in fold.phases), default=math.inf)

    @property
    def updated(self) -> float:
        """When it said something of itself last, in seconds since 1970."""
        return max([*(fold.updated for fold in self.folds), *(time for time, _ in self.events[-1:])], default=0.0)


class FoldRecord:
    """What the folder of a fold tells of it, to be looked at again and again: what cannot have changed is not read."""

    def __init__(self, folder: FoldFolder) -> None:
        self.folder, self.done = folder, False
        self.epochs = self.updated = 0.0
        self.history: list[dict[str, Any]] = []
        self.checkpoint = ""

    def look(self) -> None:
        """Read what is new."""
        if self.done:
            return
        self.done = is_done(self.folder)
        with suppress(FileNotFoundError, DamagedError):  # it has not begun, or a crash of the machine has emptied it
            state = read_json(self.folder.progress)
            self.epochs, self.updated = state["epochs"], state["time"]
            if int(self.epochs) > len(self.history):  # after a kill they are fewer for a while, and the same
                self.history = read_json(self.folder.history)
        stored = [name for name in names_in(self.folder.checkpoints) if name.startswith("epoch-")]
        self.checkpoint = stored[-1] if stored else ""


class RunRecord:
    """What the folder of a run tells of it, or that of a grid with all of its candidates."""

    def __init__(self, root: AnyPath) -> None:
        self.root = root
        self.runs: dict[str, dict[str, FoldRecord]] = {}
        self.epochs: dict[str, int] = {}
        self.complete: set[str] = set()

    def look(self) -> RunStatus:
        """The run's status now. Raises ForeignError where there is none."""
        candidates = self.root / CANDIDATES  # of which not all files are to be listed each time
        names = candidates.names() if isinstance(candidates, ObjectPath) else names_in(candidates)
        for name, run in {name: self.root / CANDIDATES / name for name in names}.items() or {"": self.root}.items():
            self._look_at(name, RunFolder(run))
        # Journals of old had no times.
        lines = [line for line in Journal(RunFolder(self.root).journal).lines() if "time" in line]
        folds = [
            _status(name, record, self.epochs[candidate], lines, candidate)
            for candidate, records in self.runs.items()
            for name, record in records.items()
        ]
        return RunStatus(
            self.complete == self.runs.keys(),
            folds,
            [(line["time"], told) for line in lines if (told := describe(line))],
            [told for line in lines if (told := failure(line))],
        )

    def _look_at(self, candidate: str, run: RunFolder) -> None:
        if candidate not in self.runs:
            job = load_job(run)
            named = name_folds(job, run, candidate)
            self.runs[candidate] = {name: FoldRecord(run.fold(one.fold)) for name, one in named.items()}
            self.epochs[candidate] = job.config.epochs
        if candidate not in self.complete:
            if run.summary.exists():
                self.complete.add(candidate)
            for record in self.runs[candidate].values():
                record.refresh()


def run_status(root: AnyPath) -> RunStatus:
    """The status of a run, or of a grid with all of its candidates. Raises ForeignError where there is none."""
    return RunRecord(root).look()


def last_log(root: AnyPath) -> str:
    """What the last attempt at a run's job has told; nothing if it keeps none."""
    logs = names_in(RunFolder(root).logs)
    return (RunFolder(root).logs / logs[-1]).read_bytes().decode() if logs else ""


def _status(name: str, record: FoldRecord, epochs: int, lines: Sequence[Line], candidate: str) -> FoldStatus:
    units = [line["start"] for line in lines if name in line.get("folds", ())]
    phases = list(phases_of(name, lines))
    if record.done and phases and phases[-1].stop is None:  # its end is not in the journal, or others go on
        last = phases.pop()
        if last.state == "running":
            phases.append(replace(last, state="done", stop=max(last.start, record.updated)))
    unit = units[-1] if units else name
    of_record = record.epochs, epochs, record.history, record.checkpoint
    return FoldStatus(name, record.done, *of_record, unit, phases, record.updated, candidate)


def phases_of(fold: str, lines: Sequence[Line]) -> Iterator[Phase]:
    """A fold's time, from the journal's lines, until it is done, or the command that would go on with it has ended."""
    state, since, unit, attempt, done = "waiting", lines[0]["time"] if lines else 0.0, "", 0, False
    for line in lines:
        begun = fold in line.get("folds", ())
        ended = ending(line, unit, attempt, begun) if state == "running" else ""
        stopped = "stopped" in line
        if state and (begun or ended or stopped):
            yield Phase(ended or state, attempt, since, line["time"], reason(line) if ended == "failed" else "")
        if begun or ended or stopped:
            done = done or ended == "done"
            over = stopped or done or line.get("final")
            state, since = "running" if begun else "" if over else "waiting", line["time"]
        if line.get("event") == "Restarted" and not state and not done:
            state, since = "waiting", line["time"]
        if begun:
            unit, attempt = line["start"], line["attempt"]
    if lines and state:
        yield Phase(state, attempt, since, None)


def ending(line: Line, unit: str, attempt: int, followed: bool) -> str:
    """What an attempt ends in by a line of the journal, perhaps because another one follows; nothing if it goes on."""
    if followed or line.get("event") == "Restarted" or "stopped" in line:
        return "interrupted"
    if line.get("event") == "Observed":
        return "" if [unit, attempt] in line["attempts"] else "failed"
    if (line.get("unit"), line.get("attempt")) != (unit, attempt):
        return ""
    return "failed" if failure(line) else "done"


def failure(line: Mapping[str, Any]) -> str:
    """What has failed by a line of the journal; nothing if that tells of something else."""
    unit = line.get("replaced") or line.get("unit")
    return f"{unit}, attempt {line['attempt']}: {told}" if (told := reason(line)) else ""


def reason(line: Mapping[str, Any]) -> str:
    """Why an attempt, or a worker of it, has failed by a line of the journal."""
    if "replaced" in line:
        return str(line["reason"])
    if line.get("event") == "Silent":
        return f"silent for {line['seconds']:.0f} s"
    return line["error"] or "" if line.get("event") == "Ended" else ""


def describe(line: Mapping[str, Any]) -> str:
    """What a line of the journal tells; nothing for what is looked at again and again."""
    match line:
        case {"start": unit, "attempt": attempt}:
            return f"{unit}, attempt {attempt}: begun"
        case {"event": "Ended", "unit": unit, "attempt": attempt, "error": None}:
            return f"{unit}, attempt {attempt}: done"
        case {"event": "NodeSeen", "resources": has}:
            return f"a node with {has['cpus']:g} cores, {has['gpus']:g} GPUs, {has['memory'] / 1e9:,.1f} GB is there"
        case {"event": "NodeLost"}:
            return "a node is lost"
        case {"event": "Restarted"}:
            return "the command was begun again"
        case {"stopped": True}:
            return "the command has ended"
    return failure(line)
