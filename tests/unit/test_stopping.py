"""A training that is asked to stop writes checkpoints, from every phase, and goes on to the weights of an undisturbed
one."""

import math
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from foldstream.cluster.ray import job_cluster
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import StoppedError
from foldstream.training.config import Execution
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.run import RunFolder, RunJob, folds_of
from foldstream.training.stopping import STOP

from .test_mid_epoch import histories, positions, train_alone
from .test_training import fold_bytes, make_job

MODEL = """
from torch import nn

def make(sample_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, outputs))
"""
WAITS = """
import sys, time
from foldstream.training import stopping

stopping.GRACE_SECONDS, stopping.REPEAT_SECONDS = float(sys.argv[1]), 0.0
with stopping.stoppable(), stopping.STOP.watched():
    print("ready", flush=True)
    while not stopping.STOP.is_set:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)  # a step that takes long
"""
GROUPS = {"runs": [[0], [1], [2]], "fused": [[0, 1, 2]]}
NEVER = ("", 0)


@pytest.fixture(autouse=True)
def nobody_asked() -> Iterator[None]:
    yield
    STOP.asked_at = None


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model.py").write_text(MODEL)
    return f"{tmp_path}/model.py:make"


def train_until(job: RunJob, run: RunFolder, mode: str, moment: tuple[str, int], every: str) -> None:
    """Train what is left in this process, asked to stop at the n-th heartbeat of a method of the loop."""
    beats = Counter[str]()

    def heartbeat(working: bool) -> None:
        method = sys._getframe(1).f_code.co_name
        beats[method] += 1
        if (method, beats[method]) == moment:
            STOP.set()

    for folds in GROUPS[mode]:
        if left := [fold for fold in folds if not run.fold(fold).done.exists()]:
            FoldTrainer(folds_of(job, run, left), Process(), Execution(checkpoint_every=every), heartbeat).train()


@pytest.mark.parametrize(
    ("mode", "every", "settings"),
    [
        ("runs", "1 epoch", {}),
        ("fused", "5 epochs", {"accumulate": "3", "optimizer": "SGD", "lr": "0.05", "momentum": "0.9"}),
    ],
    ids=["runs", "fused, accumulate"],
)
def test_a_training_stops_in_every_phase(
    mode: str, every: str, settings: dict[str, str], model: str, digits: Dataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 2, "shares": 2, "model": model}
    job, quiet = make_job(digits, tmp_path / "quiet", settings, **options)
    train_alone(job, quiet, Execution(), mode, [])
    _, cut = make_job(digits, tmp_path / "cut", settings, **options)
    steps = math.ceil(800 / 64)
    moments = {
        "first step": ("train_pass", 1),
        "step": ("train_pass", 10),
        "evaluation": ("evaluate", 1),
        "checkpoint": ("train_epoch", 1),
        "prediction": ("finish", 1),
    }
    seen = {}
    for phase, moment in moments.items():
        with pytest.raises(StoppedError):
            train_until(job, cut, mode, moment, every)
        STOP.asked_at = None
        seen[phase] = positions(cut)[0]
    train_until(job, cut, mode, NEVER, every)
    assert seen["first step"][0] == 0
    assert 0 < seen["first step"][1] < seen["step"][1] < steps
    assert seen["evaluation"] == (0, steps)
    assert seen["checkpoint"] >= (1, 0)
    assert seen["prediction"] == (2, 0)
    assert fold_bytes(cut) == fold_bytes(quiet)
    measured = ("epoch", "loss", "train_loss", "accuracy", "rows")
    assert histories(cut, *measured) == histories(quiet, *measured)


STARTS = """
import subprocess, sys, time
from foldstream.training import stopping

stopping.GRACE_SECONDS = 0.1
with stopping.stoppable(), stopping.STOP.watched():
    processes = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    stopping.started_here(processes[0].pid)
    print(*(process.pid for process in processes), flush=True)
    time.sleep(60)
"""


