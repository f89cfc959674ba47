"""Models that are dealt over the ranks: they come to the weights of those that each rank has whole, and are resumed."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.storage.places.locate import locate
from foldstream.training.config import TrainConfig
from foldstream.training.engine.learner import with_sync_batchnorm
from foldstream.training.engine.process import Process
from foldstream.training.engine.sharded import blocks_of
from foldstream.training.model.initial import read_initial
from foldstream.training.run import RunFolder, read_result
from foldstream.training.settings import check_config, resolve_settings
from foldstream.training.zoo.networks import mlp

from .test_training import make_job

PROGRAM = Path(__file__).parents[1] / "sharded_ranks.py"
ADAM = {"accumulate": 2, "clip_grad_norm": 1.0}
SGD = {"optimizer": "SGD", "lr": 0.05, "momentum": 0.9, "hidden": 16, "dropout": 0.0}
OPTIMIZERS = "Adam", "SGD", "Adagrad", "NAdam"
RUNS: dict[str, dict[str, Any]] = {
    "ddp-adam": ADAM,
    "fsdp-adam": ADAM,
    "ddp-sgd": SGD,
    "fsdp-sgd": SGD,
    "moved": SGD,
    "quiet": {"patience": 2},
    "cut-by-epochs": {"patience": 2},
    "cut-by-steps": {"patience": 2},
}
"""The settings of the runs that the program trains. The model of those with SGD is an MLP."""


@pytest.fixture(scope="module")
def root(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a program that forks groups of ranks, after it has run."""
    root = tmp_path_factory.mktemp("ranks")
    for name, settings in RUNS.items():
        own = {**settings, "strategy": "ddp" if name.startswith("ddp") else "fsdp"}
        model, epochs = "mlp" if settings is SGD else "digits-cnn", 2 if settings in (ADAM, SGD) else 3
        make_job(digits, root / "runs" / name, own, model=model, epochs=epochs, shares=2)
    subprocess.run([sys.executable, PROGRAM, root, root / "runs"], check=True, timeout=400)
    return root


@pytest.fixture(scope="module")
def seen(root: Path) -> dict[str, list[Any]]:
    """What the ranks of each group have seen, in order."""
    found: dict[str, list[Any]] = json.loads((root / "seen.json").read_text())
    return found


def weights(root: Path, name: str) -> list[dict[str, torch.Tensor]]:
    run = RunFolder(locate(root / "runs" / name))
    return [safetensors.torch.load(run.fold(fold).weights.read_bytes()) for fold in range(3)]


def losses(root: Path, name: str) -> list[float]:
    return [epoch["train_loss"] for epoch in read_result(RunFolder(locate(root / "runs" / name)).fold(1))["history"]]


def was_killed(of_ranks: list[Any]) -> bool:
    return signal.SIGKILL in of_ranks


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_sharded_models_learn_what_whole_ones_learn(optimizer: str, root: Path, seen: dict[str, list[Any]]) -> None:
    for strategy in ("ddp", "fsdp"):
        for held, whole in (fold for rank in seen[f"{strategy}-{optimizer}"] for fold in rank):
            assert held == whole if strategy == "ddp" else held < 0.6 * whole
    assert losses(root, f"ddp-{optimizer}") == pytest.approx(losses(root, f"fsdp-{optimizer}"), rel=0.01)
    for one, other in zip(weights(root, f"ddp-{optimizer}"), weights(root, f"fsdp-{optimizer}"), strict=True):
        assert one.keys() == other.keys()
        for name in one if optimizer == "sgd" else ():  # Adam makes much of the last bit of a small gradient
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("every", "kills"), [("epochs", 1), ("steps", 2)], ids=["epochs", "steps"])
def test_a_sharded_run_goes_on_to_the_same_weights(
    every: str, kills: int, root: Path, seen: dict[str, list[Any]]
) -> None:
    """With early stopping and OneCycleLR, killed before it is done."""
    assert [was_killed(seen[f"cut_by_{every}_{number}"]) for number in range(kills + 1)] == [True] * kills + [False]
    quiet, cut = (RunFolder(locate(root / "runs" / name)) for name in ("quiet", f"cut-by-{every}"))
    for fold in range(3):
        assert quiet.fold(fold).weights.read_bytes() == cut.fold(fold).weights.read_bytes()
        assert quiet.fold(fold).best.read_bytes() == cut.fold(fold).best.read_bytes()


