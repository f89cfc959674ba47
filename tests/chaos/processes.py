"""The command line in a session of its own, so that all of its processes are found, however they came to be."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PATIENCE_SECONDS = 240
WORKER = "spawn_main"  # what Dask's nannies start


def convert_command(source: Path, out: Path) -> list[str]:
    """The command that converts a CSV file of digits, or a folder of images of which some may be faulty."""
    command = [sys.executable, "-m", "foldstream.cli", "convert"]
    if source.is_dir():
        return [*command, "images", str(source), str(out), "--size", "96", "--on-error", "skip"]
    return [*command, "csv", str(source), str(out), "--label", "label"]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; all that it prints goes to the file `log`."""
    with open(log, "wb") as file:
        return subprocess.Popen(arguments, start_new_session=True, stdout=file, stderr=subprocess.STDOUT)


def session_processes(session: int) -> list[psutil.Process]:
    """All processes of a session that is led by the process with this id, also those whose parent is gone."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except (ProcessLookupError, PermissionError):
            continue
    return found


def dask_workers(session: int) -> list[psutil.Process]:
    """The Dask workers of a session, without the nannies that look after them."""
    workers = []
    for process in session_processes(session):
        try:
            if any(WORKER in argument for argument in process.cmdline()):
                workers.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(workers, key=lambda process: process.pid)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the whole group of a command."""
    if session_processes(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_session_ended(session: int) -> None:
    """Wait until no process of a session is left."""
    _, alive = psutil.wait_procs(session_processes(session), timeout=60)
    assert not alive, f"processes outlive their command: {alive}"


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a command that must succeed, with all of its processes."""
    try:
        code = process.wait(PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            kill_session(process)
    assert code == 0, f"exit code {code}: {log.read_text()}"
    assert_session_ended(process.pid)


class Deadline:
    """Raises where what is awaited does not come."""

    def __init__(self, seconds: float = PATIENCE_SECONDS) -> None:
        self.end = time.monotonic() + seconds

    def check(self, awaited: str) -> None:
        assert time.monotonic() < self.end, f"no {awaited}"


def refusal(arguments: list[str], log: Path) -> str:
    """What a command prints when it fails with exit code 1, as it must."""
    process = start(arguments, log)
    code = process.wait(PATIENCE_SECONDS)
    assert_session_ended(process.pid)
    printed = log.read_text()
    assert code == 1, printed
    assert "Traceback" not in printed
    return printed.rpartition("error: ")[2]


def remount(disk: Path, option: str) -> None:
    """Mount a small disk with another option."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)
