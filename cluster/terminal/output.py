"""What the commands print: for people a live view, or lines where there is no terminal; for programs JSON; or nothing.

Each command imports what it needs, so this knows neither Dask nor torch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from ..listener import Listener

console = Console()
errors = Console(stderr=True)
LINE_SECONDS = 1.0  # between two lines of JSON about a stage
INTERRUPTED = 130  # the exit code of a command that Ctrl-C has ended


class _Json:
    """Whether what is told is for programs."""

    wanted = False


def choose_output(quiet: bool, json: bool) -> None:
    """Print for people, or nothing but errors, or a line of JSON for each thing that is told."""
    console.quiet, _Json.wanted = quiet or json, json


def tell(value: dict[str, Any], show: Callable[[], None]) -> None:
    """The result of a command: as `show` prints it, or for programs as a value."""
    show()
    tell_programs({"result": value})


def tell_programs(value: dict[str, Any]) -> None:
    """A line of JSON, if those are wanted."""
    if _Json.wanted:
        sys.stdout.write(json.dumps(value, default=str) + "\n")
        sys.stdout.flush()


class Bars:
    """Progress as bars, one a stage. Where there is no terminal, a line when a stage ends."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        self._told: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, remark: str = "") -> None:
        ended = done >= total and stage not in self._ended
        if ended or monotonic() - self._told.get(stage, -LINE_SECONDS) >= LINE_SECONDS:
            self._told[stage] = monotonic()
            tell_programs({"stage": stage, "done": done, "total": total, "remark": remark})
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=max(total, 1), remark=remark)
        self._progress.update(self._tasks[stage], completed=done if total else 1, total=max(total, 1), remark=remark)
        if ended:
            self._ended.add(stage)
            if not console.is_terminal:
                console.print(f"{stage}: {remark}", highlight=False)


@contextmanager
def listening() -> Iterator[Listener]:
    """Progress and addresses for the time of a job, which Ctrl-C ends: once in order, twice at once."""
    from ..listener import Listener

    progress = Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
        console=console,
        disable=console.quiet or not console.is_terminal,
    )

    def announce(name: str, what: str) -> None:
        console.print(f"{name}: {what}", highlight=False, soft_wrap=True)
        tell_programs({"name": name, "value": what})

    before = signal.signal(signal.SIGINT, _interrupt_once)
    try:
        with progress:
            yield Listener(Bars(progress), announce)
    except KeyboardInterrupt:
        errors.print("stopped: what is done is kept, and the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Have the job end in order; if that is asked for again, at once."""
    signal.signal(signal.SIGINT, _end_at_once)
    errors.print("ending; Ctrl-C once more ends at once")
    raise KeyboardInterrupt


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End this process with all that it has started."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(INTERRUPTED)
