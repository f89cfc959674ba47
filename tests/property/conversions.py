"""Commands on a dataset in processes of their own, which are killed or stopped at a known moment.

A server that has imported and compiled everything forks a process for each command within milliseconds. The moment is
the number of changes of files that the process has begun, so that a kill happens at the same point again.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.pipeline.target.versions import remove_versions
from foldstream.pipeline.verify import find_damage, repair_shards
from foldstream.storage.dataset import open_dataset
from foldstream.storage.errors import FoldstreamError
from foldstream.storage.places import place
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor

from ..conftest import append_files

PATIENCE_SECONDS = 120  # of a process: a test that hangs shows where
CHANGES = {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}  # of Python's audit


def run_convert(source: str, root: str, dtype: str, shuffle: int | None, overwrite: bool) -> None:
    request = ConvertRequest((describe_source(source),), labels=("y",), dtype=dtype, shuffle=shuffle)
    convert(request, root, SerialExecutor(), overwrite=overwrite)


def run_repair(root: str) -> None:
    dataset = open_dataset(root)
    if damages := find_damage(dataset, SerialExecutor()):
        repair_shards(dataset, damages, SerialExecutor())


def run_append(root: str, sources: list[str]) -> None:
    append_files(Path(root), *map(Path, sources))


def run_prune(root: str, keep: int) -> None:
    remove_versions(locate(root), keep)


COMMANDS: dict[str, Callable[..., None]] = {
    "convert": run_convert,
    "repair": run_repair,
    "append": run_append,
    "prune": run_prune,
}


def strike(root: str, moment: int, number: int) -> None:
    """Send this process a signal when it begins the change of that number at `root`."""
    begun = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal begun
        if event not in CHANGES or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if str(arguments[0]).startswith(root) or event == "os.remove":
            begun += 1
            if begun == moment:
                os.kill(os.getpid(), number)

    sys.addaudithook(watch)


def run_command(name: str, arguments: dict[str, Any], moment: int, number: int) -> str:
    """Run a command. Returns the name of the class of its error, or an empty string, and its message."""
    strike(arguments["root"], moment, number)
    try:
        COMMANDS[name](**arguments)
    except FoldstreamError as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Server:
    """A process that forks the commands."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.property.conversions"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, name: str, arguments: dict[str, Any], moment: int = 0, number: int = signal.SIGKILL) -> "Outcome":
        """Run a command until it ends, or is killed or stopped by a signal at a moment, if there is one."""
        return self._ask({"name": name, "arguments": arguments, "moment": moment, "number": number})

    def send(self, pid: int, number: int) -> "Outcome":
        """Send a signal to a process that has been stopped: SIGKILL, or SIGCONT, after which it runs to its end."""
        return self._ask({"pid": pid, "number": number})

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, request: dict[str, Any]) -> "Outcome":
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return Outcome(**json.loads(self._process.stdout.readline()))


class Outcome:
    """How a command has ended, or that it was stopped (but not ended)."""

    def __init__(self, pid: int, stopped: bool, killed: bool, error: str) -> None:
        self.pid, self.stopped, self.killed, self.error = pid, stopped, killed, error
        self.done = not (stopped or killed or error)

    def __repr__(self) -> str:
        return "stopped" if self.stopped else "killed" if self.killed else self.error or "done"


def await_change(pid: int, answers: dict[int, int]) -> dict[str, Any]:
    """Wait until a process has ended or stopped."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    stopped, killed = os.WIFSTOPPED(status), os.WIFSIGNALED(status)
    error = ""
    if not stopped:
        with os.fdopen(answers.pop(pid)) as answer:
            error = answer.read()
        if not killed and os.waitstatus_to_exitcode(status):
            error = f"exit code {os.waitstatus_to_exitcode(status)}: {error}"
    return {"pid": pid, "stopped": stopped, "killed": killed, "error": error}


def fork(request: dict[str, Any], answers: dict[int, int]) -> int:
    """Run a command in a new process, whose answer can be read once it has ended."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        answers[pid] = reading
        return pid
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
    try:
        os.write(writing, run_command(**request).encode())
        os._exit(0)
    finally:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def warm_up(folder: Path) -> None:
    """Compile everything."""
    source = folder / "warm.csv"
    source.write_text("a,b,y\n" + "1,2.5,u\n3,4,v\n" * 20)
    run_convert(str(source), str(folder / "warm.zarr"), "auto", 1, False)
    more = folder / "more.csv"
    more.write_text("a,b,y\n" + "1,2.5,u\n3,4,v\n" * 5)
    append_files(folder / "warm.zarr", more)


def serve() -> None:
    """Run commands until the standard input ends. They change one file after the other, always in the same order."""
    place.THREADS = 1
    with tempfile.TemporaryDirectory() as folder:
        warm_up(Path(folder))
    answers: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "pid" in request:
            pid = request["pid"]
            os.kill(pid, request["number"])
        else:
            pid = fork(request, answers)
        print(json.dumps(await_change(pid, answers)), flush=True)
    for pid in answers:  # stopped by a test that failed
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