def test_only_what_a_job_has_started_ends_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        own, other = map(psutil.Process, map(int, process.stdout.readline().split()))
        process.terminate()
        assert process.wait(30) == StoppedError.exit_code
        try:
            assert psutil.wait_procs([own], timeout=10)[0] == [own]
            assert other.is_running()
        finally:
            other.kill()


def test_a_process_beside_outlives_the_ray_node_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node is a process here that has started another one, without Ray."""
    nodes: list[subprocess.Popen[bytes]] = []

    def start_node(*place: Any, **options: Any) -> Any:
        nodes.append(subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE))
        return SimpleNamespace(dashboard_url="127.0.0.1:1")

    monkeypatch.setattr(job_cluster, "start_node", start_node)
    monkeypatch.setattr(job_cluster, "node_processes", lambda: [node.pid for node in nodes])
    monkeypatch.setattr(job_cluster, "make_token", lambda: None)
    with job_cluster.ray_cluster(1):
        beside = subprocess.Popen(["sleep", "60"])
        assert nodes[0].stdout
        worker = psutil.Process(int(nodes[0].stdout.readline()))
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    with nodes[0]:
        assert nodes[0].wait(10) == -signal.SIGKILL
    assert beside.poll() is None
    beside.kill()
    beside.wait()


@pytest.mark.parametrize(("grace", "times"), [(0.2, 1), (60, 2)], ids=["too long", "a second signal"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_takes_too_long_is_ended(number: signal.Signals, grace: float, times: int) -> None:
    command = [sys.executable, "-c", WAITS, str(grace)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for word in ("ready", "asked")[:times]:
            assert process.stdout.readline() == f"{word}\n"
            process.send_signal(number)
        _, told = process.communicate(timeout=30)
    assert process.returncode == StoppedError.exit_code
    assert "to resume" in told
    assert "Traceback" not in told


RANK = """
import sys
from foldstream.storage.errors import StoppedError
from foldstream.storage.places.locate import locate
from foldstream.training.config import Execution
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import local_group
from foldstream.training.run import RunFolder, folds_of, load_job
from foldstream.training.stopping import STOP

root, rendezvous, groups = RunFolder(locate(sys.argv[1])), sys.argv[2], sys.argv[3].split()
rank, left = int(sys.argv[4]), 0

def heartbeat(working):
    global left
    left += 1
    if (rank, left) == (1, 8):
        STOP.set()

with local_group(rank, 2, rendezvous) as process:
    for group in groups:
        try:
            folds = folds_of(load_job(root), root, map(int, group.split(",")))
            FoldTrainer(folds, process, Execution(), heartbeat).train()
        except StoppedError:
            sys.exit(75)
"""


@pytest.mark.parametrize("mode", ["runs", "fused"])
def test_ranks_stop_together_when_one_is_asked(mode: str, model: str, digits: Dataset, tmp_path: Path) -> None:
    """In runs both train each fold; fused, each has one, and the third goes from rank to rank."""
    options: dict[str, Any] = {"epochs": 2, "shares": 2, "model": model}
    job, cut = make_job(digits, tmp_path / "cut", **options)
    groups = {"runs": "0 1 2", "fused": "0,1,2"}[mode]
    command = [sys.executable, "-c", RANK, str(cut.root), str(tmp_path / "meet"), groups]
    ranks = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [process.communicate(timeout=100)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [StoppedError.exit_code] * 2, errors
    assert positions(cut).keys() == ({0} if mode == "runs" else {0, 1, 2})
    assert not any(cut.fold(fold).done.exists() for fold in range(3))
    _, quiet = make_job(digits, tmp_path / "quiet", **options)
    for run in (cut, quiet):
        train_until(job, run, mode, NEVER, "1 epoch")
    assert fold_bytes(cut) == fold_bytes(quiet)
    assert histories(cut, "train_loss") == histories(quiet, "train_loss")
