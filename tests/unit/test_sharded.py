"""Models that are dealt over the ranks: they come to the weights of those that each rank has whole, and are resumed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.training.config import TrainConfig
from foldstream.training.engine.learner import with_sync_batchnorm
from foldstream.training.engine.process import Process
from foldstream.training.engine.sharded import blocks_of
from foldstream.training.run import RunFolder, read_result
from foldstream.training.settings import check_config, resolve_settings
from foldstream.training.zoo.networks import mlp

from .test_training import make_job

RANK = """
import sys
from foldstream.storage.places.locate import locate
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import local_group
from foldstream.training.run import RunFolder, folds_of, load_job
from foldstream.training.config import Execution

_, rank, root, every, stop_after, rendezvous = sys.argv
run = RunFolder(locate(root))

class Cut(BaseException):
    pass

def notify(fold, metrics):
    if metrics["epoch"] >= int(stop_after):
        raise Cut

with local_group(int(rank), 2, rendezvous) as process:
    trainer = FoldTrainer(folds_of(load_job(run), run, [0, 1, 2]), process, Execution(checkpoint_every=every))
    for fold in trainer.folds:
        own, full = (list(module.parameters()) for module in (fold.network.module, fold.network.model))
        held = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in own)
        print("held", held, sum(p.numel() for p in full))
    try:
        trainer.train(notify)
    except Cut:
        pass
"""


def train(run: RunFolder, every: str = "1 epoch", stop_after: int = 99) -> list[str]:
    """Train all three folds with two ranks. Returns what the ranks have printed."""
    meet = run.root / f"meet-{stop_after}"
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(run.root), every, str(stop_after), str(meet)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    printed = [process.communicate(timeout=300) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], printed
    return [line for out, _ in printed for line in out.splitlines()]


def weights(run: RunFolder) -> list[dict[str, torch.Tensor]]:
    return [safetensors.torch.load(run.fold(fold).weights.read_bytes()) for fold in range(3)]


@pytest.mark.parametrize(
    ("model", "settings"),
    [("digits-cnn", {"accumulate": 2, "clip_grad_norm": 1.0}), ("mlp", {"optimizer": "SGD", "lr": 0.05})],
    ids=["adam", "sgd"],
)
def test_sharded_models_learn_what_whole_ones_learn(
    model: str, settings: dict[str, Any], digits: Dataset, tmp_path: Path
) -> None:
    runs = {}
    for strategy in ("ddp", "fsdp"):
        _, runs[strategy] = make_job(
            digits, tmp_path / strategy, {**settings, "strategy": strategy}, model=model, shares=2
        )
        printed = train(runs[strategy])
        for line in printed:
            held, whole = map(int, line.split()[1:])
            assert held == whole if strategy == "ddp" else held < 0.6 * whole
    for one, other in zip(weights(runs["ddp"]), weights(runs["fsdp"]), strict=True):
        assert one.keys() == other.keys()
        for name in one if "optimizer" in settings else ():  # Adam makes much of the last bit of a small gradient
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)
    losses = [[epoch["train_loss"] for epoch in read_result(run.fold(1))["history"]] for run in runs.values()]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("every", ["1 epoch", "5 steps"])
def test_a_sharded_run_goes_on_to_the_same_weights(every: str, digits: Dataset, tmp_path: Path) -> None:
    settings = {"strategy": "fsdp"}
    _, quiet = make_job(digits, tmp_path / "quiet", settings, epochs=3, shares=2)
    _, cut = make_job(digits, tmp_path / "cut", settings, epochs=3, shares=2)
    train(quiet)
    train(cut, every, stop_after=1)
    assert not cut.fold(0).done.exists()
    train(cut, every)
    for fold in range(3):
        assert quiet.fold(fold).weights.read_bytes() == cut.fold(fold).weights.read_bytes()


def test_blocks_are_the_members_of_rows_that_have_weights() -> None:
    model = mlp((784,), 10)
    blocks = blocks_of(model)
    assert blocks
    assert all(any(True for _ in block.parameters()) for block in blocks)


def test_what_cannot_be_is_refused(digits: Dataset) -> None:
    def check(**settings: Any) -> None:
        recipe, _ = resolve_settings("mlp", settings)
        check_config(TrainConfig(model="mlp", recipe=recipe), digits.schema)

    with pytest.raises(UsageError, match="choose from ddp, fsdp"):
        check(strategy="zero")
    with pytest.raises(UsageError, match="precision=bfloat16"):
        check(strategy="fsdp", precision="float16")
    with pytest.raises(UsageError, match="only on GPUs"):
        with_sync_batchnorm(torch.nn.BatchNorm1d(3), Process(0, 2))
