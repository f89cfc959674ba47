"""Training in this process, and in others beside it: the same bits as by Ray's workers, whatever is killed."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import foldstream as fs
import psutil
import pytest
import torch
from foldstream.cluster.runs import workers
from foldstream.cluster.runs.journal import Journal
from foldstream.cluster.runs.status import run_status
from foldstream.storage.dataset import Dataset
from foldstream.storage.places.locate import locate
from foldstream.training.ray import helper
from foldstream.training.run import RunFolder

from ..chaos.fold_kills import EPOCHS, FOLDS, result, training, wait_for
from ..chaos.processes import kill_session

OPTIONS: dict[str, Any] = {"folds": FOLDS, "epochs": EPOCHS, "batch_size": 64}
FAILS = """
from torch import nn

def make(sample_shape, outputs):
    return nn.Sequential(Fails(), nn.Flatten(), nn.Linear(784, outputs))

class Fails(nn.Module):
    steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 3:
            ERROR
        return x
"""


def command(dataset: Dataset, run: Path, *options: str) -> list[str]:
    """The command that trains digits-cnn, which uses random numbers and batch norm."""
    fixed = ["--folds", str(FOLDS), "--epochs", str(EPOCHS), "--batch-size", "64"]
    return [sys.executable, "-m", "foldstream.cli", "train", str(dataset.root), str(run), *fixed, *options]


@pytest.fixture(scope="module")
def undisturbed(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], bytes]:
    """The weights and the predictions of a run in one process."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    with training(command(digits, root, "--workers", "0"), root.with_suffix(".log")) as process:
        assert process.wait() == 0, root.with_suffix(".log").read_text()
    return result(RunFolder(locate(root)))


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.long)])
def test_workers_give_what_this_process_gives(
    count: int, undisturbed: tuple[list[bytes], bytes], digits: Dataset, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    with training(command(digits, run, "--workers", str(count)), log) as process:
        assert process.wait() == 0, log.read_text()
    assert "Ray dashboard" in log.read_text()
    assert result(RunFolder(locate(run))) == undisturbed


def test_a_killed_command_resumes_to_the_same_bits(
    undisturbed: tuple[list[bytes], bytes], digits: Dataset, seed: int, tmp_path: Path
) -> None:
    run, log, draw = RunFolder(locate(tmp_path / "run")), tmp_path / "log", random.Random(seed)
    options = "--workers", "0", "--checkpoint-every", "3 steps"
    for part in range(3):
        with training(command(digits, tmp_path / "run", *options), log) as process:
            wait_for(process, run, FOLDS * EPOCHS * (part + draw.random()) / 3)
            assert process.poll() is None, "it ended before it was killed"
            kill_session(process)
    with training(command(digits, tmp_path / "run"), log) as process:
        assert process.wait() == 0, log.read_text()
    assert result(run) == undisturbed


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were enough to train for another process."""
    monkeypatch.setattr(workers, "HELP_ROWS", 0)


def helpers() -> list[psutil.Process]:
    """The processes that train along with this one. Other tests may have left processes that serve the session."""
    children = (one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE)
    return [one for one in children if helper.__name__ in one.cmdline()]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_another_process_trains_folds_of_its_own_and_this_one_gets_its_settings_back(
    helped: None, undisturbed: tuple[list[bytes], bytes], digits: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    before = torch.get_num_threads(), torch.get_rng_state().tolist()
    told: list[str] = []
    listener = fs.Listener(announce=lambda name, value: told.append(f"{name}: {value}"))
    fs.train(digits.root, tmp_path / "run", listener=listener, **OPTIONS)
    assert any("in 2 processes on this machine" in line for line in told)
    assert (torch.get_num_threads(), torch.get_rng_state().tolist()) == before
    assert not {"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} & os.environ.keys()
    assert result(RunFolder(locate(tmp_path / "run"))) == undisturbed
    starts = [line["folds"] for line in Journal(RunFolder(locate(tmp_path / "run")).journal).lines() if "start" in line]
    assert starts == [["fold 0", "fold 1"], ["fold 2"]]
    assert not helpers()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_another_process_that_is_killed_costs_no_more_than_the_work_since_its_checkpoint(
    helped: None, undisturbed: tuple[list[bytes], bytes], digits: Dataset, tmp_path: Path
) -> None:
    run = RunFolder(locate(tmp_path / "run"))
    trained = threading.Event()

    def kill() -> None:
        while not run.fold(2).progress.exists():
            trained.wait(0.01)
        (process,) = helpers()
        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    fs.train(digits.root, tmp_path / "run", **OPTIONS)
    killer.join()
    assert run_status(run.root).failures == [f"fold 2, attempt 1: {helper.DIED}"]
    assert result(run) == undisturbed


@pytest.mark.parametrize(
    ("error", "text", "kind"),
    [
        ('raise KeyError("no such pixel")', "KeyError: 'no such pixel'", KeyError),
        ("return x.reshape(-1, 3, 784)", "RuntimeError: shape .* is invalid", RuntimeError),
    ],
    ids=["KeyError", "shapes"],
)
def test_an_error_of_the_model_ends_the_run_at_once_and_is_told_once(
    error: str,
    text: str,
    kind: type[Exception],
    digits: Dataset,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Not after three attempts, nor once for each fold."""
    (tmp_path / "own.py").write_text(FAILS.replace("ERROR", error))
    message = rf"fold 0: forward pass: .*own.py, line 13: {text}.*make the same call"
    options = {**OPTIONS, "model": f"{tmp_path}/own.py:make", "workers": 0, "fold_mode": "runs"}
    with pytest.raises(fs.FoldstreamError, match=message) as raised:
        fs.train(digits.root, tmp_path / "run", **options)
    assert isinstance(raised.value.__cause__, kind)
    assert len(run_status(locate(tmp_path / "run")).failures) == 1
    assert not caplog.records


CALL = """
import sys
from foldstream.cli import app
from foldstream.storage.errors import UsageError
try:
    app({}, standalone_mode=False)
except UsageError as error:
    print(error)
print("loaded", sorted({{"torch", "ray", "distributed"}} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "lrr=1"], "did you mean 'lr'"),
        (["--set", "hiden=4", "--model", "mlp"], "did you mean 'hidden'"),
        (["--model", "digits-cn"], "did you mean 'digits-cnn'"),
        (["--batch-size", "1", "--workers", "2"], "use --batch-size 2 or more"),
        (["--split", "group", "--group-column", "nosuch"], "nosuch"),
        (["--callback", "mlflw=x"], "did you mean 'mlflow'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_metadata_tell_is_told_before_torch_is_loaded(
    options: list[str], message: str, digits: Dataset, tmp_path: Path
) -> None:
    arguments = ["train", str(digits.root), str(tmp_path / "run"), *options]
    done = subprocess.run([sys.executable, "-c", CALL.format(arguments)], capture_output=True, text=True, timeout=60)
    assert message in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_a_complete_run_is_answered_from_its_record(digits: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = fs.train(digits.root, run, model="mlp", folds=2, epochs=1, settings={"hidden": 8}, workers=0).summary
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    options = ["--model", "mlp", "--folds", "2", "--epochs", "1", "--set", "hidden=8"]
    arguments = ["--json", "train", str(digits.root), str(run), *options]
    done = subprocess.run([sys.executable, "-c", CALL.format(arguments)], capture_output=True, text=True, timeout=60)
    assert str(first["out_of_fold"]["loss"]) in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
