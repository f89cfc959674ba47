"""The models of all folds computed as one: what each would be alone, and the same bits whatever is interrupted."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import torch
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import RunError, UsageError
from foldstream.training.config import Execution
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.model.weights import load_weights
from foldstream.training.run import RunFolder, RunJob, folds_of, read_result
from foldstream.training.splits.split import Split

from .test_training import make_job

NO_CHANCE = """
from torch import nn

def make(sample_shape, outputs, hidden=4):
    return nn.Sequential(
        nn.Conv2d(1, hidden, 5, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Flatten(),
        nn.Linear(hidden * 576, outputs),
    )
"""
BRANCHES = """
from torch import nn

class Branches(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.layer = nn.Linear(784, outputs)

    def forward(self, x):
        out = self.layer(x.flatten(1))
        return out if out.sum() > 0 else -out

def make(sample_shape, outputs):
    return Branches(outputs)
"""


class Cut(BaseException):
    pass


def train(
    job: RunJob,
    run: RunFolder,
    folds: list[int],
    process: Process | None = None,
    stop_at: int | None = None,
    **execution: Any,
) -> None:
    """Train folds in one pass; with `stop_at`, cut off after so many of the folds' epochs, as by a kill."""
    told = []

    def notify(fold: int, metrics: dict[str, float]) -> None:
        told.append(fold)
        if len(told) == stop_at:
            raise Cut

    try:
        FoldTrainer(folds_of(job, run, folds), process or Process(), Execution(**execution)).train(notify)
    except Cut:
        assert stop_at


def weights(run: RunFolder) -> list[dict[str, torch.Tensor]]:
    return [load_weights(run.fold(fold).weights) for fold in range(3)]


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "SGD"}, {"optimizer": "SGD", "accumulate": 3, "clip_grad_norm": 1.0}, {"lr": 0.001}],
    ids=["sgd", "accumulated and clipped", "adam"],
)
def test_a_stack_gives_what_each_fold_gives_alone(settings: dict[str, Any], digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(NO_CHANCE)
    runs = []
    for stack in (False, True):
        options = {**settings, "stack": stack}
        model = f"{tmp_path}/own.py:make"
        job, run = make_job(digits, tmp_path / str(stack), options, model=model, batch_size=56, drop_last=True)
        train(job, run, [0, 1, 2])
        runs.append(run)
    for one, other in zip(*map(weights, runs), strict=True):
        for name in one:
            atol = 1e-4 if "optimizer" in settings else 1e-2  # Adam makes much of the last bit of a small gradient
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=atol)
    losses = [[epoch["train_loss"] for epoch in read_result(run.fold(2))["history"]] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("every", ["1 epoch", "3 steps"])
def test_a_stack_resumes_to_the_same_bits(every: str, digits: Dataset, tmp_path: Path) -> None:
    """digits-cnn has batch norm, dropout and random shifts."""
    job, quiet = make_job(digits, tmp_path / "quiet", {"stack": True}, batch_size=56)
    train(job, quiet, [0, 1, 2])
    _, cut = make_job(digits, tmp_path / "cut", {"stack": True}, batch_size=56)
    train(job, cut, [0, 1, 2], stop_at=2, checkpoint_every=every)  # the last fold has no checkpoint of its epoch
    train(job, cut, [2], checkpoint_every=every)
    train(job, cut, [0, 1])
    for fold in range(3):
        assert cut.fold(fold).weights.read_bytes() == quiet.fold(fold).weights.read_bytes()


def test_a_refit_is_trained_beside_the_stack(digits: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "mlp", "batch_size": 56, "epochs": 1, "refit": True, "drop_last": True}
    runs = []
    for stack in (False, True):
        job, run = make_job(digits, tmp_path / str(stack), {"stack": stack, "hidden": 8}, **options)
        train(job, run, [0, 1, 2, 3])
        runs.append(run)
    assert runs[0].fold(3).weights.read_bytes() == runs[1].fold(3).weights.read_bytes()


@pytest.mark.parametrize("sizes", [(96, 104, 112), (40, 100, 300)], ids=str)
def test_folds_of_other_sizes_are_stacked_in_the_order_of_their_steps(sizes: tuple[int, ...], tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    table = pd.DataFrame(draws.normal(size=(sum(sizes), 3)), columns=["a", "b", "c"])
    table["y"], table["fold"] = table["a"] + table["b"] * table["c"], np.repeat([0, 1, 2], sizes)
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "t.csv", index=False)
    data = fs.convert_csv(tmp_path / "t.csv", tmp_path / "data.zarr", label="y", fold="fold")
    options: dict[str, Any] = {"model": "mlp", "batch_size": 8, "epochs": 1, "window": 40}
    runs = []
    for stack in (False, True):
        settings = {"stack": stack, "optimizer": "SGD", "momentum": 0.9, "lr": 0.1, "layers": 0}
        split = Split(kind="column", column="fold", folds=3)
        job, run = make_job(data, tmp_path / str(stack), settings, split=split, **options)
        if stack and max(sizes) == 300:
            with pytest.raises(RunError, match=r"needs folds of about the same size, but these have 17 to 50 batches"):
                train(job, run, [0, 1, 2])
            return
        train(job, run, [0, 1, 2])
        runs.append(run)
    for one, other in zip(*map(weights, runs), strict=True):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)


def test_a_model_that_cannot_be_stacked_is_named_with_the_remedy(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BRANCHES)
    job, run = make_job(digits, tmp_path / "run", {"stack": True}, model=f"{tmp_path}/own.py:make")
    with pytest.raises(RunError, match=r"own.py, line \d+: .* start a new run without this setting"):
        train(job, run, [0, 1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 2}, "use workers=1"),
        ({"fold_mode": "runs"}, 'leave out fold_mode="runs"'),
        ({"settings": {"strategy": "fsdp"}}, "remove strategy=fsdp"),
    ],
    ids=["workers", "runs", "fsdp"],
)
def test_what_does_not_fit_a_stack_is_refused(
    options: dict[str, Any], message: str, digits: Dataset, tmp_path: Path
) -> None:
    settings = {"stack": True, **options.pop("settings", {})}
    with pytest.raises(UsageError, match=message):
        fs.train(digits.root, tmp_path / "run", model="mlp", settings=settings, **options)


def test_a_stacked_run_is_trained_in_one_process(digits: Dataset, tmp_path: Path) -> None:
    summary = fs.train(
        digits.root, tmp_path / "run", folds=3, epochs=3, batch_size=64, settings={"stack": True}
    ).summary
    assert summary["out_of_fold"]["accuracy"] > 0.8
