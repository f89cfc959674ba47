"""The progress of a run, read from its folder. The run may be on another machine or in a bucket, and may be running,
dead or complete."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ...storage.errors import DamagedError
from ...storage.machine import size_text
from ...storage.places.json_files import read_json
from ...storage.places.place import Place
from ...training.run import (
    CANDIDATES,
    GRID,
    SEARCH,
    FoldFolder,
    RunFolder,
    RunJob,
    best_folder,
    is_done,
    load_job,
    name_folds,
)
from ...training.settings import describe_recipe
from .journal import Journal
from .schedule import title_of

MOST_LABELS = 3  # whose names are shown
Line = dict[str, Any]
"""A line of the journal."""


@dataclass(frozen=True)
class Phase:
    """A phase in the timeline of a fold, in seconds since 1970: an attempt, by its number, that is `running` or has
    ended (`done`, `failed`, or `interrupted` along with the command), or `waiting` after that attempt. `stop` is None
    if the phase has not ended, or if its end is unknown because the command was killed."""

    state: str
    attempt: int
    start: float
    stop: float | None
    error: str = ""
    """Why the attempt failed."""


@dataclass(frozen=True)
class FoldStatus:
    """Status of a fold: its name and its candidate's name, completed and total epochs, the metrics of each epoch, the
    newest checkpoint, and the timeline."""

    name: str
    done: bool
    epochs: float
    total_epochs: int
    history: list[dict[str, Any]]
    checkpoint: str
    unit: str
    """What trained it last, by its folds: several in one pass, or this fold alone."""
    phases: list[Phase]
    updated: float = 0.0
    """When its record last changed, in seconds since 1970."""
    candidate: str = ""
    diverged: bool = False
    """Whether it dropped out, because its loss was not finite, or that of another fold of its candidate."""
    steps: dict[str, Any] = field(default_factory=dict)
    """The training loss within epochs, `losses` as (epochs, loss), and the memory in use, `used`; empty at first."""

    @property
    def scores(self) -> dict[str, Any]:
        """Metrics of the last epoch."""
        return self.history[-1] if self.history else {}

    @property
    def state(self) -> str:
        """The state in one word: waiting, started, running, paused (at a rung of a search), done, diverged, failed or
        interrupted."""
        if self.done:
            return "done"
        if self.diverged:
            return "diverged"
        if self.phases and self.phases[-1].stop is None:
            return self.phases[-1].state
        tried = [phase.state for phase in self.phases if phase.state != "waiting"]
        last = tried[-1] if tried else "started" if self.epochs else "waiting"
        return "paused" if last == "done" else last


@dataclass(frozen=True)
class RunStatus:
    """Status of a run: whether it is complete, its folds, its events with their times, and its failures."""

    complete: bool
    folds: list[FoldStatus]
    events: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    """What is trained, in words: the model, the dataset, the split, the recipe."""
    scores: dict[str, float] = field(default_factory=dict)
    """Out-of-fold, of a grid's best candidate; empty before the run is complete."""

    @property
    def started(self) -> float:
        """When the first fold was scheduled, in seconds since 1970; infinity before that."""
        return min((phase.start for fold in self.folds for phase in fold.phases), default=math.inf)

    @property
    def updated(self) -> float:
        """When its record last changed, in seconds since 1970."""
        return max([*(fold.updated for fold in self.folds), *(time for time, _ in self.events[-1:])], default=0.0)


class FoldRecord:
    """The record of a fold in its folder, for repeated reading: only what may have changed is read again."""

    def __init__(self, folder: FoldFolder) -> None:
        self.folder, self.done, self.diverged = folder, False, False
        self.epochs = self.updated = 0.0
        self.history: list[dict[str, Any]] = []
        self.checkpoint = ""
        self.steps: dict[str, Any] = {}

    def refresh(self) -> None:
        """Read new entries."""
        if self.done:
            return
        self.done, self.diverged = is_done(self.folder), self.folder.diverged.exists()
        with suppress(FileNotFoundError, DamagedError):  # it has not started, or a system crash has emptied the file
            state = read_json(self.folder.progress)
            self.epochs, self.updated = state["epochs"], state["time"]
            if int(self.epochs) > len(self.history):  # after a kill it lags behind for a while, with equal values
                self.history = read_json(self.folder.history)
        stored = [name for name in self.folder.checkpoints.names() if name.startswith("epoch-")]
        self.checkpoint = stored[-1] if stored else ""

    def refresh_steps(self) -> None:
        """Read what has happened within epochs."""
        with suppress(FileNotFoundError, DamagedError):  # there is nothing before the first second of training
            self.steps = read_json(self.folder.steps)


