"""SIGKILL for a whole process group: the same command then gives the same bytes as an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from foldstream.storage.dataset import Dataset
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import Location, locate
from foldstream.training.run import RunFolder

pytestmark = pytest.mark.long

FOLDS, EPOCHS = 3, 20  # enough epochs that the third fold still trains when its workers notice the kill
PATIENCE_SECONDS = 240


def command(dataset: Dataset, run: Location, workers: int = 2) -> list[str]:
    """The command that trains digits-cnn (batch norm, dropout, random shifts) with two workers, or others."""
    options = ["--folds", str(FOLDS), "--epochs", str(EPOCHS), "--batch-size", "64", "--workers", str(workers)]
    options += ["--fold-mode", "runs"]
    return [sys.executable, "-m", "foldstream.cli", "train", str(dataset.root), str(run), *options]


def weights(run: RunFolder) -> list[bytes]:
    return [run.fold(fold).weights.read_bytes() for fold in range(FOLDS)]


def kill_in_third_fold(arguments: list[str], run: RunFolder) -> None:
    """Start a command in its own process group, and kill the group once its third fold has a checkpoint."""
    process = subprocess.Popen(arguments, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        for folder, awaited in (
            (run.fold(0), "done.json"),
            (run.fold(1), "done.json"),
            (run.fold(2), "checkpoints/e*"),
        ):
            while not any(Path(str(folder.root)).glob(awaited)):
                assert process.poll() is None, f"the command ended before {awaited}"
                assert time.monotonic() < deadline, f"no {awaited}"
                time.sleep(0.01)
            # Listing processes takes as long as a short fold, so it is done well before the kill is due.
            family = family or psutil.Process(process.pid).children(recursive=True)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, f"processes outlive their killed group: {alive}"


@pytest.mark.timeout(900)
def test_a_run_killed_in_its_third_fold_ends_with_the_same_weights(digits: Dataset, tmp_path: Path) -> None:
    quiet, killed = RunFolder(locate(tmp_path / "quiet")), RunFolder(locate(tmp_path / "killed"))
    kill_in_third_fold(command(digits, killed.root), killed)
    assert killed.fold(1).done.exists()
    assert not killed.fold(2).done.exists()
    kept = os.stat(str(killed.fold(1).weights)).st_mtime_ns
    for run, workers in ((killed, 2), (quiet, 0)):
        subprocess.run(command(digits, run.root, workers), check=True, stdout=subprocess.DEVNULL)
    assert weights(killed) == weights(quiet)
    assert os.stat(str(killed.fold(1).weights)).st_mtime_ns == kept, "a finished fold was trained again"
    one, other = (read_json(run.summary)["out_of_fold"] for run in (killed, quiet))
    assert one == other
