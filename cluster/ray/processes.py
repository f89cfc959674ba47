"""Kill processes, and wait for them to exit."""

from collections.abc import Iterable
from contextlib import suppress
from time import monotonic, sleep

import psutil

END_SECONDS = 10


def end_processes(processes: Iterable[psutil.Process]) -> None:
    """Kill processes that Ray has asked to exit: its dashboard takes seconds, and an actor whose owner was killed may
    hang while exiting."""
    every = list(processes)
    for process in every:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    await_end(every, END_SECONDS)


def await_end(processes: Iterable[psutil.Process], seconds: float) -> None:
    """Return when all processes have exited, or after `seconds`.

    A zombie counts as exited: if its parent has exited too, init has to reap it, which may be slow.
    """
    left, deadline = list(processes), monotonic() + seconds
    while (left := [process for process in left if _runs(process)]) and monotonic() < deadline:
        sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
