"""The optimizer and the learning rate schedule of a recipe."""

from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import lr_scheduler

from ...storage.errors import UsageError
from ..config import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Create the recipe's optimizer for the model's parameters."""
    can_fuse = all(
        type(parameter) is nn.Parameter and parameter.is_floating_point() for parameter in model.parameters()
    )
    return _create(parameter_groups(model, recipe), recipe, can_fuse)


def _create(groups: list[dict[str, Any]], recipe: Recipe, can_fuse: bool) -> torch.optim.Optimizer:
    """Create the optimizer, fused if possible: fused Adam takes a third of the time of torch's default, even on a
    CPU."""
    options: dict[str, Any] = {"momentum": recipe.momentum} if recipe.momentum else {}
    if recipe.nesterov:
        options["nesterov"] = True
    if recipe.betas:
        options["betas"] = parse_betas(recipe.betas)
    if recipe.eps:
        options["eps"] = recipe.eps
    if recipe.optimizer in ("Adam", "AdamW") and can_fuse:
        options["fused"] = True
    optimizer: torch.optim.Optimizer = getattr(torch.optim, recipe.optimizer)(groups, lr=recipe.lr, **options)
    return optimizer


def parse_betas(text: str) -> tuple[float, ...]:
    """Parse `0.9:0.95` as numbers. Raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"--set betas={text}: must be numbers separated by colons, e.g. 0.9:0.95") from None


def check_optimizer(recipe: Recipe, model: nn.Module) -> None:
    """Raise UsageError unless the recipe's optimizer and schedule can take a step with the model's parameters, and
    every pattern of the recipe matches at least one of them."""
    names = [name for name, _ in model.named_parameters()]
    named = [("frozen", pattern) for pattern in patterns_of(recipe.frozen)]
    named += [(f"{setting}.{pattern}", pattern) for pattern, values in recipe.groups.items() for setting in values]
    for setting, pattern in named:
        if not any(fits(name, pattern) for name in names):
            raise UsageError(
                f"--set {setting}: '{pattern}' matches no parameter of the model; its parameters are "
                f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
            )
    freeze(model, recipe)
    groups = parameter_groups(model, recipe)
    if not groups:
        raise UsageError(f"--set frozen={recipe.frozen}: all parameters are frozen; freeze fewer")
    for group in groups:  # of the same dimensions, but small
        group["params"] = [nn.Parameter(torch.zeros((2,) * parameter.ndim)) for parameter in group["params"]]
    try:
        optimizer = _create(groups, recipe, can_fuse=True)
        scheduler = make_scheduler(optimizer, recipe, 2)
        for group in groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        step_schedule(scheduler)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise UsageError(
            f"--set optimizer={recipe.optimizer} with scheduler={recipe.scheduler} cannot train this model: {error}; "
            "use another combination, e.g. optimizer=AdamW with scheduler=OneCycleLR"
        ) from error


def make_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, updates: int, mode: Literal["min", "max"] = "min"
) -> lr_scheduler.LRScheduler:
    """Create the recipe's schedule, which is stepped after every optimizer step, `updates` times in total, or for
    ReduceLROnPlateau after every epoch, with a metric whose `mode` says which values are better."""
    if recipe.scheduler == "OneCycleLR":
        rates = [group["lr"] for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, rates, total_steps=updates + 1, cycle_momentum=recipe.cycle_momentum)
    if recipe.scheduler == "ReduceLROnPlateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, mode, recipe.gamma, recipe.plateau)
    steps = min(updates, round(recipe.warmup if recipe.warmup >= 1 else recipe.warmup * updates))
    if not steps:
        return _decay(optimizer, recipe, updates)
    rising = lr_scheduler.LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps)
    falling = _decay(optimizer, recipe, max(1, updates - steps))
    return lr_scheduler.SequentialLR(optimizer, [rising, falling], milestones=[steps])


def _decay(optimizer: torch.optim.Optimizer, recipe: Recipe, updates: int) -> lr_scheduler.LRScheduler:
    match recipe.scheduler:
        case "CosineAnnealingLR":
            return lr_scheduler.CosineAnnealingLR(optimizer, updates)
        case "StepLR":
            return lr_scheduler.StepLR(optimizer, recipe.step_size, recipe.gamma)
        case "ExponentialLR":
            return lr_scheduler.ExponentialLR(optimizer, recipe.gamma)
        case _:
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def step_schedule(scheduler: lr_scheduler.LRScheduler, metric: float | None = None) -> None:
    """Step a schedule after an update, or if it goes by epochs, after an epoch with its monitored `metric`."""
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        if metric is not None:
            scheduler.step(metric)
    elif metric is None:
        scheduler.step()


def patterns_of(text: str) -> list[str]:
    """Split `backbone:embed*` into patterns."""
    return [part for part in text.split(":") if part]


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern, which may contain `*` and `?`, matches a parameter or a module that contains it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))


def freeze(model: nn.Module, recipe: Recipe) -> None:
    """Freeze the parameters that the recipe excludes from training."""
    for name, parameter in model.named_parameters():
        if any(fits(name, pattern) for pattern in patterns_of(recipe.frozen)):
            parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Split the parameters by weight decay and learning rate, in the order of the model.

    Weight decay applies to weights with two or more dimensions, but not to biases and normalization parameters. A model
    can override this with a method `decayed_parameters`. The recipe may set both by name patterns; the last match wins.
    """
    choose = getattr(model, "decayed_parameters", None)
    decayed = {id(p) for p in (choose() if choose else (p for p in model.parameters() if p.ndim >= 2))}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own: dict[str, float] = {}
        for pattern, values in recipe.groups.items():
            own |= values if fits(name, pattern) else {}
        decay = own.get("weight_decay", recipe.weight_decay if id(parameter) in decayed else 0.0)
        groups.setdefault((own.get("lr", recipe.lr), decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


MODEL_BYTES = 20  # per parameter: its value, gradient, two optimizer moments, and best value so far
