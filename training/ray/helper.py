"""Helper processes on this machine that train some of the folds alongside this process.

Importing torch takes seconds, so helpers are started before this process does so. This module does not import torch.
"""

import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from ...storage.errors import StoppedError
from ...storage.machine import end_with_parent, no_garbage_collection
from ..stopping import STOP, started_here, stoppable, stopped
from .group import Failure, GroupRequest, describe_failure

DIED = "a helper process died, most likely because it ran out of memory; use --workers 0 to train in this process alone"
STOPPED = "a helper process was stopped by a signal; its checkpoints have been written"


class Helper:
    """A process that trains one group after another. It ends at the latest with this process."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        descriptor = theirs.fileno()
        command = [sys.executable, "-m", "foldstream.training.ray.helper", str(descriptor)]
        # What this process can import, such as a user's model beside a script, the other one can too.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[descriptor], env=environment)
        started_here(self.process.pid)
        theirs.close()

    def begin(self, request: GroupRequest) -> None:
        """Start training a group. `end` must follow."""
        if self.process.poll() is not None:  # it has died
            self.connection.close()
            self._start()
        self.connection.send(request)

    def end(self) -> Failure | None:
        """Wait until the group has been trained. Returns the failure, if any."""
        try:
            failure: Failure | None = self.connection.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            return Failure(STOPPED if code == StoppedError.exit_code else DIED)
        return failure

    def stop(self) -> None:
        """Ask the process to stop. It exits after writing checkpoints."""
        self.process.send_signal(signal.SIGUSR1)

    def has_ended(self) -> bool:
        """Whether `end` would return immediately."""
        return self.connection.poll()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def main(descriptor: int) -> None:
    """Train the groups that the main process requests. A signal stops the training and this process."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the other process, which ends this one
    try:
        with stoppable():
            _train_groups(Connection(descriptor))
    except StoppedError as stopped:
        os._exit(stopped.exit_code)


def _train_groups(connection: Connection) -> None:
    with no_garbage_collection():
        from ...storage.places.requests import expect_stores
        from .here import train_here

        expect_stores()

    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        failure = None
        try:
            train_here(request)
        except StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - it is reported to the other process
            failure = describe_failure(error)
        connection.send(failure)
        if STOP.is_set:  # too late for the training to notice
            raise stopped()


if __name__ == "__main__":
    main(int(sys.argv[1]))
