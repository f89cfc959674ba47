"""Other processes on this machine that train along with this one, each some folds of its own.

It takes seconds to load torch, so they are started before this process does that. Importing this module does not.
"""

import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from ...storage.errors import AttemptError, FoldstreamError
from ...storage.machine import end_with_parent, no_garbage_collection
from ..zoo.user_code import read_error_note
from .group import FINAL, GroupRequest

DIED = (
    "a process that trains along with this one has died, most likely because it ran out of memory; --workers 0 trains "
    "in this process alone"
)
Failure = tuple[str, bool]
"""Why an attempt has failed, and whether another one would fail in the same way."""


class Helper:
    """A process that trains one group after the other. It ends with this one at the latest."""

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

    def begin(self, request: GroupRequest) -> None:
        """Have it train a group. `end` must follow."""
        if self.process.poll() is not None:  # it has died
            self.connection.close()
            self._start()
        self.connection.send(request)

    def end(self) -> Failure | None:
        """Wait until it has trained the group. Returns why it failed, if it did."""
        try:
            failure: Failure | None = self.connection.recv()
        except (EOFError, OSError):
            self.process.wait()
            return DIED, False
        return failure

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def describe_failure(error: Exception) -> Failure:
    """Why training has failed."""
    reason = str(error) if isinstance(error, FoldstreamError) else read_error_note(error)
    return reason, isinstance(error, FINAL) and not isinstance(error, AttemptError)


def main(descriptor: int) -> None:
    """Train the groups that the other process asks for."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the other process, which ends this one
    connection = Connection(descriptor)
    with no_garbage_collection():
        from .here import train_here

    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        failure = None
        try:
            train_here(request)
        except Exception as error:  # noqa: BLE001 - it is reported to the other process
            failure = describe_failure(error)
        connection.send(failure)


if __name__ == "__main__":
    main(int(sys.argv[1]))
