"""How far a run is, read from its folder: it may be on another machine, in a bucket, running, dead or complete."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..storage.errors import DamagedError
from ..storage.files import names_in, read_json
from ..storage.object_path import AnyPath
from ..training.run import RunFolder, is_done, load_job
from .grid import CANDIDATES
from .journal import Journal
from .runs import name_folds
from .schedule import Ended, Silent


@dataclass(frozen=True)
class FoldStatus:
    """A fold: its name, `done` or not, its epochs so far of how many, and the scores of the last one."""

    name: str
    done: bool
    epochs: float
    of: int
    scores: dict[str, Any]


@dataclass(frozen=True)
class RunStatus:
    """A run: whether all of it is done, its folds, what has failed on the way, and its last log."""

    complete: bool
    folds: list[FoldStatus]
    failures: list[str]
    log: str


def run_status(root: AnyPath) -> RunStatus:
    """The status of a run, or of a grid with all of its candidates. Raises ForeignError where there is none."""
    names = names_in(root / CANDIDATES)
    runs = {name: RunFolder(root / CANDIDATES / name) for name in names} or {"": RunFolder(root)}
    folds = [fold for name, run in runs.items() for fold in _folds(name, run)]
    logs = names_in(RunFolder(root).logs)
    return RunStatus(
        all(run.summary.exists() for run in runs.values()),
        folds,
        list(_failures(RunFolder(root))),
        (RunFolder(root).logs / logs[-1]).read_bytes().decode() if logs else "",
    )


def _folds(candidate: str, run: RunFolder) -> Iterator[FoldStatus]:
    job = load_job(run)
    for name, one in name_folds(job, run, candidate).items():
        folder, state = run.fold(one.fold), dict[str, Any](epochs=0.0, history=[])
        with suppress(FileNotFoundError, DamagedError):  # it has not begun, or a crash of the machine has emptied it
            state = read_json(folder.progress)
        last = state["history"][-1] if state["history"] else {}
        yield FoldStatus(name, is_done(folder), state["epochs"], job.config.epochs, last)


def _failures(run: RunFolder) -> Iterator[str]:
    for event in Journal(run.journal).read():
        if isinstance(event, Ended) and event.error:
            yield f"{event.unit}, attempt {event.attempt}: {event.error}"
        elif isinstance(event, Silent):
            yield f"{event.unit}, attempt {event.attempt}: silent for {event.seconds:.0f} s"
