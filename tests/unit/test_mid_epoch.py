"""A training that was killed in the midst of an epoch goes on from there, to the weights of one that was not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from foldstream.storage.dataset import Dataset
from foldstream.training.config import Execution
from foldstream.training.engine.checkpoint import Checkpoints
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.run import RunFolder, RunJob, folds_of, read_result

from .test_training import fold_bytes, make_job

MODEL = """
import torch
from torch import nn

from foldstream.training.zoo.networks import digits_cnn


class Counts(nn.Module):
    \"\"\"Puts another buffer in the place of its own at each step, and lets the result depend on it.\"\"\"

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean().reshape(1)
        return x + self.mean


def make(sample_shape, outputs):
    return nn.Sequential(Counts(), digits_cnn(sample_shape, outputs))
"""
SETTINGS = {
    "batch norm+OneCycleLR": {},
    "accumulate+momentum": {"accumulate": "3", "optimizer": "SGD", "lr": "0.05", "momentum": "0.9"},
    "patience+bfloat16": {"patience": "1", "lr": "0.05", "precision": "bfloat16"},
}


FOREVER = 1 << 60


class Cut(BaseException):
    pass


def cut_after(beats: int) -> Any:
    """A heartbeat that cuts the training off, as a kill does."""
    left = beats

    def heartbeat(working: bool) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Cut

    return heartbeat


def positions(run: RunFolder) -> dict[int, tuple[int, int]]:
    """The epoch and the step of the last checkpoint of every fold that has one."""
    states = {fold: Checkpoints(run.fold(fold).checkpoints, 1).load() for fold in range(3)}
    return {fold: (state["epoch"], state["step"]) for fold, state in states.items() if state}


def histories(run: RunFolder, *names: str) -> list[Any]:
    """What every fold's epochs came to."""
    epochs = (read_result(run.fold(fold))["history"] for fold in range(3))
    return [[[epoch[name] for name in names] for epoch in history] for history in epochs]


def train_alone(job: RunJob, run: RunFolder, request: Execution, mode: str, cuts: list[int]) -> list[dict[int, Any]]:
    """Train all folds in this process, cut off after so many beats each time. Returns where the checkpoints stood."""
    groups = [[0, 1, 2]] if mode == "fused" else [[0], [1], [2]]
    seen = []
    for beats in [*cuts, FOREVER]:
        heartbeat = cut_after(beats)
        try:
            for folds in groups:
                left = [fold for fold in folds if not run.fold(fold).done.exists()]
                if left:
                    FoldTrainer(folds_of(job, run, left), Process(), request, heartbeat).train()
        except Cut:
            seen.append(positions(run))
    return seen


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model.py").write_text(MODEL)
    return f"{tmp_path}/model.py:make"


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("shares", [1, 2])
@pytest.mark.parametrize("mode", ["runs", "fused"])
def test_one_process(
    mode: str, shares: int, settings: dict[str, str], model: str, digits: Dataset, tmp_path: Path
) -> None:
    job, quiet = make_job(digits, tmp_path / "quiet", settings, epochs=3, shares=shares, model=model)
    train_alone(job, quiet, Execution(), mode, [])
    _, cut = make_job(digits, tmp_path / "cut", settings, epochs=3, shares=shares, model=model)
    seen = train_alone(job, cut, Execution(checkpoint_every="5 steps", keep=2), mode, [8, 31, 40])
    assert all(step for _, step in seen[0].values()), "no checkpoint in the midst of an epoch"
    assert fold_bytes(cut) == fold_bytes(quiet)
    measured = ("epoch", "loss", "train_loss", "accuracy", "rows")
    assert histories(cut, *measured) == histories(quiet, *measured)


