"""Fixtures shared by the failure tests."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TOO_SMALL = "size=3m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An in-memory file system that is too small for half of the dataset."""
    if os.geteuid():
        pytest.skip("mounting a small file system requires root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", TOO_SMALL, "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this machine cannot mount a small file system: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
