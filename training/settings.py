"""Settings against the code that takes them: torch's optimizers, the model's factory, the data's schema."""

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from ..storage.errors import UsageError, check_choice, did_you_mean
from ..storage.format import Schema, Statistics
from ..storage.places.locate import locate
from .config import Ensemble, Recipe, TrainConfig
from .fitted.class_weights import class_weights, pos_weights
from .splits.choose import check_split
from .stream.order import check_batch_size
from .zoo.factory import DEFAULTS, code_file, load_factory, settings_in_source, settings_of

LOSSES = {
    "classification": ("cross_entropy", "focal"),
    "multilabel": ("binary_cross_entropy_with_logits", "focal"),
    "regression": ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
}
"""The losses that fit a task; the first is the usual one."""
BY_PATTERN = "lr", "weight_decay"  # settings that some parameters may have of their own
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_task(schema: Schema) -> None:
    """Raise UsageError for data without a label."""
    if schema.task is None:
        how = "--labels FILE.csv, or a folder for each class," if schema.image else "--label COLUMN"
        raise UsageError(f"the dataset has no label to train on; convert its source again with {how} and --overwrite")


def check_ensemble(kind: str, probabilities: bool, refit: bool) -> None:
    """Raise UsageError for an unknown ensemble, for `vote` on a regression, and for `refit` without a refit model."""
    check_choice("--ensemble", kind, get_args(Ensemble))
    if kind == "vote" and not probabilities:
        raise UsageError(
            "--ensemble vote: voting requires classes or labels; for a regression use mean, median or weighted"
        )
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
    pos_weights(schema, nothing, config.recipe.pos_weight)
    if config.class_weights and ":" in config.recipe.loss:
        raise UsageError("--class-weight: your own loss weighs the classes itself; remove it")


def _check_recipe(recipe: Recipe, task: str) -> None:
    if recipe.stack and recipe.strategy == "fsdp":
        raise UsageError("--set stack=true computes all folds in one process; remove strategy=fsdp")
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
    _check_loss(recipe, task)
    if recipe.momentum and "momentum" not in inspect.signature(getattr(torch.optim, recipe.optimizer)).parameters:
        raise UsageError(f"--set momentum={recipe.momentum}: {recipe.optimizer} has no momentum; use SGD or RMSprop")


def _check_loss(recipe: Recipe, task: str) -> None:
    own, focal = ":" in recipe.loss, recipe.loss == "focal"
    if not own and recipe.loss not in ("auto", *LOSSES[task]):
        every = sorted({name for names in LOSSES.values() for name in names})
        hint = did_you_mean(recipe.loss, every) if recipe.loss not in every else ""
        raise UsageError(
            f"--set loss={recipe.loss} does not fit a {task}: {hint}use {', '.join(LOSSES[task])}, or your own as "
            "path/to/file.py:function"
        )
    if recipe.label_smoothing and (own or focal or task != "classification"):
        raise UsageError(f"--set label_smoothing={recipe.label_smoothing:g} is for cross_entropy; remove it")
    if own and recipe.pos_weight:
        raise UsageError("--set pos_weight: your own loss weighs the ones itself; remove it")


def trained_loss(config: TrainConfig) -> str:
    """The name of what a training minimizes: `loss` if that is what held-out rows are scored by too."""
    recipe = config.recipe
    words = [recipe.loss.rpartition("/")[2]] if ":" in recipe.loss or recipe.loss == "focal" else []
    words += ["smoothed"] * bool(recipe.label_smoothing) + ["weighted"] * bool(
        recipe.pos_weight or config.class_weights
    )
    return f"{', '.join(words)} loss" if words else "loss"


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
    found = Recipe.parse({**recipe, "groups": groups}, name=lambda field: f"--set {field}=")
    if (file := code_file(found.loss)) and not locate(str(file[0])).exists():
        raise UsageError(f"--set loss={found.loss}: the file does not exist; check the path")
    return found, rest


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