def test_a_sharded_run_moves_to_other_numbers_of_ranks(root: Path, seen: dict[str, list[Any]]) -> None:
    """From two to four, to one, where the model is whole, and back."""
    assert [was_killed(seen[f"moved_{number}"]) for number in range(4)] == [True, True, True, False]
    assert losses(root, "moved") == pytest.approx(losses(root, "fsdp-sgd"), rel=1e-3)
    for one, other in zip(weights(root, "moved"), weights(root, "fsdp-sgd"), strict=True):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5)


def test_each_rank_writes_its_part_and_gets_nothing_of_the_others(seen: dict[str, list[Any]]) -> None:
    for rank in seen["shares"]:
        assert rank["gathered"] == 0
        assert rank["written"] < 0.75 * rank["whole"]  # in so small a model, names take a good part of the file
        assert rank["read"] < 0.75 * rank["whole"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_holds_all_that_an_optimizer_needs(optimizer: str, seen: dict[str, list[Any]]) -> None:
    (quiet, resumed), *others = seen[f"resume_{optimizer}"]
    assert quiet == resumed
    assert others == [[quiet, resumed]]


def test_any_number_of_ranks_loads_what_others_have_saved(seen: dict[str, list[Any]]) -> None:
    (saved, _), files = seen["saved_by_2"], []
    for world_size in (3, 1, 2):
        digests, left = zip(*((digest, names) for digest, *names in seen[f"taken_over_by_{world_size}"]), strict=True)
        assert digests == (saved,) * world_size
        files.append(len(left[0]))
    assert files == [4, 1, 3]  # what the previous ranks wrote is gone


def test_whole_checkpoints_of_earlier_versions_are_loaded(seen: dict[str, list[Any]]) -> None:
    saved, _ = seen["saved_as_before"]
    for world_size in (1, 2, 3):
        assert seen[f"before_loaded_by_{world_size}"] == [saved] * world_size


def test_ranks_load_only_their_shares_of_an_epoch(seen: dict[str, list[Any]]) -> None:
    both = {"buffers": [[None, [0, 0]], [None, [1, 1]]], "losses": [0, 1], "seconds": 1.5}
    first, second = {**both, "buffers": [[None, [0, 0]], None]}, {**both, "buffers": [None, [None, [1, 1]]]}
    assert seen["within"] == [first, second]
    assert seen["within_loaded_by_3"] == [first, second, first]
    assert seen["within_loaded_by_1"] == [both]


def test_each_moment_of_a_save_leaves_a_checkpoint(root: Path, seen: dict[str, list[Any]]) -> None:
    """The copies are what a kill at that moment would leave: before and after a file is put in place or removed."""
    (first, second), _ = seen["saved_twice"]
    copies, _ = seen["copies"]
    names = sorted(copy.name for copy in (root / "copies").iterdir())
    of_main = [digest for digest, name in zip(copies, names, strict=True) if name.startswith("0")]
    assert {*copies} == {first, second}
    assert of_main == [first] * of_main.count(first) + [second] * of_main.count(second)
    assert seen["copies"] == [copies, copies]


def test_a_killed_rank_leaves_the_previous_checkpoint(seen: dict[str, list[Any]]) -> None:
    saved, _ = seen["before_kill"]
    _, killed = seen["kill"]
    assert killed == signal.SIGKILL
    assert [digest for digest, *_ in seen["after_kill"]] == [saved, saved]
    (_, *files), _ = seen["after_kill"]
    assert len(files) == 3  # what the killed ranks have left is gone


def test_a_full_disk_of_one_rank_ends_all_and_leaves_the_previous_checkpoint(seen: dict[str, list[Any]]) -> None:
    for error, before, after in seen["full_disk"]:
        assert "No space left on device" in error
        assert before == after


def test_all_ranks_take_the_previous_checkpoint_if_a_part_is_damaged(seen: dict[str, list[Any]]) -> None:
    (first, _), _ = seen["two_kept"]
    assert seen["one_damaged"] == [first, first]
    for error in seen["all_damaged"]:
        assert "all checkpoints in" in error


def test_a_checkpoint_without_tensors_is_refused_as_initial_weights(root: Path) -> None:
    checkpoints = RunFolder(locate(root / "runs" / "moved")).fold(0).checkpoints
    (name,) = (name for name in checkpoints.names() if name.startswith("epoch-"))
    with pytest.raises(UsageError, match=r"no tensors.* name the fold's model.safetensors"):
        read_initial(checkpoints / name)


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
