"""A second process on this machine that trains along with this one: it has rank 1, and this process rank 0.

It takes seconds to load torch, so it is started before this process does that. Importing this module does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from ...storage.errors import AttemptError, FoldstreamError, RunError
from ...storage.machine import end_with_parent
from ..zoo.user_code import read_error_note
from .group import FINAL, GroupRequest

if TYPE_CHECKING:
    from ..engine.process import Process

RANKS = 2
ENDING_SECONDS = 10.0
"""For which a process that has left the group may take to say why."""


class Helper:
    """The process, which ends with this one at the latest. It trains one group after the other."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        descriptor = theirs.fileno()
        command = [sys.executable, "-m", "foldstream.training.ray.helper", str(descriptor)]
        # What this process can import, such as a user's model beside a script, the other one can too.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[descriptor], env=environment)
        theirs.close()

    @contextmanager
    def joined(self, request: GroupRequest) -> Iterator[Process]:
        """Rank 0 of a group that trains a request with the other process.

        Raises RunError or AttemptError if that one fails. After any failure it is started anew.
        """
        from ..engine.process import local_group

        if self.process.poll() is not None:
            self._start()
        with tempfile.TemporaryDirectory(prefix="foldstream-") as folder:
            rendezvous = f"{folder}/rendezvous"
            try:
                self.connection.send((request, rendezvous))
                with local_group(0, RANKS, rendezvous) as process:
                    yield process
                self._check_end()
            except (RuntimeError, OSError) as error:
                self._check_end(error)
                raise
            except BaseException:
                self.close()
                raise

    def _check_end(self, error: Exception | None = None) -> None:
        """Raise what the other process has failed with. If it has not failed, it is ended where this one has."""
        answer: tuple[str, bool] | None = None
        died = False
        try:
            if self.connection.poll(ENDING_SECONDS):
                answer = self.connection.recv()
        except (EOFError, OSError):
            died = True
        if error or answer or died:
            self.close()
        if answer:
            reason, final = answer
            raise (RunError if final else AttemptError)(reason) from error
        if died:
            raise AttemptError(
                "the process that trains along with this one has died, most likely because it ran out of memory; "
                "--workers 0 trains in this process alone"
            ) from error

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def main(descriptor: int) -> None:
    """Train the groups that the other process asks for."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the other process, which ends this one
    connection = Connection(descriptor)
    from ..engine.process import local_group
    from .here import run_locally

    while True:
        try:
            request, rendezvous = connection.recv()
        except EOFError:
            return
        answer = None
        try:
            with local_group(1, RANKS, rendezvous) as process:
                run_locally(request, process)
        except Exception as error:  # noqa: BLE001 - it is raised in the other process
            reason = str(error) if isinstance(error, FoldstreamError) else read_error_note(error)
            answer = reason, isinstance(error, FINAL) and not isinstance(error, AttemptError)
        connection.send(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
