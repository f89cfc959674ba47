"""Training that goes on: more epochs of a run, models that start from given weights, a refit after early stopping."""

from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
import torch
from foldstream.cluster.listener import Listener
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError, DamagedError, UsageError
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from foldstream.training.config import Execution, Recipe
from foldstream.training.engine.learner import RateSchedule
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.model.initial import match_weights, read_initial
from foldstream.training.model.optimizer import make_optimizer
from foldstream.training.model.weights import load_weights
from foldstream.training.run import RunFolder, folds_of, read_result
from torch import nn

from .test_mid_epoch import train_alone
from .test_training import fold_bytes, make_job

SMALL: dict[str, Any] = {"model": "mlp", "folds": 3, "batch_size": 64}
CONSTANT = {"hidden": 8, "layers": 1, "scheduler": "ConstantLR"}
STILL = {**CONSTANT, "optimizer": "SGD", "lr": 1e-12, "weight_decay": 0.0}
"""Settings that leave the initial weights as they are."""


def weights(run: Path, fold: int) -> dict[str, torch.Tensor]:
    return load_weights(RunFolder(locate(run)).fold(fold).weights)


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=0, atol=1e-8) for name in one)


@pytest.mark.parametrize("mode", ["runs", "fused"])
def test_more_epochs_give_what_they_give_at_once(mode: str, digits: Dataset, tmp_path: Path) -> None:
    options = {**SMALL, "settings": CONSTANT, "fold_mode": mode, "refit": mode == "runs", "holdout": 0.1}
    at_once = fs.train(digits.place, tmp_path / "once", epochs=2, **options).summary
    first = fs.train(digits.place, tmp_path / "more", epochs=1, **options).summary
    more = fs.train(digits.place, tmp_path / "more", epochs=2, **options).summary
    for part in ("out_of_fold", "holdout_intervals"):
        assert more[part] == at_once[part] != first[part]
    for fold in range(3 + options["refit"]):
        found, expected = (RunFolder(locate(tmp_path / name)).fold(fold) for name in ("more", "once"))
        assert found.weights.read_bytes() == expected.weights.read_bytes()
        assert len(read_result(found)["history"]) == 2
    assert fs.train(digits.place, tmp_path / "more", epochs=2, **options).summary == more


def test_epochs_are_not_lowered_nor_raised_with_other_options(digits: Dataset, tmp_path: Path) -> None:
    options = {**SMALL, "settings": CONSTANT}
    summary = fs.train(digits.place, tmp_path / "run", epochs=2, **options).summary
    with pytest.raises(ConflictError, match="can be increased but not reduced to 1; use epochs=2"):
        fs.train(digits.place, tmp_path / "run", epochs=1, **options)
    with pytest.raises(ConflictError, match="epochs was 2 and is now 3; seed was 0 and is now 1"):
        fs.train(digits.place, tmp_path / "run", epochs=3, seed=1, **options)
    assert (tmp_path / "run" / "summary.json").exists()
    for left in ("summary.json", "oof.zarr/manifest.json", "folds/0/done.json"):  # what a kill leaves of a run to raise
        (tmp_path / "run" / left).unlink()
    assert (
        fs.train(digits.place, tmp_path / "run", epochs=2, **options).summary["out_of_fold"] == summary["out_of_fold"]
    )


def rates(schedule: RateSchedule, epochs: range, updates: int) -> list[float]:
    found = []
    for epoch in epochs:
        schedule.begin_epoch(epoch)
        for _ in range(updates):
            found.append(schedule.optimizer.param_groups[0]["lr"])
            schedule.optimizer.step()
            schedule.step()
    return found


@pytest.mark.parametrize("settings", [{}, {"scheduler": "CosineAnnealingLR", "warmup": 0.3}], ids=str)
def test_a_schedule_over_all_epochs_starts_again_for_more(settings: dict[str, Any]) -> None:
    recipe = Recipe(**settings)
    assert recipe.spans_all_epochs
    assert not Recipe(scheduler="StepLR", warmup=5).spans_all_epochs
    alone = [RateSchedule(make_optimizer(nn.Linear(2, 2), recipe), recipe, 4, (epochs,)) for epochs in (2, 3)]
    expected = rates(alone[0], range(2), 4) + rates(alone[1], range(3), 4)
    schedule = RateSchedule(make_optimizer(nn.Linear(2, 2), recipe), recipe, 4, (2, 5))
    assert rates(schedule, range(5), 4) == expected


