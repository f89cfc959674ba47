"""Runs the command line in its own session, so that all of its processes can be found, whatever started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PATIENCE_SECONDS = 240
WORKER = "spawn_main"  # in the command line of the workers that Dask nannies start


def convert_command(source: Path, out: Path) -> list[str]:
    """The command that converts a CSV file of digits, or a folder of images, some of which may be invalid."""
    command = [sys.executable, "-m", "foldstream.cli", "convert"]
    if source.is_dir():
        return [*command, "images", str(source), str(out), "--size", "96", "--on-error", "skip"]
    return [*command, "csv", str(source), str(out), "--label", "label"]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in its own session, with its output redirected to the file `log`."""
    with open(log, "wb") as file:
        return subprocess.Popen(arguments, start_new_session=True, stdout=file, stderr=subprocess.STDOUT)


def session_processes(session: int) -> list[psutil.Process]:
    """All processes of the session whose leader has this id, including orphans."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except (ProcessLookupError, PermissionError):
            continue
    return found


def dask_workers() -> list[psutil.Process]:
    """The Dask workers that this process has started, without what else multiprocessing starts, or has just died."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any(WORKER in argument for argument in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:  # a zombie is one too
            continue
    return found


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to the process group of a command."""
    if session_processes(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_session_ended(session: int) -> None:
    """Assert that all processes of a session end within a minute."""
    _, alive = psutil.wait_procs(session_processes(session), timeout=60)
    assert not alive, f"processes outlive their command: {alive}"


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a command and all of its processes. It must succeed."""
    try:
        code = process.wait(PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            kill_session(process)
    assert code == 0, f"exit code {code}: {log.read_text()}"
    assert_session_ended(process.pid)


class Deadline:
    """Raises AssertionError if something does not happen in time."""

    def __init__(self, seconds: float = PATIENCE_SECONDS) -> None:
        self.end = time.monotonic() + seconds

    def check(self, awaited: str) -> None:
        assert time.monotonic() < self.end, f"timeout while waiting for: {awaited}"


def refusal(arguments: list[str], log: Path) -> str:
    """Run a command that must fail with exit code 1. Returns its error message."""
    process = start(arguments, log)
    code = process.wait(PATIENCE_SECONDS)
    assert_session_ended(process.pid)
    printed = log.read_text()
    assert code == 1, printed
    assert "Traceback" not in printed
    return printed.rpartition("error: ")[2]


def remount(disk: Path, option: str) -> None:
    """Remount a small disk with another option."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)
