"""Optimizers and schedules: what the user sets is used, and what cannot work is refused before anything starts."""

import math
from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
import torch
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.storage.places.locate import locate
from foldstream.training.config import Recipe, TrainConfig
from foldstream.training.model.optimizer import check_optimizer, make_optimizer, make_scheduler, step_schedule
from foldstream.training.model.weights import load_weights
from foldstream.training.settings import check_config, describe_recipe, resolve_settings
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler


def network() -> nn.ModuleDict:
    """Weights, biases and a norm, in two named parts."""
    torch.manual_seed(0)
    return nn.ModuleDict({"backbone": nn.Linear(4, 3), "head": nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))})


def rates(recipe: Recipe, updates: int) -> list[float]:
    """The learning rate of each update."""
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    scheduler, found = make_scheduler(optimizer, recipe, updates), []
    for _ in range(updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        step_schedule(scheduler)
    return found


def test_a_schedule_changes_neither_momentum_nor_betas_unless_asked() -> None:
    for optimizer, name, values in (("SGD", "momentum", 0.9), ("AdamW", "betas", (0.9, 0.95))):
        settings = {"momentum": 0.9} if optimizer == "SGD" else {"betas": "0.9:0.95"}
        for cycled in (False, True):
            recipe = Recipe(optimizer=optimizer, cycle_momentum=cycled, **settings)
            made = make_optimizer(nn.Linear(2, 2), recipe)
            scheduler = make_scheduler(made, recipe, 10)
            made.step()
            step_schedule(scheduler)
            assert (made.param_groups[0][name] == values) != cycled


def test_a_warm_up_rises_and_then_the_schedule_follows() -> None:
    found = rates(Recipe(scheduler="CosineAnnealingLR", warmup=4, lr=1.0), 10)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[5:] == sorted(found[5:], reverse=True)
    assert found[9] < 0.1
    assert rates(Recipe(scheduler="CosineAnnealingLR", warmup=0.4, lr=1.0), 10) == found
    assert rates(Recipe(scheduler="ConstantLR", warmup=2, lr=1.0), 4) == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_parameters_have_settings_of_their_own_by_name() -> None:
    recipe, own = resolve_settings("mlp", {"lr.backbone": "1e-4", "weight_decay.head.1": 0.5, "lr.head.1.bias": 2})
    assert recipe.groups == {"backbone": {"lr": 1e-4}, "head.1": {"weight_decay": 0.5}, "head.1.bias": {"lr": 2.0}}
    assert not own
    model = network()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in make_optimizer(model, recipe).param_groups
        for parameter in group["params"]
    }
    assert found == {
        "backbone.weight": (1e-4, 0.01),
        "backbone.bias": (1e-4, 0.0),
        "head.0.weight": (0.003, 0.0),
        "head.0.bias": (0.003, 0.0),
        "head.1.weight": (0.003, 0.5),
        "head.1.bias": (2.0, 0.5),
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "Muon"}, "cannot train this model: .*2D"),
        ({"optimizer": "LBFGS"}, "cannot train this model"),
        ({"optimizer": "SparseAdam"}, "cannot train this model"),
        ({"optimizer": "SGD", "nesterov": True}, "Nesterov momentum requires a momentum"),
        ({"betas": "0.9:1.5"}, "cannot train this model: Invalid beta"),
        ({"betas": "0.9,0.95"}, "must be numbers separated by colons"),
        ({"optimizer": "SGD", "betas": "0.9:0.95"}, "cannot train this model: .*betas"),
        (
            {"lr.bakbone": 1},
            r"--set lr\.bakbone: 'bakbone' matches no parameter of the model; its parameters are backbone\.weight",
        ),
        ({"frozen": "tail"}, "--set frozen: 'tail' matches no parameter of the model"),
        ({"frozen": "*"}, "all parameters are frozen"),
    ],
    ids=str,
)
def test_what_cannot_train_the_model_is_refused(settings: dict[str, Any], message: str) -> None:
    recipe, _ = resolve_settings("mlp", settings)
    with pytest.raises(UsageError, match=message):
        check_optimizer(recipe, network())


def every_optimizer() -> list[str]:
    kinds = (value for value in vars(torch.optim).values() if isinstance(value, type))
    return sorted(
        kind.__name__ for kind in kinds if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    )


@pytest.mark.parametrize("optimizer", every_optimizer())
@pytest.mark.parametrize(
    "scheduler",
    ["OneCycleLR", "CosineAnnealingLR", "StepLR", "ExponentialLR", "ConstantLR", "ReduceLROnPlateau"],
)
def test_every_optimizer_trains_with_every_schedule_or_is_refused(optimizer: str, scheduler: str) -> None:
    """Where the check passes, training the real model does not fail."""
    recipe = Recipe.parse({"optimizer": optimizer, "scheduler": scheduler})
    model = network()
    try:
        check_optimizer(recipe, model)
    except UsageError:
        assert optimizer in ("LBFGS", "Muon", "SparseAdam")
        return
    made = make_optimizer(model, recipe)
    schedule = make_scheduler(made, recipe, 3)
    for _ in range(3):
        out = model["head"](model["backbone"](torch.randn(8, 4)))
        made.zero_grad()
        out.square().mean().backward()
        made.step()
        step_schedule(schedule)
    step_schedule(schedule, 0.5)