def test_a_schedule_that_started_again_resumes_to_the_same_bits(digits: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "mlp", "epochs": 3, "restarts": (1,)}
    for name, cuts in (("quiet", []), ("cut", [8, 20, 35])):
        job, run = make_job(digits, tmp_path / name, {"hidden": 8}, **options | {"epochs": 1, "restarts": ()})
        train_alone(job, run, Execution(), "fused", [])
        job, run = make_job(digits, tmp_path / name, {"hidden": 8}, **options)
        every = Execution(checkpoint_every="4 steps") if cuts else Execution()
        assert len(train_alone(job, run, every, "fused", cuts)) == len(cuts)
    assert fold_bytes(RunFolder(locate(tmp_path / "cut"))) == fold_bytes(RunFolder(locate(tmp_path / "quiet")))
    told: dict[str, str] = {}
    options = {**SMALL, "settings": {"hidden": 8}, "listener": Listener(announce=told.__setitem__)}
    fs.train(digits.place, tmp_path / "run", epochs=1, **options)
    fs.train(digits.place, tmp_path / "run", epochs=3, **options)
    assert "starts again after epoch 1" in told["schedule"]
    assert read_json(locate(tmp_path / "run" / "run.json"))["config"]["restarts"] == [1]
    command = (tmp_path / "run" / "report.md").read_text()
    assert command.index("--epochs 1") < command.index("--epochs 3")


@pytest.mark.parametrize("mode", ["runs", "fused"])
def test_a_refit_trains_for_the_mean_of_the_best_epochs(mode: str, digits: Dataset, tmp_path: Path) -> None:
    settings = {"hidden": 8, "scheduler": "ConstantLR", "lr": 0.05}
    options = {**SMALL, "refit": True, "fold_mode": mode}
    fs.train(digits.place, tmp_path / "early", epochs=12, settings={**settings, "patience": 1}, **options)
    run = RunFolder(locate(tmp_path / "early"))
    best = [read_result(run.fold(fold))["metrics"]["epoch"] for fold in range(3)]
    assert len(set(best)) > 1, "all folds stopped at the same epoch"
    assert max(best) < 11, "no fold stopped early"
    wanted = int(sum(best) / 3 + 0.5)
    assert len(read_result(run.fold(3))["history"]) == wanted
    job, plain = make_job(digits, tmp_path / "plain", settings, epochs=wanted, model="mlp", refit=True, shares=2)
    FoldTrainer(folds_of(job, plain, [3]), Process()).train()
    assert run.fold(3).weights.read_bytes() == plain.fold(3).weights.read_bytes()


