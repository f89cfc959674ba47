"""A full or read-only disk: a clear error, nothing committed, and the same command resumes."""

from pathlib import Path

import pytest
from foldstream.storage.format.manifest import MANIFEST

from .convert_kills import Quiet, convert_quietly, hashes, make_csv
from .processes import convert_command, finish, refusal, remount, start

LARGE_ENOUGH = "size=200m"


@pytest.fixture(scope="module")
def quiets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Quiet]:
    """The undisturbed conversion of each source, by the name of the source."""
    folder = tmp_path_factory.mktemp("quiet")
    return {source.name: convert_quietly(source, folder / "quiet.zarr") for source in make_csv(folder)}


@pytest.mark.parametrize(
    "name", [pytest.param("misleads.csv", id="while shards are written"), pytest.param("fits.csv.gz", id="unpacking")]
)
def test_a_full_disk_is_reported_and_with_more_space_the_command_resumes(
    quiets: dict[str, Quiet], small_disk: Path, tmp_path: Path, name: str
) -> None:
    quiet, out, log = quiets[name], small_disk / "out.zarr", tmp_path / "log"
    message = refusal(convert_command(quiet.source, out), log)
    assert message.startswith(f"{out}: the disk is full; free some space, then run the same command again")
    assert not (out / MANIFEST).exists()
    remount(small_disk, LARGE_ENOUGH)
    finish(start(convert_command(quiet.source, out), log), log)
    assert hashes(out) == quiet.files


def test_a_read_only_disk_is_reported(quiets: dict[str, Quiet], small_disk: Path, tmp_path: Path) -> None:
    remount(small_disk, "ro")
    message = refusal(convert_command(quiets["misleads.csv"].source, small_disk / "out.zarr"), tmp_path / "log")
    assert message.startswith(f"{small_disk / 'out.zarr'}: the disk is read-only; make it writable")
    assert not list(small_disk.iterdir())
