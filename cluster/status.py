"""How far a run is, read from its folder: it may be on another machine, in a bucket, running, dead or complete."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..storage.errors import DamagedError
from ..storage.files import names_in, read_json
from ..storage.object_path import AnyPath
from ..training.run import RunFolder, is_done, load_job
from .grid import CANDIDATES
from .journal import Journal
from .runs import name_folds

Line = dict[str, Any]
"""Of the journal."""


@dataclass(frozen=True)
class Span:
    """A stretch of a fold's time, in seconds since 1970: an attempt at it, by its number, `running` or ended
    (`done`, `failed`, or `cut short` with the command); or `waiting` after that attempt. `stop` is None while it goes
    on."""

    state: str
    attempt: int
    start: float
    stop: float | None
    error: str = ""
    """Why it has failed."""


@dataclass(frozen=True)
class FoldStatus:
    """A fold: its name, its epochs so far of how many, the metrics of each, its newest checkpoint, and its time."""

    name: str
    done: bool
    epochs: float
    of: int
    history: list[dict[str, Any]]
    checkpoint: str
    unit: str
    """With which it was trained last: all folds of one pass, or itself."""
    spans: list[Span]

    @property
    def scores(self) -> dict[str, Any]:
        """Those of the last epoch."""
        return self.history[-1] if self.history else {}

    @property
    def state(self) -> str:
        """In a word."""
        if self.done:
            return "done"
        if self.spans:
            failed = self.spans[-1].state == "waiting" and any(span.error for span in self.spans)
            return "failed" if failed else self.spans[-1].state
        return "begun" if self.epochs else "waiting"


@dataclass(frozen=True)
class RunStatus:
    """A run: whether all of it is done, its folds, what has happened, with its time, what has failed, its last log."""

    complete: bool
    folds: list[FoldStatus]
    events: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    log: str = ""


def run_status(root: AnyPath) -> RunStatus:
    """The status of a run, or of a grid with all of its candidates. Raises ForeignError where there is none."""
    names = names_in(root / CANDIDATES)
    runs = {name: RunFolder(root / CANDIDATES / name) for name in names} or {"": RunFolder(root)}
    lines = [line for line in Journal(RunFolder(root).journal).lines() if "time" in line]  # once they had none
    logs = names_in(RunFolder(root).logs)
    folds = [fold for name, run in runs.items() for fold in _folds(name, run, lines)]
    return RunStatus(
        all(run.summary.exists() for run in runs.values()),
        folds,
        [(line["time"], told) for line in lines if (told := in_words(line))],
        [told for line in lines if (told := failure(line))],
        (RunFolder(root).logs / logs[-1]).read_bytes().decode() if logs else "",
    )


def _folds(candidate: str, run: RunFolder, lines: Sequence[Line]) -> Iterator[FoldStatus]:
    job = load_job(run)
    for name, one in name_folds(job, run, candidate).items():
        folder, state = run.fold(one.fold), dict[str, Any](epochs=0.0, history=[])
        with suppress(FileNotFoundError, DamagedError):  # it has not begun, or a crash of the machine has emptied it
            state = read_json(folder.progress)
        done = is_done(folder)
        stored = [kept for kept in names_in(folder.checkpoints) if kept.startswith("epoch-")]
        units = [line["start"] for line in lines if name in line.get("folds", ())]
        yield FoldStatus(
            name,
            done,
            state["epochs"],
            job.config.epochs,
            state["history"],
            stored[-1] if stored else "",
            units[-1] if units else name,
            [span for span in spans_of(name, lines) if span.stop or not (done and span.state == "waiting")],
        )


def spans_of(fold: str, lines: Sequence[Line]) -> Iterator[Span]:
    """A fold's time, from the journal's lines, until it is done."""
    state, since, unit, attempt = "waiting", lines[0]["time"] if lines else 0.0, "", 0
    for line in lines:
        begun = fold in line.get("folds", ())
        ended = ending(line, unit, attempt, begun) if state == "running" else ""
        if begun or ended:
            yield Span(ended or state, attempt, since, line["time"], reason(line) if ended == "failed" else "")
            state, since = "running" if begun else "done" if ended == "done" else "waiting", line["time"]
        if begun:
            unit, attempt = line["start"], line["attempt"]
    if lines and state != "done":
        yield Span(state, attempt, since, None)


def ending(line: Line, unit: str, attempt: int, followed: bool) -> str:
    """What an attempt ends in by a line of the journal, perhaps because another one follows; nothing if it goes on."""
    if followed or line.get("event") == "Restarted":
        return "cut short"
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
        return f"{line['reason']}; from the last checkpoint others go on"
    if line.get("event") == "Silent":
        return f"silent for {line['seconds']:.0f} s"
    return line["error"] or "" if line.get("event") == "Ended" else ""


def in_words(line: Mapping[str, Any]) -> str:
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
    return failure(line)