def test_names_fit_with_prefixes_and_shapes_that_do_not_are_named(tmp_path: Path) -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    given = {f"module.model.{name}": tensor for name, tensor in model.state_dict().items()}
    given |= {"module.model.head.weight": torch.zeros(5, 3), "module.extra": torch.zeros(1)}
    torch.save({"state_dict": given, "epoch": 3}, tmp_path / "other.ckpt")
    match = match_weights(model, read_initial(locate(tmp_path / "other.ckpt")), "other.ckpt")
    assert match.fitting.keys() == {"backbone.weight", "backbone.bias", "head.bias"}
    assert match.describe() == (
        "3 of the model's 4 tensors are loaded; skipped: head.weight (5, 3), in the model (2, 3); not in the model: "
        "module.extra"
    )
    with pytest.raises(
        UsageError, match=r"none of its tensors matches .* the file has a \(1,\), the model has backbone\.weight"
    ):
        match_weights(model, {"a": torch.zeros(1)}, "other.ckpt")
    torch.save(model, tmp_path / "code.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name in ("code.pt", "text.pt"):
        with pytest.raises(UsageError, match=r"neither safetensors nor a state dict .* torch\.save\(model\.state_dict"):
            read_initial(locate(tmp_path / name))


def test_a_run_starts_from_a_file_and_resumes_without_it(digits: Dataset, tmp_path: Path) -> None:
    fs.train(digits.place, tmp_path / "first", epochs=1, **SMALL, settings=CONSTANT)
    checkpoint = next((tmp_path / "first" / "folds" / "1" / "checkpoints").glob("epoch-*.safetensors"))
    given = tmp_path / "weights.safetensors"
    given.write_bytes(checkpoint.read_bytes())
    told: dict[str, str] = {}
    options = {**SMALL, "init": given, "settings": STILL}
    fs.train(digits.place, tmp_path / "run", epochs=1, listener=Listener(announce=told.__setitem__), **options)
    assert "4 of the model's 4 tensors are loaded" in told["init"]
    assert "not in the model" not in told["init"], "the optimizer's state is none of the weights"
    for fold in range(3):
        assert same_weights(weights(tmp_path / "run", fold), weights(tmp_path / "first", 1))
    given.unlink()
    fs.train(digits.place, tmp_path / "run", epochs=2, **options)
    assert same_weights(weights(tmp_path / "run", 2), weights(tmp_path / "first", 1))
    with pytest.raises(UsageError, match="neither a weights file nor a complete run"):
        fs.train(digits.place, tmp_path / "new", epochs=1, **options)
    torch.save(weights(tmp_path / "first", 2), given)
    with pytest.raises(ConflictError, match="the initial weights are different"):
        fs.train(digits.place, tmp_path / "run", epochs=3, **options)
    (tmp_path / "run" / "initial" / "all").write_bytes(b"changed")
    with pytest.raises(DamagedError, match="has changed since the run was started"):
        read_initial(locate(tmp_path / "run" / "initial" / "all"), "0" * 64)


def test_each_fold_starts_from_the_same_fold_of_a_run(digits: Dataset, tmp_path: Path) -> None:
    fs.train(digits.place, tmp_path / "first", epochs=1, **SMALL, refit=True, settings=CONSTANT)
    told: dict[str, str] = {}
    options = {
        **SMALL,
        "epochs": 1,
        "init": tmp_path / "first",
        "refit": True,
        "settings": STILL,
        "listener": Listener(announce=told.__setitem__),
    }
    fs.train(digits.place, tmp_path / "run", **options)
    for fold in range(4):
        assert same_weights(weights(tmp_path / "run", fold), weights(tmp_path / "first", fold))
    assert "each fold from its own" in told["init"]
    assert "warning" not in told
    fs.train(digits.place, tmp_path / "other", **options | {"folds": 2, "refit": False})
    assert "was trained on rows that are held out here" in told["warning"]
    assert same_weights(weights(tmp_path / "other", 0), weights(tmp_path / "first", 3))
    told.clear()
    fs.train(digits.place, tmp_path / "file", **options | {"init": tmp_path / "first/folds/0/model.safetensors"})
    assert f'use init="{tmp_path}/first" to start each fold from its own weights' in told["warning"]
    with pytest.raises(UsageError, match="increase epochs= instead"):
        fs.train(digits.place, tmp_path / "run", **options | {"init": tmp_path / "run", "epochs": 2})


def test_another_head_is_left_out(digits: Dataset, tmp_path: Path) -> None:
    fs.train(digits.place, tmp_path / "first", epochs=1, **SMALL, settings=CONSTANT)
    told: dict[str, str] = {}
    options = {**SMALL, "epochs": 1, "listener": Listener(announce=told.__setitem__)}
    wide = {**STILL, "hidden": 16}
    fs.train(digits.place, tmp_path / "run", init=tmp_path / "first", settings=wide, **options)
    assert "1 of the model's 4 tensors are loaded; skipped: 1.weight (8, 784), in the model (16, 784)" in told["init"]
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="none of its tensors matches"):
        fs.train(digits.place, tmp_path / "new", init=tmp_path / "other.pt", settings=STILL, **options)
    assert not (tmp_path / "new").exists()