class RunRecord:
    """The record of a run, or of a grid with all of its candidates, for repeated reading."""

    def __init__(self, root: Place) -> None:
        self.root = root
        self.runs: dict[str, dict[str, FoldRecord]] = {}
        self.jobs: dict[str, RunJob] = {}
        self.complete: set[str] = set()

    def poll(self) -> RunStatus:
        """The current status of the run. Raises ForeignError if the folder contains no run."""
        names, is_search = (self.root / CANDIDATES).subfolders(), (self.root / SEARCH).exists()
        for name, run in {name: self.root / CANDIDATES / name for name in names}.items() or {"": self.root}.items():
            if not is_search or RunFolder(run).job.exists():  # its candidates begin one after the other
                self._refresh(name, RunFolder(run))
        # Early versions wrote journals without times.
        lines = with_titles([line for line in Journal(RunFolder(self.root).journal).lines() if "time" in line])
        folds = [
            _status(name, record, self.jobs[candidate].config.epochs, lines, candidate, over)
            for candidate, records in self.runs.items()
            for over in [any(record.diverged for record in records.values())]
            for name, record in records.items()
        ]
        complete = (self.root / GRID).exists() if is_search else self._is_complete()
        return RunStatus(
            complete,
            folds,
            [(line["time"], text) for line in lines if (text := describe(line))],
            [text for line in lines if (text := describe_failure(line))],
            describe_jobs(list(self.jobs.values())) if self.jobs else {},
            read_json(RunFolder(best_folder(self.root)).summary)["out_of_fold"] if complete else {},
        )

    def _is_complete(self) -> bool:
        """Whether a run is complete, or all candidates of a grid but those that have diverged."""
        over = {name for name, folds in self.runs.items() if any(fold.diverged for fold in folds.values())}
        return bool(self.complete) and self.complete | over == self.runs.keys()

    def _refresh(self, candidate: str, run: RunFolder) -> None:
        if candidate not in self.runs:
            job = load_job(run)
            named = name_folds(job, run, candidate)
            self.runs[candidate] = {name: FoldRecord(run.fold(one.fold)) for name, one in named.items()}
            self.jobs[candidate] = job
        if candidate not in self.complete:
            if run.summary.exists():
                self.complete.add(candidate)
            for record in self.runs[candidate].values():
                before = record.updated
                record.refresh()
                if record.updated != before:
                    record.refresh_steps()


def run_status(root: Place) -> RunStatus:
    """The status of a run, or of a grid with all of its candidates. Raises ForeignError if the folder contains no
    run."""
    return RunRecord(root).poll()


def last_log(root: Place) -> str:
    """The log of the newest attempt at a run's job; empty if the run has no logs."""
    logs = RunFolder(root).logs.names()
    return (RunFolder(root).logs / logs[-1]).read_bytes().decode() if logs else ""


def _status(
    name: str, record: FoldRecord, epochs: int, lines: Sequence[Line], candidate: str, over: bool
) -> FoldStatus:
    """The status of a fold. `over` says whether its candidate has dropped out because a fold has diverged."""
    units = [line["start"] for line in lines if name in line.get("folds", ())]
    phases = list(phases_of(name, lines))
    if record.done and phases and phases[-1].stop is None:  # the journal lacks its end, or other folds continue
        last = phases.pop()
        if last.state == "running":
            phases.append(replace(last, state="done", stop=max(last.start, record.updated)))
    unit = units[-1] if units else name
    of_record = record.epochs, epochs, record.history, record.checkpoint
    stopped = over and not record.done and not (phases and phases[-1].stop is None)
    more = record.updated, candidate, record.diverged or stopped, record.steps
    return FoldStatus(name, record.done, *of_record, unit, phases, *more)


