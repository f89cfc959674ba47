"""What a run trains and how, as frozen values that are checked before any worker starts."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import torch

from ..storage.errors import UsageError, check_choice, did_you_mean
from ..storage.format import Schema
from .splits.split import Split, check_split
from .stream.order import LANE_STEP, check_batch_size
from .zoo.factory import DEFAULTS, load_factory, settings_of

LOSSES = ("cross_entropy", "mse_loss", "l1_loss", "huber_loss")
SCHEDULERS = ("OneCycleLR", "CosineAnnealingLR", "StepLR", "ExponentialLR", "ConstantLR")
PRECISIONS = ("float32", "bfloat16", "float16")
STRATEGIES = ("ddp", "fsdp")
LEAST = {
    "weight_decay": 0.0,
    "momentum": 0.0,
    "step_size": 1,
    "gamma": 0.0,
    "label_smoothing": 0.0,
    "clip_grad_norm": 0.0,
    "accumulate": 1,
    "patience": 0,
}
"""The least values of a recipe's numbers."""
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Recipe:
    """How the weights are found. The names are torch's; each can be given by `--set NAME=VALUE`."""

    optimizer: str = "AdamW"
    """Any class of torch.optim."""
    lr: float = 0.003
    weight_decay: float = 0.01
    momentum: float = 0.0
    """For optimizers that have it."""
    scheduler: str = "OneCycleLR"
    """OneCycleLR, CosineAnnealingLR (both over the whole run), StepLR, ExponentialLR (per step), ConstantLR."""
    step_size: int = 100
    """Optimizer steps between StepLR's decays."""
    gamma: float = 0.1
    """Factor of a decay of StepLR or ExponentialLR."""
    loss: str = "auto"
    """A function of torch.nn.functional; auto: cross_entropy for classes, mse_loss for quantities."""
    label_smoothing: float = 0.0
    precision: str = "float32"
    """bfloat16 or float16: autocast, with gradient scaling for float16."""
    clip_grad_norm: float = 0.0
    """Largest norm of the gradient; 0: no clipping."""
    accumulate: int = 1
    """Batches whose gradients are added up for one optimizer step."""
    compile: bool = False
    """Whether training steps run through torch.compile, which needs a C++ compiler, and a while at the start."""
    strategy: str = "ddp"
    """How workers share a fold: ddp, each has the whole model; fsdp, each has its part of weights and optimizer."""
    sync_batchnorm: bool = False
    """Whether batch norm goes by the whole batch, over all workers: on GPUs only."""
    deterministic: bool = False
    """Whether only deterministic algorithms are used on the GPU; on the CPU they always are."""
    patience: int = 0
    """Early stopping: epochs without a lower validation loss; then the best weights are kept. 0: none."""


@dataclass(frozen=True)
class TrainConfig:
    """A run: model, folds, epochs, seeds. Equal configurations on equal data give equal weights."""

    model: str = "digits-cnn"
    split: Split = field(default_factory=Split)
    epochs: int = 10
    batch_size: int = 128
    seed: int = 0
    window: int = 8
    """Blocks of a lane that are mixed at once."""
    lanes: int = LANE_STEP
    shares: int = 1
    """Parts of a batch that are computed by themselves: the workers with which the run began."""
    refit: bool = False
    """Whether one more model is trained, on all rows but the holdout."""
    recipe: Recipe = field(default_factory=Recipe)
    model_settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "split": Split.from_json(value["split"]), "recipe": Recipe(**value["recipe"])})


def check_config(config: TrainConfig, schema: Schema) -> None:
    """Raise UsageError for a configuration that cannot train on data with this schema."""
    for name, value in (("--epochs", config.epochs), ("--batch-size", config.batch_size), ("--window", config.window)):
        if value < 1:
            raise UsageError(f"{name} {value}: it must be at least 1")
    if schema.task is None:
        how = "--labels FILE.csv, or a folder for each class," if schema.image else "--label COLUMN"
        raise UsageError(f"the dataset has no label to train on; convert its source again with {how} and --overwrite")
    check_split(config.split, schema)
    check_batch_size(config.batch_size, config.lanes)
    if config.refit and config.recipe.patience:
        raise UsageError("--refit trains on all rows, and --set patience needs rows to stop by; leave one of them out")
    _check_recipe(config.recipe, schema.task)


def _check_recipe(recipe: Recipe, task: str) -> None:
    check_choice("--set scheduler", recipe.scheduler, SCHEDULERS)
    check_choice("--set precision", recipe.precision, PRECISIONS)
    check_choice("--set strategy", recipe.strategy, STRATEGIES)
    if (recipe.strategy, recipe.precision) == ("fsdp", "float16"):
        raise UsageError("--set strategy=fsdp does not scale gradients as float16 needs it; use precision=bfloat16")
    check_choice("--set loss", recipe.loss, ("auto", *LOSSES))
    optimizers = [
        name
        for name, item in vars(torch.optim).items()
        if inspect.isclass(item) and issubclass(item, torch.optim.Optimizer) and item is not torch.optim.Optimizer
    ]
    check_choice("--set optimizer", recipe.optimizer, tuple(optimizers))
    if (recipe.loss == "cross_entropy") != (task == "classification") and recipe.loss != "auto":
        fitting = "cross_entropy" if task == "classification" else ", ".join(sorted({*LOSSES} - {"cross_entropy"}))
        raise UsageError(f"--set loss={recipe.loss} does not fit a {task}; use {fitting}, or leave it out")
    if recipe.momentum and "momentum" not in inspect.signature(getattr(torch.optim, recipe.optimizer)).parameters:
        raise UsageError(f"--set momentum={recipe.momentum}: {recipe.optimizer} has no momentum; use SGD or RMSprop")
    if not 0 < recipe.lr < math.inf:
        raise UsageError(f"--set lr={recipe.lr}: it must be above 0")
    for name, least in LEAST.items():
        if not least <= getattr(recipe, name) < math.inf:
            raise UsageError(f"--set {name}={getattr(recipe, name)}: it must be at least {least:g}")
    if recipe.label_smoothing > 1:
        raise UsageError(f"--set label_smoothing={recipe.label_smoothing}: it must be from 0 to 1")


def resolve_settings(model: str, settings: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Sort `--set` values into the recipe and the model's own settings.

    The recipe's names come first; the rest must be parameters of the model's factory. Raises UsageError with the
    nearest name for one that is neither, and for a value of the wrong type.
    """
    own = settings_of(load_factory(model))
    known = {item.name: item for item in fields(Recipe)}
    recipe: dict[str, Any] = dict(DEFAULTS.get(model, {}))
    rest: dict[str, Any] = {}
    for name, value in settings.items():
        if name in known:
            recipe[name] = _typed(name, value, type(known[name].default))
        elif name in own or "**" in own:
            default = own.get(name)
            typed = isinstance(default, bool | int | float | str)
            rest[name] = _typed(name, value, type(default)) if typed else value
        else:
            names = [*known, *own]
            raise UsageError(f"--set {name}: not a setting: {did_you_mean(name, names)}there are {', '.join(names)}")
    return Recipe(**recipe), rest


def _typed(name: str, value: Any, kind: type) -> Any:
    """A setting's value as the type of its default."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        return kind(float(value)) if kind is int else kind(value)
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--set {name}={value}: it must be {KINDS[kind]}") from None
