"""A process that dies or hangs during training costs no more than the work since the last checkpoint.

These tests kill each kind of process once. `python -m tests.chaos.fold_kills` kills any number at random moments.
"""

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from foldstream.cluster.runs.journal import Journal
from foldstream.cluster.runs.schedule import Ended, Silent
from foldstream.cluster.runs.status import run_status
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import StoppedError
from foldstream.storage.places.locate import locate
from foldstream.training.run import RunFolder

from .fold_kills import FOLDS, await_victims, command, disturb, result, steps_done, training, victims, wait_for

pytestmark = pytest.mark.long

Kind = TypeVar("Kind", Ended, Silent)

HANGS = """
import os
import time
from pathlib import Path

from foldstream.training.zoo.networks import digits_cnn
from torch import nn

class HangsOnce(nn.Module):
    def __init__(self, model, flag):
        super().__init__()
        self.model, self.flag, self.steps = model, Path(flag), 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 20 and os.environ.get("RANK") == "1" and not self.flag.exists():
            self.flag.touch()
            while True:
                time.sleep(1)
        return self.model(x)

def make(sample_shape, outputs, flag=""):
    return HangsOnce(digits_cnn(sample_shape, outputs), flag)
"""

FAILS = """
import os
from pathlib import Path
from torch import nn

class Fails(nn.Module):
    def forward(self, x):
        self.steps += self.training
        if self.steps == 20 and os.environ.get("RANK") == "1":
            Path(TOLD).touch()
            return self.model(x[..., 1:])
        return self.model(x)

def make(sample_shape, outputs):
    from foldstream.training.zoo.networks import digits_cnn
    made = Fails()
    made.steps, made.model = 0, digits_cnn(sample_shape, outputs)
    return made
"""


@pytest.fixture(scope="module")
def undisturbed(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], bytes]:
    """The weights and the predictions of a run without Ray."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    with training(command(digits.root, root, "--workers", "0"), root.with_suffix(".log")) as process:
        assert process.wait() == 0, root.with_suffix(".log").read_text()
    return result(RunFolder(locate(root)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["worker", "node", "controller", "driver"])
def test_a_kill_leaves_the_weights_as_they_would_have_been(
    victim: str, undisturbed: tuple[list[bytes], bytes], digits: Dataset, seed: int, tmp_path: Path
) -> None:
    what = disturb(digits.root, tmp_path / "run", victim, 0.4, random.Random(seed), [])
    assert "nothing" not in what
    assert result(RunFolder(locate(tmp_path / "run"))) == undisturbed
    if victim == "worker":  # Ray Train restarts it
        assert any("died" in failure for failure in run_status(locate(tmp_path / "run")).failures)


@pytest.mark.timeout(600)
def test_a_controller_killed_while_its_workers_start_leaves_their_cores_to_the_next_one(
    undisturbed: tuple[list[bytes], bytes], digits: Dataset, tmp_path: Path
) -> None:
    run, log = RunFolder(locate(tmp_path / "run")), tmp_path / "log"
    with training(command(digits.root, run.root), log) as process:
        await_victims(process, "worker")
        assert steps_done(run) == 0
        victims(process.pid, "controller")[0].kill()
        assert process.wait() == 0, log.read_text()
    assert len(events(run, Ended)) > 1
    assert result(run) == undisturbed


def events(run: RunFolder, kind: type[Kind]) -> list[Kind]:
    """The journal's events of one kind."""
    return [event for event in Journal(run.journal).read() if isinstance(event, kind)]


@pytest.mark.timeout(600)
def test_a_worker_that_hangs_is_found_and_its_fold_trained_again(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    run, log = RunFolder(locate(tmp_path / "run")), tmp_path / "log"
    options = ["--model", f"{tmp_path}/hangs.py:make", "--set", f"flag={tmp_path}/flag", "--hang-timeout", "6"]
    with training(command(digits.root, run.root, *options), log) as process:
        assert process.wait() == 0, log.read_text()
    assert (tmp_path / "flag").exists()
    (silent,) = events(run, Silent)
    assert 3 < silent.seconds <= 6
    assert result(run)[0]


@pytest.mark.timeout(600)
def test_an_error_on_one_rank_ends_the_run_at_once(digits: Dataset, tmp_path: Path) -> None:
    """In torch, as a lost connection between the ranks would be, while the other rank waits. It is told once."""
    (tmp_path / "fails.py").write_text(FAILS.replace("TOLD", repr(str(tmp_path / "told"))))
    run, log = RunFolder(locate(tmp_path / "run")), tmp_path / "log"
    with training(command(digits.root, run.root, "--model", f"{tmp_path}/fails.py:make"), log) as process:
        assert process.wait() == 1
        assert time.time() - (tmp_path / "told").stat().st_mtime < 15
    (ended,) = events(run, Ended)
    assert ended.everywhere
    output = log.read_text().replace("\n", " ")
    assert re.search(
        r"forward pass: .*fails.py, line 11: RuntimeError: mat1 and mat2 shapes cannot be multiplied", output
    )
    assert output.count("RuntimeError") == 1
    assert "run the same command again" in output
    assert "Traceback" not in output


@pytest.mark.timeout(600)
def test_a_stopped_worker_is_killed(undisturbed: tuple[list[bytes], bytes], digits: Dataset, tmp_path: Path) -> None:
    run, log = RunFolder(locate(tmp_path / "run")), tmp_path / "log"
    with training(command(digits.root, run.root, "--hang-timeout", "6"), log) as process:
        wait_for(process, run, 4)
        stopped = victims(process.pid, "worker")[0]
        os.kill(stopped.pid, signal.SIGSTOP)
        assert process.wait() == 0, log.read_text()
    assert events(run, Silent)
    assert not psutil.pid_exists(stopped.pid), "the stopped worker could still write if it continued"
    assert result(run) == undisturbed


@pytest.mark.timeout(600)
def test_a_signal_to_the_command_has_the_workers_write_checkpoints(
    undisturbed: tuple[list[bytes], bytes], digits: Dataset, tmp_path: Path
) -> None:
    run, log, rarely = RunFolder(locate(tmp_path / "run")), tmp_path / "log", ["--checkpoint-every", "50 epochs"]
    with training(command(digits.root, run.root, *rarely), log) as process:
        wait_for(process, run, 4)
        process.terminate()
        assert process.wait(timeout=10) == StoppedError.exit_code, log.read_text()
    assert "resume with: " in log.read_text()
    assert all(run.fold(fold).checkpoints.names() for fold in range(FOLDS))
    with training(command(digits.root, run.root, "--workers", "0"), log) as process:
        assert process.wait() == 0, log.read_text()
    assert result(run) == undisturbed
