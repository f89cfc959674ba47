"""What commands print for programs and in quiet mode, and how Ctrl-C stops them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import foldstream as fs
import pytest
from foldstream.storage.dataset import Dataset
from foldstream.storage.places.locate import locate
from foldstream.training.run import RunFolder

from ..chaos.fold_kills import wait_for
from ..chaos.processes import PATIENCE_SECONDS, assert_session_ended, kill_session, start

COMMAND = [sys.executable, "-m", "foldstream.cli"]


def test_for_programs_each_line_is_json(digits_csv: Path, tmp_path: Path) -> None:
    options = ["--json", "convert", "csv", digits_csv, tmp_path / "out.zarr", "--label", "label"]
    done = subprocess.run([*COMMAND, *map(str, options)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    *told, last = map(json.loads, done.stdout.splitlines())
    of_conversion = [one for one in told if one.get("stage") == "convert"]
    assert (of_conversion[0]["done"], of_conversion[-1]["done"]) == (0, 1200)
    dataset = fs.open(tmp_path / "out.zarr")
    assert dataset.facts().items() <= last["result"].items()
    assert len(last["result"]["columns"]) == len(dataset.columns()) == 785
    shown = subprocess.run([*COMMAND, "--json", "info", str(tmp_path / "out.zarr")], capture_output=True, text=True)
    assert json.loads(shown.stdout) == last


def test_quiet_commands_print_errors_only(digits_csv: Path, tmp_path: Path) -> None:
    options = ["--quiet", "convert", "csv", digits_csv, tmp_path / "out.zarr"]
    done = subprocess.run([*COMMAND, *map(str, options)], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wrong = subprocess.run([*COMMAND, "--quiet", "info", str(tmp_path / "no.zarr")], capture_output=True, text=True)
    assert wrong.returncode != 0
    assert "does not exist" in wrong.stderr
    assert wrong.stdout == ""


@pytest.mark.parametrize(("times", "workers"), [(1, "0"), (1, "1"), pytest.param(2, "1", marks=pytest.mark.long)])
def test_ctrl_c_stops_a_training_and_says_how_to_resume(
    times: int, workers: str, digits: Dataset, tmp_path: Path
) -> None:
    options = ["--folds", "3", "--epochs", "50", "--batch-size", "64", "--workers", workers, "--model", "mlp"]
    run, log = RunFolder(locate(tmp_path / "run")), tmp_path / "log"
    process = start([*COMMAND, "train", str(digits.root), str(run.root), *options], log)
    try:
        wait_for(process, run, 3)
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the command with all that it has started
            while log.read_text().count("press Ctrl-C again") == 0:
                assert process.poll() is None, log.read_text()
        code = process.wait(PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            kill_session(process)
    assert code == 130
    assert_session_ended(process.pid)
    told = log.read_text().splitlines()
    assert ("stopped: finished work is kept; run the same command again to resume" in told) == (times == 1)
    assert "Traceback" not in log.read_text()
