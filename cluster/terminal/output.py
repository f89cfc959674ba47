"""The output of commands: a live view for people, or plain lines without a terminal; JSON for programs; or nothing.

Commands import what they need, so this module imports neither Dask nor torch.
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
from rich.progress import Progress

from ..bars import Bars, terminal_bars

if TYPE_CHECKING:
    from ..listener import Listener

console = Console()
errors = Console(stderr=True)
LINE_SECONDS = 1.0  # between two JSON lines about the same stage
INTERRUPTED = 130  # exit code of a command that Ctrl-C has stopped


class _Json:
    """Whether output is JSON for programs."""

    wanted = False


def choose_output(quiet: bool, json: bool) -> None:
    """Choose output for people, errors only, or one line of JSON for each result and progress update."""
    console.quiet, _Json.wanted = quiet or json, json


def print_result(value: dict[str, Any], show: Callable[[], None]) -> None:
    """Print the result of a command: for people with `show`, for programs as JSON."""
    show()
    print_json({"result": value})


def print_json(value: dict[str, Any]) -> None:
    """Print a line of JSON, if output is for programs."""
    if _Json.wanted:
        sys.stdout.write(json.dumps(value, default=str) + "\n")
        sys.stdout.flush()


class Stages(Bars):
    """Progress bars, one per stage. Without a terminal, a line at the end of each stage."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self._ended: set[str] = set()
        self._printed: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, remark: str = "") -> None:
        ended = done >= total and stage not in self._ended
        if ended or monotonic() - self._printed.get(stage, -LINE_SECONDS) >= LINE_SECONDS:
            self._printed[stage] = monotonic()
            print_json({"stage": stage, "done": done, "total": total, "remark": remark})
        super().__call__(stage, done, total, remark)
        if ended:
            self._ended.add(stage)
            if not console.is_terminal:
                console.print(f"{stage}: {remark}", highlight=False)


@contextmanager
def listening() -> Iterator[Listener]:
    """Show progress and addresses while a job runs. Ctrl-C stops it gracefully, a second Ctrl-C immediately."""
    from ..listener import Listener

    progress = terminal_bars(console, disable=console.quiet or not console.is_terminal)

    def announce(name: str, value: str) -> None:
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
        print_json({"name": name, "value": value})

    before = signal.signal(signal.SIGINT, _interrupt_once)
    try:
        with progress:
            yield Listener(Stages(progress), announce)
    except KeyboardInterrupt:
        errors.print("stopped: finished work is kept; run the same command again to resume")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Stop the job gracefully; the next Ctrl-C stops it immediately."""
    signal.signal(signal.SIGINT, _end_at_once)
    errors.print("stopping; press Ctrl-C again to stop immediately")
    raise KeyboardInterrupt


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """Kill all child processes and exit."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(INTERRUPTED)
