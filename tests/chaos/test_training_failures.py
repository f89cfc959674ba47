"""A disk or data error during training is reported clearly, once. Once it is fixed, the same command completes the
run."""

import shutil
import time
from pathlib import Path

import foldstream as fs
import pytest
from foldstream.cluster.runs.journal import Journal
from foldstream.cluster.runs.schedule import Ended
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.places.locate import locate
from foldstream.training.run import RunFolder

from .fold_kills import command, result, training
from .processes import Deadline, finish, kill_session, refusal, remount, start

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def failures(run: RunFolder) -> list[bool]:
    """For each failed attempt, whether it was final."""
    return [event.final for event in Journal(run.journal).read() if isinstance(event, Ended) and event.error]


def test_a_full_disk_is_reported_and_with_more_space_the_run_resumes(
    digits: Dataset, small_disk: Path, tmp_path: Path
) -> None:
    run, log = RunFolder(locate(small_disk / "run")), tmp_path / "log"
    message = refusal(command(digits.root, run.root), log).replace("\n", " ")
    assert "the disk is full; free some space, then run the same command again" in message
    remount(small_disk, "size=200m")
    finish(start(command(digits.root, run.root), log), log)
    assert result(run)[0]


def test_a_damaged_shard_is_named_and_once_it_is_repaired_the_run_resumes(digits: Dataset, tmp_path: Path) -> None:
    data = open_dataset(shutil.copytree(digits.root, tmp_path / "data.zarr"))
    begun, new = (RunFolder(locate(tmp_path / name)) for name in ("begun", "new"))
    with training(command(data.root, begun.root), tmp_path / "log") as process:
        deadline = Deadline()
        while not begun.job.exists():  # what is fitted on the rows is known by then, and the workers start
            deadline.check("run.json")
            time.sleep(0.01)
        kill_session(process)
    shard = [path for path in sorted((tmp_path / "data.zarr" / "x" / "c").rglob("*")) if path.is_file()][-1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + bytes(100) + whole[1100:])
    # A new run reads all rows before it trains; one that is resumed only some, for a trial of the model.
    for run, attempts in ((begun, [True]), (new, [])):
        message = refusal(command(data.root, run.root), tmp_path / "log").replace("\n", " ")
        assert f"{shard}: " in message
        assert "(rows " in message
        assert f"'foldstream verify {data.root} --repair'" in message
        assert failures(run) == attempts
    fs.verify(data.root, repair=True)
    assert shard.read_bytes() == whole
    finish(start(command(data.root, begun.root), tmp_path / "log"), tmp_path / "log")
    assert result(begun)[0]