RANK = """
import os
import sys
from foldstream.storage.places.locate import locate
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import local_group
from foldstream.training.run import RunFolder, folds_of, load_job
from foldstream.training.config import Execution

root, rendezvous, groups = RunFolder(locate(sys.argv[1])), sys.argv[2], sys.argv[3].split()
request = Execution(checkpoint_every=sys.argv[4])
rank, left = int(sys.argv[5]), int(sys.argv[6])

def heartbeat(working):
    global left
    left -= 1
    if left < 0:
        os._exit(9)

with local_group(rank, 2, rendezvous) as process:
    for group in groups:
        folds = [int(fold) for fold in group.split(",") if not root.fold(int(fold)).done.exists()]
        process.barrier()
        if folds:
            FoldTrainer(folds_of(load_job(root), root, folds), process, request, heartbeat).train()
"""
GROUPS = {"runs": "0 1 2", "fused": "0,1,2"}


def two_ranks(run: RunFolder, mode: str, every: str, meet: Path, beats: tuple[int, int]) -> None:
    """Train all folds with two processes, each of which is gone after so many beats, or as it misses the other."""
    assert all(exit_codes(run, mode, every, meet, beats))


def exit_codes(
    run: RunFolder, mode: str, every: str, meet: Path, beats: tuple[int, int] = (FOREVER, FOREVER)
) -> list[int]:
    arguments = [sys.executable, "-c", RANK, str(run.root), str(meet), GROUPS[mode], every]
    ranks = [
        subprocess.Popen([*arguments, str(rank), str(beats[rank])], stderr=subprocess.DEVNULL) for rank in range(2)
    ]
    return [process.wait(timeout=200) for process in ranks]


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "every", "window"),
    [("runs", "4 steps", 8), ("runs", "0.0001 minutes", 40), ("fused", "0.0001 minutes", 8), ("fused", "3 steps", 40)],
)
def test_two_ranks(mode: str, every: str, window: int, model: str, digits: Dataset, tmp_path: Path) -> None:
    """In runs both train each fold; fused, each has one, and the third goes from rank to rank, some steps each with the
    larger window. They are killed, go on and are killed again, then one process goes on."""
    settings = {"accumulate": "2"} if mode == "runs" else {}
    options: dict[str, Any] = {
        "epochs": 3,
        "shares": 2,
        "window": window,
        "model": model,
        "augment": ("crop=2", "mixup"),
    }
    job, quiet = make_job(digits, tmp_path / "quiet", settings, **options)
    train_alone(job, quiet, Execution(), mode, [])
    _, cut = make_job(digits, tmp_path / "cut", settings, **options)
    for number, beats in enumerate([(11, 11), (8, 12)]):
        two_ranks(cut, mode, every, tmp_path / f"meet-{number}", beats)
        assert any(step for _, step in positions(cut).values()), "no checkpoint in the midst of an epoch"
    train_alone(job, cut, Execution(), mode, [])
    assert fold_bytes(cut) == fold_bytes(quiet)
    assert histories(cut, "train_loss") == histories(quiet, "train_loss")


@pytest.mark.parametrize(("window", "beats", "step"), [(8, 10, 1), (40, 82, 7)], ids=["one step", "steps"])
def test_the_fold_that_goes_round_begins_at_the_other_rank(
    window: int, beats: int, step: int, model: str, digits: Dataset, tmp_path: Path
) -> None:
    """One process is cut off in what is the second rank's chunk where there are two, of `one step` or in the midst of
    five; two go on."""
    options: dict[str, Any] = {"epochs": 2, "shares": 2, "window": window, "model": model}
    job, quiet = make_job(digits, tmp_path / "quiet", **options)
    train_alone(job, quiet, Execution(), "fused", [])
    _, cut = make_job(digits, tmp_path / "cut", **options)
    trainer = FoldTrainer(
        folds_of(job, cut, range(3)),
        Process(),
        Execution(checkpoint_every="1 step"),
        cut_after(beats),
    )
    with pytest.raises(Cut):
        trainer.train()
    assert positions(cut)[2] == (0, step)
    assert exit_codes(cut, "fused", "1 epoch", tmp_path / "meet") == [0, 0]
    assert fold_bytes(cut) == fold_bytes(quiet)
