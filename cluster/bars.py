"""The progress bars of functions called from Python: in a terminal or a notebook, and none elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from time import monotonic
from typing import TYPE_CHECKING, Any

from .listener import Listener
from .wording import in_python

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

REDRAW_SECONDS = 0.2  # between two pictures in a notebook
WARNINGS = ("warning", "skipped")  # among announcements

log = logging.getLogger("foldstream")


@contextmanager
def showing_progress(listener: Listener | None, progress: bool = True) -> Iterator[Listener]:
    """The listener of a call: the given one, or else progress bars where someone sees them, unless `progress` is False.

    Announcements speak of keywords. Without a listener, they are logged by the logger "foldstream", warnings as such
    and others as information.
    """
    if listener is not None:
        yield Listener(listener.progress, lambda name, value: listener.announce(name, in_python(value)))
    elif progress and in_notebook():
        yield Listener(NotebookBars(), announce)
    elif progress and sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console

        with terminal_bars(Console(stderr=True)) as bars:
            yield Listener(Bars(bars), announce)
    else:
        yield Listener(announce=announce)


def announce(name: str, value: str) -> None:
    """Log an announcement, in the words of Python."""
    log.log(logging.WARNING if name in WARNINGS else logging.INFO, "%s: %s", name, in_python(value))


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def terminal_bars(console: Console, disable: bool = False) -> Progress:
    """Progress bars on a console."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
        console=console,
        disable=disable,
    )


class Bars:
    """Progress bars in a terminal, one per stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, remark: str = "") -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=max(total, 1), remark=remark)
        self._progress.update(self._tasks[stage], completed=done if total else 1, total=max(total, 1), remark=remark)


class NotebookBars:
    """Progress bars in the output of a notebook's cell, one per stage."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[int, int, str]] = {}
        self._drawn = 0.0
        self._handle: Any = None

    def __call__(self, stage: str, done: int, total: int, remark: str = "") -> None:
        self._stages[stage] = done, total, remark
        if done < total and monotonic() - self._drawn < REDRAW_SECONDS:
            return
        from IPython import display as ipython

        self._drawn = monotonic()
        picture = {"text/html": self.html()}
        if self._handle is None:
            self._handle = ipython.display(picture, raw=True, display_id=True)
        else:
            self._handle.update(picture, raw=True)

    def html(self) -> str:
        """All bars as a table."""
        rows = (
            f"<tr><td>{escape(stage)}</td>"
            f"<td><progress value='{done if total else 1}' max='{max(total, 1)}'></progress></td>"
            f"<td style='text-align: left'>{escape(remark)}</td></tr>"
            for stage, (done, total, remark) in list(self._stages.items())
        )
        return f"<table>{''.join(rows)}</table>"
