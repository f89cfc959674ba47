"""A disk that is full or read-only: an error in words, nothing committed, and the same command resumes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from foldstream.storage.format import MANIFEST

from .convert_kills import Quiet, convert_quietly, hashes, make_csv
from .processes import PATIENCE_SECONDS, assert_session_ended, convert_command, finish, start

TOO_SMALL, LARGE_ENOUGH = "size=3m", "size=200m"


@pytest.fixture(scope="module")
def quiets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Quiet]:
    """Undisturbed conversions of both sources by the sources' names."""
    folder = tmp_path_factory.mktemp("quiet")
    return {source.name: convert_quietly(source, folder / "quiet.zarr") for source in make_csv(folder)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that has room for less than half of the dataset."""
    if os.geteuid():
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", TOO_SMALL, "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


def refusal(source: Path, out: Path, log: Path) -> str:
    """What the command prints when it fails with exit code 1, as it must."""
    process = start(convert_command(source, out), log)
    code = process.wait(PATIENCE_SECONDS)
    assert_session_ended(process.pid)
    printed = log.read_text()
    assert code == 1, printed
    assert "Traceback" not in printed
    return printed.rpartition("error: ")[2]


@pytest.mark.parametrize(
    "name", [pytest.param("misleads.csv", id="while shards are written"), pytest.param("fits.csv.gz", id="unpacking")]
)
def test_a_full_disk_is_said_in_words_and_with_more_room_the_command_resumes(
    quiets: dict[str, Quiet], small_disk: Path, tmp_path: Path, name: str
) -> None:
    quiet, out, log = quiets[name], small_disk / "out.zarr", tmp_path / "log"
    message = refusal(quiet.source, out, log)
    assert message.startswith(f"{out}: the disk is full; make room there, then run the same command again")
    assert not (out / MANIFEST).exists()
    remount(small_disk, LARGE_ENOUGH)
    finish(start(convert_command(quiet.source, out), log), log)
    assert hashes(out) == quiet.files


def test_a_read_only_disk_is_said_in_words(quiets: dict[str, Quiet], small_disk: Path, tmp_path: Path) -> None:
    remount(small_disk, "ro")
    message = refusal(quiets["misleads.csv"].source, small_disk / "out.zarr", tmp_path / "log")
    assert message.startswith(f"{small_disk / 'out.zarr'}: the disk is read-only; make it writable")
    assert not list(small_disk.iterdir())