def describe_jobs(jobs: Sequence[RunJob]) -> dict[str, str]:
    """What a run, or a grid's candidates, train, in words."""
    job, config = jobs[0], jobs[0].config
    labels, classes, split = (
        job.schema.labels,
        len(job.schema.dense.classes if job.schema.dense else job.schema.classes),
        config.split,
    )
    target = ", ".join(labels) if len(labels) <= MOST_LABELS else f"{len(labels)} columns"
    repeats = f", repeated {split.repeats} times" if split.repeats > 1 else ""
    holdout = f", {split.holdout:.0%} of the rows held out from all" if split.holdout else ""
    recipes = [describe_recipe(one.config.recipe) for one in jobs]
    return {
        "model": config.model.rpartition("/")[2],
        "dataset": job.dataset,
        "target": f"{target}, {classes} classes" if classes else f"{target}, {job.schema.task}",
        "folds": f"{split.folds} ({split.kind}){repeats}{holdout}",
        "training": f"{config.epochs} epochs, batches of {config.batch_size:,} rows, seed {config.seed}",
        "recipe": recipes[0] if len({*recipes}) == 1 else f"{len(jobs)} candidates",
    }


def with_titles(lines: Sequence[Line]) -> list[Line]:
    """Lines of the journal in which what was trained together is called by its folds: `folds 0 to 4`."""
    titles = {line["start"]: title_of(line["folds"]) for line in lines if "start" in line}

    def title(line: Line) -> Iterator[tuple[str, Any]]:
        for key, value in line.items():
            if key == "attempts":
                yield key, [[titles.get(unit, unit), attempt] for unit, attempt in value]
            else:
                yield key, titles.get(value, value) if key in ("start", "unit", "replaced") else value

    return [dict(title(line)) for line in lines]


def phases_of(fold: str, lines: Sequence[Line]) -> Iterator[Phase]:
    """The timeline of a fold, from the journal's lines, until it is done or the command has stopped."""
    state, since, unit, attempt, done = "waiting", lines[0]["time"] if lines else 0.0, "", 0, False
    for line in lines:
        started = fold in line.get("folds", ())
        ended = end_state(line, unit, attempt, started) if state == "running" else ""
        stopped = "stopped" in line
        if state and (started or ended or stopped):
            error = failure_reason(line) if ended == "failed" else ""
            yield Phase(ended or state, attempt, since, line["time"], error)
        if started or ended or stopped:
            done = done or ended == "done"
            over = stopped or done or line.get("final")
            state, since = "running" if started else "" if over else "waiting", line["time"]
        if line.get("event") == "Restarted" and not state and not done:
            state, since = "waiting", line["time"]
        if started:
            unit, attempt = line["start"], line["attempt"]
    if lines and state:
        yield Phase(state, attempt, since, None)


def end_state(line: Line, unit: str, attempt: int, followed: bool) -> str:
    """The state in which a line of the journal ends an attempt, possibly because another attempt follows; empty if the
    attempt continues."""
    if followed or line.get("event") == "Restarted" or "stopped" in line:
        return "interrupted"
    if line.get("event") == "Observed":
        return "" if [unit, attempt] in line["attempts"] else "failed"
    if (line.get("unit"), line.get("attempt")) != (unit, attempt):
        return ""
    return "failed" if describe_failure(line) else "done"


def describe_failure(line: Mapping[str, Any]) -> str:
    """The failure that a line of the journal records, as text; empty for any other line."""
    unit = line.get("replaced") or line.get("unit")
    return f"{unit}, attempt {line['attempt']}: {reason}" if (reason := failure_reason(line)) else ""


def failure_reason(line: Mapping[str, Any]) -> str:
    """Why an attempt, or one of its workers, failed according to a line of the journal; empty if nothing failed."""
    if "replaced" in line:
        return str(line["reason"])
    if line.get("event") == "Silent":
        return f"no progress for {line['seconds']:.0f} s"
    return line["error"] or "" if line.get("event") == "Ended" else ""


def describe(line: Mapping[str, Any]) -> str:
    """The event that a line of the journal records, as text; empty for the periodic observations."""
    match line:
        case {"stage": stage}:
            return str(stage)
        case {"start": unit, "attempt": attempt}:
            return f"{unit}, attempt {attempt}: started"
        case {"event": "Ended", "unit": unit, "attempt": attempt, "error": None}:
            return f"{unit}, attempt {attempt}: done"
        case {"event": "NodeSeen", "resources": has}:
            cores = f"{has['cpus']:g} core{'s' * (has['cpus'] != 1)}"
            gpus = [f"{has['gpus']:g} GPU{'s' * (has['gpus'] != 1)}"] * bool(has["gpus"])
            memory = [size_text(has["memory"])] * bool(has["memory"])  # unknown where no cluster was started
            return f"node added: {', '.join([cores, *gpus, *memory])}"
        case {"event": "NodeLost"}:
            return "node lost"
        case {"event": "Restarted"}:
            return "command restarted"
        case {"stopped": True}:
            return "command ended"
    return describe_failure(line)
