"""External programs that tests run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def find_program(name: str) -> str:
    """Find a program next to Python or on the PATH. Skips the test if it is not installed."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path) -> str:
    """Run a command and return its output. If it fails, its output becomes the assertion message."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