def test_a_matrix_model_may_use_muon(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def matrix(sample_shape, outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False))\n"
    )
    summary = fs.train(
        digits.place,
        tmp_path / "run",
        model=f"{tmp_path / 'own.py'}:matrix",
        folds=2,
        epochs=2,
        settings={"optimizer": "Muon", "lr": 0.02, "scheduler": "ConstantLR"},
    ).summary
    assert summary["out_of_fold"]["accuracy"] > 0.5


def test_a_plateau_lowers_the_rate_and_a_refit_has_none(digits: Dataset, tmp_path: Path) -> None:
    settings = {"scheduler": "ReduceLROnPlateau", "plateau": 0, "gamma": 0.5, "lr": 0.5, "optimizer": "SGD"}
    summary = fs.train(digits.place, tmp_path / "run", model="mlp", folds=2, epochs=6, settings=settings).summary
    assert summary["out_of_fold"]["accuracy"] >= 0.1
    with pytest.raises(UsageError, match=r"refit=True trains on all rows, but settings=.*ReduceLROnPlateau.* needs"):
        fs.train(digits.place, tmp_path / "refit", model="mlp", folds=2, epochs=2, settings=settings, refit=True)


def test_a_warm_up_is_refused_where_the_schedule_has_its_own(digits: Dataset) -> None:
    with pytest.raises(UsageError, match=r"--set warmup=0\.1: OneCycleLR has none, OneCycleLR rises by itself"):
        check_config(TrainConfig(recipe=Recipe(warmup=0.1)), digits.schema)


def test_frozen_parameters_stay(digits: Dataset, tmp_path: Path) -> None:
    for name, epochs in (("short", 1), ("long", 3)):
        fs.train(
            digits.place, tmp_path / name, model="mlp", folds=2, epochs=epochs, settings={"frozen": "1", "hidden": 8}
        )
    short, long = (load_weights(locate(tmp_path / name / "folds/0/model.safetensors")) for name in ("short", "long"))
    assert torch.equal(short["1.weight"], long["1.weight"])
    assert not torch.equal(short["4.weight"], long["4.weight"])


MODEL = """
import torch
from torch import nn

def make(sample_shape, outputs):
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, outputs))
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "AdamW", "lr": 0.01, "weight_decay": 0.02, "scheduler": "CosineAnnealingLR", "warmup": 7},
        {"optimizer": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "scheduler": "ConstantLR"},
    ],
    ids=["AdamW", "SGD"],
)
def test_a_loop_by_hand_gives_the_weights_of_train(settings: dict[str, Any], digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MODEL)
    run, model = tmp_path / "run", f"{tmp_path / 'own.py'}:make"
    fs.train(digits.place, run, settings=settings, model=model, folds=3, epochs=3, batch_size=64, workers=0, shares=1)
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)
    network = namespace["make"]((1, 28, 28), 10)
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in network.parameters() if parameter.ndim >= 2]},
        {"params": [parameter for parameter in network.parameters() if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    if settings["optimizer"] == "AdamW":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.02, fused=True)
        rising = lr_scheduler.LinearLR(optimizer, start_factor=1 / 8, total_iters=7)
        falling = lr_scheduler.CosineAnnealingLR(optimizer, math.ceil(800 / 64) * 3 - 7)
        scheduler: lr_scheduler.LRScheduler = lr_scheduler.SequentialLR(optimizer, [rising, falling], milestones=[7])
    else:
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        scheduler = lr_scheduler.ConstantLR(optimizer, factor=1)
    normalize = fs.normalizer(digits, fold=1, folds=run)
    stream = fs.stream(digits, fold=1, folds=run, batch_size=64)
    for _ in range(3):
        for x, y, _ in stream:
            optimizer.zero_grad()
            functional.cross_entropy(network(normalize(x)), y.long()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
    for name, weights in load_weights(locate(run / "folds/1/model.safetensors")).items():
        assert torch.equal(network.state_dict()[name], weights), name


def test_a_recipe_is_told_in_a_line() -> None:
    recipe, _ = resolve_settings("mlp", {"lr.head": "1e-4", "betas": "0.9:0.95", "warmup": "0.1", "clip_grad_norm": 1})
    assert describe_recipe(recipe) == (
        "AdamW, lr 0.003, weight decay 0.01, OneCycleLR, betas 0.9:0.95, warmup 0.1, clip_grad_norm 1.0, "
        "lr of head 0.0001"
    )
