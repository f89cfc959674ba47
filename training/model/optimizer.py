"""The optimizer and the learning rate schedule of a recipe."""

from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from ...storage.errors import UsageError
from ..config import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Create the recipe's optimizer for the model's parameters.

    The fused implementation of Adam, one pass over the memory, takes a third of the time of torch's default, even on a
    CPU.
    """
    options: dict[str, Any] = {"momentum": recipe.momentum} if recipe.momentum else {}
    can_fuse = all(
        type(parameter) is nn.Parameter and parameter.is_floating_point() for parameter in model.parameters()
    )
    if recipe.optimizer in ("Adam", "AdamW") and can_fuse:
        options["fused"] = True
    groups = parameter_groups(model, recipe.weight_decay)
    optimizer: torch.optim.Optimizer = getattr(torch.optim, recipe.optimizer)(groups, lr=recipe.lr, **options)
    return optimizer


def check_optimizer(recipe: Recipe) -> None:
    """Raise UsageError unless the recipe's optimizer and schedule can take one step on a tiny model."""
    model = nn.Linear(2, 2, bias=False)
    try:
        optimizer = make_optimizer(model, recipe)
        scheduler = make_scheduler(optimizer, recipe, 1)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        scheduler.step()
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise UsageError(
            f"--set optimizer={recipe.optimizer} with scheduler={recipe.scheduler} cannot train: {error}; "
            "choose others, e.g. optimizer=AdamW with scheduler=OneCycleLR"
        ) from error


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, updates: int) -> lr_scheduler.LRScheduler:
    """Create the recipe's schedule, which is stepped after every optimizer step, `updates` times in total."""
    match recipe.scheduler:
        case "OneCycleLR":
            return lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=updates + 1)
        case "CosineAnnealingLR":
            return lr_scheduler.CosineAnnealingLR(optimizer, updates)
        case "StepLR":
            return lr_scheduler.StepLR(optimizer, recipe.step_size, recipe.gamma)
        case "ExponentialLR":
            return lr_scheduler.ExponentialLR(optimizer, recipe.gamma)
        case _:
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters into those with weight decay and those without.

    Weights with two or more dimensions decay; biases and the parameters of norms do not. A model with a method
    `decayed_parameters` chooses for itself.
    """
    choose = getattr(model, "decayed_parameters", None)
    decayed = {id(p) for p in (choose() if choose else (p for p in model.parameters() if p.ndim >= 2))}
    split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        split[id(parameter) in decayed].append(parameter)
    groups = [{"params": split[True], "weight_decay": weight_decay}, {"params": split[False], "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


MODEL_BYTES = 20  # per parameter: its value, gradient, two optimizer moments, and best value so far
