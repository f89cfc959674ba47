"""The recipe's optimizer and schedule."""

from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from ...storage.errors import UsageError
from ..config import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's parameters.

    Adam's update in one pass over the memory («fused») takes a third of the time of torch's default, on a CPU too.
    """
    options: dict[str, Any] = {"momentum": recipe.momentum} if recipe.momentum else {}
    whole = all(type(parameter) is nn.Parameter and parameter.is_floating_point() for parameter in model.parameters())
    if recipe.optimizer in ("Adam", "AdamW") and whole:
        options["fused"] = True
    groups = parameter_groups(model, recipe.weight_decay)
    optimizer: torch.optim.Optimizer = getattr(torch.optim, recipe.optimizer)(groups, lr=recipe.lr, **options)
    return optimizer


def try_recipe(recipe: Recipe) -> None:
    """Raise UsageError unless the recipe's optimizer and schedule make a step."""
    model = nn.Linear(2, 2, bias=False)
    try:
        optimizer = make_optimizer(model, recipe)
        scheduler = make_scheduler(optimizer, recipe, 1)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        scheduler.step()
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise UsageError(
            f"--set optimizer={recipe.optimizer} with scheduler={recipe.scheduler} cannot train: {error}; use others, "
            "as AdamW and OneCycleLR"
        ) from error


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, updates: int) -> lr_scheduler.LRScheduler:
    """The recipe's schedule, stepped once an optimizer step, `updates` times in all."""
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
    """Parameters that decay and those that do not.

    Weights of two or more axes decay, biases and norms do not; a model with a method `decayed_parameters` says itself.
    """
    choose = getattr(model, "decayed_parameters", None)
    decayed = {id(p) for p in (choose() if choose else (p for p in model.parameters() if p.ndim >= 2))}
    split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        split[id(parameter) in decayed].append(parameter)
    groups = [{"params": split[True], "weight_decay": weight_decay}, {"params": split[False], "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


MODEL_BYTES = 20  # of each parameter: itself, its gradient, two moments of its optimizer, its best value so far
