"""Graceful stopping of training: the signals that request it, and the turn after which all ranks stop.

SIGTERM, and Slurm's SIGUSR1, are sent before a machine is preempted. The training loop checks between steps whether a
stop was requested, writes checkpoints and raises StoppedError. Processes that do not finish in time are killed.
"""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import psutil

from ..storage.errors import StoppedError

SIGNALS = signal.SIGTERM, signal.SIGUSR1
GRACE_SECONDS = 8.0  # from a signal to the end of this process
REPEAT_SECONDS = 1.0  # within which a repeated signal is the same one, sent to the process and to its group
POLL_SECONDS = 0.2  # between two looks whether another rank was asked
COMPILERS = {"g++", "c++", "clang", "clang++", "cc1plus", "collect2", "as", "ld"}
"""Not stopped: torch.compile would load the partial output of one of these."""
COMPILER_SECONDS = 1.0  # for which they are awaited
ASKED = "stop"  # the key in the ranks' store that says so
_started: list[psutil.Process] = []
"""What this process has started for its jobs."""


class StopFlag:
    """Whether this process was asked to stop, and who else must be notified."""

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self.watchers = 0
        """Number of parts of this process that check the flag between their steps. If there are none, a signal
        raises."""
        self.others: list[Callable[[], None]] = []
        """Called once when this process is asked to stop."""

    @property
    def is_set(self) -> bool:
        return self.asked_at is not None

    def set(self) -> None:
        """Ask this process to stop."""
        if self.asked_at is None:
            self.asked_at = monotonic()
            for tell in self.others:
                tell()

    @contextmanager
    def watched(self, tell: Callable[[], None] = lambda: None) -> Iterator[None]:
        """In this context, the caller checks the flag periodically instead of being interrupted; `tell` forwards the
        request."""
        self.watchers += 1
        self.others.append(tell)
        try:
            yield
        finally:
            self.watchers -= 1
            self.others.remove(tell)


STOP = StopFlag()
"""The flag of this process, since signals are sent to a process."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Make the first signal set `STOP`, and kill this process if it is still running after GRACE_SECONDS or on a second
    signal. A program's own handlers are kept, and nothing changes outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    STOP.asked_at = None
    catch_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def catch_signals() -> None:
    """Make signals ask this process to stop, replacing the system's handlers and Ray's."""
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is signal.SIG_DFL or getattr(handler, "__module__", "").startswith("ray."):
            signal.signal(number, handle)


def handle(number: int, frame: FrameType | None) -> None:
    """Handle a signal that asks this process to stop."""
    if STOP.asked_at is not None:
        if monotonic() - STOP.asked_at > REPEAT_SECONDS:
            end_now("stopped immediately by a second signal")
        return
    STOP.set()
    late = "a step, a compilation or a write took too long"
    timer = threading.Timer(GRACE_SECONDS, end_now, [f"stopped by {signal.Signals(number).name}; {late}"])
    timer.daemon = True
    timer.start()
    if not STOP.watchers:
        raise stopped()


def stopped() -> StoppedError:
    """The error that ends this process after a request to stop."""
    return StoppedError(f"stopped by a signal; the training so far is saved in checkpoints; {how_to_resume()}")


def how_to_resume() -> str:
    """How the user can resume this training."""
    if Path(sys.argv[0]).name in ("foldstream", "cli.py"):
        return f"resume with: {shlex.join(['foldstream', *sys.argv[1:]])}"
    return "repeat the same call to resume"


def end_now(why: str) -> None:
    """Kill this process and those that `started_here` has noted, with their child processes. Others belong to the
    program that called us, or to the user's model."""
    if not STOP.is_set:  # it has been dealt with
        return
    os.write(2, f"{why}: the training since the last checkpoints is lost; {how_to_resume()}\n".encode())
    own, compilers = set(with_children(_started)), []
    for process in {*own, *psutil.Process().children(recursive=True)}:
        with suppress(psutil.NoSuchProcess):
            if process.name() in COMPILERS:
                compilers.append(process)
            elif process in own:
                process.kill()
    psutil.wait_procs(compilers, timeout=COMPILER_SECONDS)
    os._exit(StoppedError.exit_code)


def started_here(pid: int) -> psutil.Process:
    """Note a process that was just started for a job: it ends with this process. Unlike its id, the returned object
    never stands for a later process."""
    process = psutil.Process(pid)
    _started.append(process)
    return process


def with_children(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those processes that are running, and all that they have started."""
    every = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            every += [process, *process.children(recursive=True)]
    return every


class Turns:
    """The turns of a rank, e.g. its steps: before each turn, it asks whether to take it.

    Ranks that train together must stop after the same turn, but agreeing on each turn would slow them down. Instead,
    once any of them is asked to stop, each rank publishes the number of the last turn that it has begun, and does not
    begin another one before all ranks have done so. All stop after the highest of these numbers.

    Args:
        store: A key-value store shared by the ranks, such as those of torch.distributed; None for a single rank.
        rank: The rank.
        world_size: The number of ranks.
    """

    def __init__(self, store: Any = None, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self.begun = -1
        self.last: int | None = None
        """The last turn to take, once known."""
        self.asked, self.agreed, self.lock = False, threading.Event(), threading.Lock()
        self.closed = threading.Event()
        self.thread: threading.Thread | None = None
        if world_size > 1 and store is not None:
            self.thread = threading.Thread(target=self._agree, args=(store,), name="foldstream-stop", daemon=True)
            self.thread.start()

    def stop_before(self, turn: int) -> bool:
        """Whether this rank and all others stop before a turn. Turn numbers increase from call to call."""
        if self.world_size == 1:
            return STOP.is_set
        with self.lock:
            if not self.asked:
                self.begun = turn
                return False
        if turn <= self.begun:
            return False
        self.agreed.wait()
        if self.last is None or turn > self.last:
            return self.last is not None
        self.begun = turn
        return False

    def close(self) -> None:
        """Stop the thread, because a thread that is still running may abort the process at exit."""
        self.closed.set()
        if self.thread:
            self.thread.join()

    def _agree(self, store: Any) -> None:
        """Wait until a rank is asked to stop, then agree on the last turn."""
        with suppress(RuntimeError):  # the store ends with the first rank
            while not store.check([ASKED]):
                if STOP.is_set:
                    store.set(ASKED, "")
                if self.closed.wait(POLL_SECONDS):
                    return
            with self.lock:
                self.asked = True
            STOP.set()
            store.set(f"{ASKED}-{self.rank}", str(self.begun))
            keys = [f"{ASKED}-{rank}" for rank in range(self.world_size)]
            while not store.check(keys):
                if self.closed.wait(POLL_SECONDS):
                    return
            self.last = max(int(store.get(key)) for key in keys)
        self.agreed.set()
