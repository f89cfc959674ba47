"""Settings against the code that takes them: torch's optimizers, the model's factory, the data's schema."""

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from ..storage.errors import UsageError, check_choice, did_you_mean
from ..storage.format import Schema, Statistics
from .config import Ensemble, Loss, Recipe, TrainConfig
from .fitted.class_weights import class_weights
from .splits.choose import check_split
from .stream.order import check_batch_size
from .zoo.factory import DEFAULTS, load_factory, settings_in_source, settings_of

BY_PATTERN = "lr", "weight_decay"  # settings that some parameters may have of their own
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_task(schema: Schema) -> None:
    """Raise UsageError for data without a label."""
    if schema.task is None:
        how = "--labels FILE.csv, or a folder for each class," if schema.image else "--label COLUMN"
        raise UsageError(f"the dataset has no label to train on; convert its source again with {how} and --overwrite")


def check_ensemble(kind: str, classes: bool, refit: bool) -> None:
    """Raise UsageError for an unknown ensemble, for `vote` on a regression, and for `refit` without a refit model."""
    check_choice("--ensemble", kind, get_args(Ensemble))
    if kind == "vote" and not classes:
        raise UsageError("--ensemble vote: voting requires classes; for a regression use mean, median or weighted")
    if kind == "refit" and not refit:
        raise UsageError("--ensemble refit: this run has no model trained on all rows; train one with --refit")


def check_config(config: TrainConfig, schema: Schema) -> None:
    """Raise UsageError for a configuration that cannot train on data with this schema."""
    check_task(schema)
    check_split(config.split, schema)
    check_batch_size(config.batch_size, config.lanes)
    by_loss = "patience" if config.recipe.patience else "scheduler=ReduceLROnPlateau"
    if config.refit and (config.recipe.patience or config.recipe.scheduler == "ReduceLROnPlateau"):
        raise UsageError(f"--refit trains on all rows, but --set {by_loss} needs held-out rows; use one of them")
    _check_recipe(config.recipe, str(schema.task))
    nothing = Statistics((), (), (), (), class_rows=(1,) * len(schema.classes))
    class_weights(schema, nothing, config.class_weights)  # only for its errors


def _check_recipe(recipe: Recipe, task: str) -> None:
    if recipe.stack and recipe.strategy == "fsdp":
        raise UsageError("--set stack=true computes all folds in one process; remove strategy=fsdp")
    if recipe.find_unused_parameters and recipe.strategy == "fsdp":
        raise UsageError(
            "--set find_unused_parameters=true: fsdp needs a gradient of every parameter from every worker; use "
            "strategy=ddp, or freeze those that are never used (--set frozen=NAME)"
        )
    if recipe.warmup and recipe.scheduler in ("OneCycleLR", "ReduceLROnPlateau"):
        raise UsageError(
            f"--set warmup={recipe.warmup:g}: {recipe.scheduler} has none, OneCycleLR rises by itself; use "
            "scheduler=CosineAnnealingLR, or remove it"
        )
    if (recipe.strategy, recipe.precision) == ("fsdp", "float16"):
        raise UsageError("--set strategy=fsdp does not support float16's gradient scaling; use precision=bfloat16")
    import torch

    optimizers = [
        name
        for name, item in vars(torch.optim).items()
        if inspect.isclass(item) and issubclass(item, torch.optim.Optimizer) and item is not torch.optim.Optimizer
    ]
    check_choice("--set optimizer", recipe.optimizer, tuple(optimizers))
    if (recipe.loss == "cross_entropy") != (task == "classification") and recipe.loss != "auto":
        others = sorted({*get_args(Loss)} - {"auto", "cross_entropy"})
        fitting = "cross_entropy" if task == "classification" else ", ".join(others)
        raise UsageError(f"--set loss={recipe.loss} does not fit a {task}; use {fitting}, or remove it")
    if recipe.momentum and "momentum" not in inspect.signature(getattr(torch.optim, recipe.optimizer)).parameters:
        raise UsageError(f"--set momentum={recipe.momentum}: {recipe.optimizer} has no momentum; use SGD or RMSprop")


def usual_recipe(model: str) -> Recipe:
    """The recipe of a model for which nothing else is set."""
    return Recipe(**DEFAULTS.get(model, {}))


def describe_recipe(recipe: Recipe) -> str:
    """What a training uses, in a line: optimizer, rate, decay, schedule, and all that is not at its default."""
    named = {"optimizer", "lr", "weight_decay", "scheduler", "groups"}
    words = [recipe.optimizer, f"lr {recipe.lr:g}", f"weight decay {recipe.weight_decay:g}", recipe.scheduler]
    values = {name: getattr(recipe, name) for name in Recipe.settings() if name not in named}
    words += [f"{name} {value}" for name, value in values.items() if value != Recipe.model_fields[name].default]
    words += [f"{name} of {pattern} {value:g}" for pattern, own in recipe.groups.items() for name, value in own.items()]
    return ", ".join(words)


def resolve_settings(model: str, settings: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Sort `--set` values into the recipe and the model's own settings.

    The recipe's names come first; the rest must be parameters of the model's factory, which is loaded only if its
    source does not tell them. Raises UsageError with the nearest name for one that is neither, and for a value of the
    wrong type.
    """
    own = settings_in_source(model)
    if own is None:
        own = settings_of(load_factory(model))
    recipe: dict[str, Any] = dict(DEFAULTS.get(model, {}))
    rest: dict[str, Any] = {}
    groups: dict[str, dict[str, float]] = {}
    for name, value in settings.items():
        setting, _, pattern = name.partition(".")
        if setting in BY_PATTERN and pattern:
            groups.setdefault(pattern, {})[setting] = _typed(name, value, float)
        elif name in Recipe.settings():
            recipe[name] = _typed(name, value, type(Recipe.model_fields[name].default))
        elif name in own or "**" in own:
            default = own.get(name)
            rest[name] = _typed(name, value, type(default)) if isinstance(default, bool | int | float | str) else value
        else:
            names = [*Recipe.settings(), *own]
            raise UsageError(
                f"--set {name} is not a setting: {did_you_mean(name, names)}choose from {', '.join(names)}"
            )
    return Recipe.parse({**recipe, "groups": groups}, name=lambda field: f"--set {field}="), rest


def _typed(name: str, value: Any, kind: type) -> Any:
    """A setting's value as the type of its default."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        return kind(float(value)) if kind is int else kind(value)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UsageError(f"--set {name}={value}: must be {KINDS[kind]}") from None
