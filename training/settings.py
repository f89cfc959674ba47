"""Settings against the code that takes them: torch's optimizers, the model's factory, the data's schema."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from ..storage.errors import UsageError, check_choice, did_you_mean, suggest
from ..storage.format.schema import Schema
from ..storage.format.statistics import Statistics
from ..storage.metrics.own import OwnMetric
from ..storage.metrics.sample import RowSample
from ..storage.metrics.scoring import LossMeasure, Scoring
from ..storage.options import flag_of
from ..storage.programs.loading import load_entry
from ..storage.programs.user_code import describe_error
from .config import Ensemble, Recipe, TrainConfig, TrainingOptions
from .fitted.class_weights import class_weights, pos_weights
from .fitted.strategies import parse_sample
from .splits.choose import check_split
from .stream.order import check_batch_size, used_batches
from .stream.sampling import Sampling
from .zoo.arguments import ANY, match_parameters, settings_in
from .zoo.augment import MIXES, parse_augment
from .zoo.factory import DEFAULTS, signature_of

LOSSES = {
    "classification": ("cross_entropy", "focal"),
    "multilabel": ("binary_cross_entropy_with_logits", "focal"),
    "segmentation": ("cross_entropy", "focal"),
    "regression": ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "quantile"),
}
"""The losses that fit a task; the first is the usual one."""
MEASURES: dict[str, LossMeasure] = {
    "l1_loss": "mae",
    "smooth_l1_loss": "mae",
    "huber_loss": "mae",
    "quantile": "quantile loss",
}
"""The loss of held-out rows, by that of a regression's training, if it is not the mean squared error."""
EXAMPLE_ROWS = 24  # on which a user's metric is tried
BY_PATTERN = "lr", "weight_decay"  # settings that some parameters may have of their own
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_task(schema: Schema) -> None:
    """Raise UsageError for data without a label."""
    if schema.task is None:
        how = "--labels FILE.csv, --masks FOLDER, or a folder for each class," if schema.image else "--label COLUMN"
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
    check_batch_size(config.batch_size, config.shares)
    if config.refit and config.recipe.scheduler == "ReduceLROnPlateau":
        raise UsageError(
            "--refit trains on all rows, but --set scheduler=ReduceLROnPlateau needs held-out rows; use one of them"
        )
    _check_recipe(config.recipe, str(schema.task))
    if config.recipe.stack and schema.tokens:
        raise UsageError(
            "--set stack=true: batches of sequences have a width of their own for each fold; remove the setting"
        )
    check_own_metrics(config, schema)
    _check_monitor(config, scoring_of(schema, config))
    nothing = Statistics((), (), (), (), class_rows=(1,) * len(schema.classes))
    class_weights(schema, nothing, config.class_weights)  # only for its errors
    plan_sampling(schema, config.samples)  # the same
    pos_weights(schema, nothing, config.recipe.pos_weight)
    if config.class_weights and ":" in config.recipe.loss:
        raise UsageError("--class-weight: your own loss weighs the classes itself; remove it")
    mixes = [text for text in config.augmentations if parse_augment(text)[0] in MIXES]
    if mixes and ":" in config.recipe.loss:
        raise UsageError(f"--augment {mixes[0]}: your own loss takes no mixed labels; remove one of them")


def measure_of(schema: Schema, recipe: Recipe) -> LossMeasure:
    """The loss of held-out rows: without weights or smoothing, and in the units of the targets, so that runs with the
    same measure compare."""
    return "log loss" if schema.probabilities or schema.task == "segmentation" else MEASURES.get(recipe.loss, "mse")


def scoring_of(schema: Schema, config: TrainConfig, center: Sequence[float] = ()) -> Scoring:
    """How a run's predictions are scored. `center` are values near the means of regression targets."""
    own = tuple((metric.name, metric.higher_is_better) for metric in own_metrics(config))
    return Scoring(schema, measure_of(schema, config.recipe), config.recipe.quantile, tuple(center), own)


def own_metrics(config: TrainConfig) -> list[OwnMetric]:
    """The user's metrics. Raises UsageError if one cannot be found or imported."""
    return [OwnMetric(name.rpartition(":")[2], load_entry("--metric", name)) for name in config.metrics]


def check_own_metrics(config: TrainConfig, schema: Schema) -> None:
    """Try the user's metrics on a few rows such as they will get. Raises UsageError if one fails or returns no number,
    or has the name of another metric."""
    known = Scoring(schema, measure_of(schema, config.recipe)).names()
    rows = np.arange(EXAMPLE_ROWS)
    random = np.random.default_rng(0)
    prediction = random.dirichlet(np.ones(max(2, schema.outputs)), EXAMPLE_ROWS)[:, : schema.outputs]
    y = rows % schema.outputs if schema.classes else np.rint(prediction) if schema.probabilities else prediction + 1
    dtype: type[np.generic] = np.float32 if schema.probabilities else np.float64
    if schema.target_name:
        most = schema.outputs if schema.task == "segmentation" else 256
        prediction, y = random.integers(most, size=(2, EXAMPLE_ROWS, *schema.target_shape)).astype(schema.y_dtype)
        dtype = np.uint8 if schema.task == "segmentation" else np.float32
    sample = RowSample.of(rows, prediction.astype(dtype), y, np.ones(len(y)))
    names = [*known]
    for option, metric in zip(config.metrics, own_metrics(config), strict=True):
        if metric.name in names:
            raise UsageError(f"--metric {option}: there is a metric '{metric.name}' already; rename the function")
        names.append(metric.name)
        try:
            metric(sample)
        except Exception as error:  # user code may raise anything
            raise UsageError(
                f"--metric {option} failed for y of shape {y.shape} and predictions of shape {prediction.shape}: "
                f"{describe_error(error)}; fix the function"
            ) from error


def _check_monitor(config: TrainConfig, scoring: Scoring) -> None:
    """Raise UsageError for a metric that the task does not have."""
    check_choice("--monitor", config.monitor, ("auto", *scoring.names()))


def ranking_metrics(schema: Schema, configs: Sequence[TrainConfig]) -> dict[str, bool]:
    """The out-of-fold metrics by which candidates are ranked, and whether their higher values are better: the monitored
    one, or else accuracy and loss; for a regression the loss, or R² if candidates measure it in different ways, or if
    it adds up several targets, whose units differ."""
    monitor = configs[0].monitor
    if monitor != "auto":
        return {monitor: scoring_of(schema, configs[0]).higher_is_better(monitor)}
    if schema.probabilities:
        return {"accuracy": True, "loss": False}
    if schema.task == "segmentation":
        return {"mean_iou": True}
    measures = {measure_of(schema, config.recipe) for config in configs}
    return {"loss": False} if len(measures) == 1 and len(schema.labels) <= 1 else {"r2": True}


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
    if recipe.optimizer not in optimizers:
        hint = did_you_mean(recipe.optimizer, optimizers)
        raise UsageError(f"--set optimizer={recipe.optimizer}: {hint}choose from {', '.join(optimizers)}")
    _check_loss(recipe, task)
    if recipe.momentum and "momentum" not in inspect.signature(getattr(torch.optim, recipe.optimizer)).parameters:
        raise UsageError(f"--set momentum={recipe.momentum}: {recipe.optimizer} has no momentum; use SGD or RMSprop")


def rows_are_weighted(config: TrainConfig, schema: Schema) -> bool:
    """Whether a row's loss counts by its weight. Rows that are drawn by their weights come so often instead."""
    return schema.weights is not None and config.samples != ("weight",)


def plan_sampling(schema: Schema, options: Sequence[str]) -> Sampling | None:
    """What the options of `--sample` mean; None without any. Raises UsageError for what the data does not have."""
    if not options:
        return None
    parsed = [parse_sample(text) for text in options]
    names = [name for name, _ in parsed]
    if names == ["weight"]:
        if schema.weights is None:
            raise UsageError("--sample weight: the data has no column of weights; convert it with --weight COLUMN")
        return Sampling(schema.weights, factors=(1.0,))
    if not schema.classes:
        raise UsageError(f"--sample {options[0]}: the data has no classes; use weight, or remove it")
    if names == ["balanced"]:
        return Sampling("y", len(schema.classes))
    factors = dict.fromkeys(schema.classes, 1.0)
    for text, (name, factor) in zip(options, parsed, strict=True):
        if name not in factors:
            raise UsageError(
                f"--sample {text}: there is no class '{name}'{suggest(name, schema.classes)}; balanced and weight "
                "cannot be combined with others"
            )
        factors[name] = factor
    return Sampling("y", len(factors), tuple(factors.values()))


def _check_loss(recipe: Recipe, task: str) -> None:
    own, focal = ":" in recipe.loss, recipe.loss == "focal"
    if not own and recipe.loss not in ("auto", *LOSSES[task]):
        every = sorted({name for names in LOSSES.values() for name in names})
        hint = did_you_mean(recipe.loss, every) if recipe.loss not in every else ""
        raise UsageError(
            f"--set loss={recipe.loss} does not fit a {task}: {hint}use {', '.join(LOSSES[task])}, or your own as "
            "path/to/file.py:function"
        )
    if recipe.label_smoothing and (own or focal or task not in ("classification", "segmentation")):
        raise UsageError(f"--set label_smoothing={recipe.label_smoothing:g} is for cross_entropy; remove it")
    if own and recipe.pos_weight:
        raise UsageError("--set pos_weight: your own loss weighs the ones itself; remove it")


SCALED = ("auto", "mse_loss", "l1_loss", "quantile")
"""Losses of a regression that have the units of the target if they are multiplied by its spread or the square of it."""


def trained_loss(config: TrainConfig, schema: Schema) -> str:
    """The name of what a training minimizes: `loss` if that is what held-out rows are scored by too."""
    recipe = config.recipe
    words = [recipe.loss.rpartition("/")[2]] if ":" in recipe.loss or recipe.loss == "focal" else []
    if schema.task == "regression" and not words and (schema.outputs > 1 or recipe.loss not in SCALED):
        words = ["standardized", recipe.loss if recipe.loss != "auto" else LOSSES["regression"][0]]
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


def describe_batches(config: TrainConfig, rows: Sequence[int]) -> str:
    """The batches of an epoch, in a line, for folds with so many training rows: their size, and what is left out."""
    size, most = config.batch_size, max(rows)
    words = f"batches of {size}" if most >= size else f"batches of {most} rather than {size}: there are no more rows"
    used = [used_batches(count, size, config.least_rows) for count in rows]
    if not (dropped := max(count - batches.rows for count, batches in zip(rows, used, strict=True))):
        return words
    reason = f"a last batch needs two for each of its {config.shares} shares"
    if config.drop_last or config.recipe.stack:
        reason = "--drop-last" if config.drop_last else "models that are stacked need full batches"
    return f"{words}, without the last {dropped} of each epoch's rows or fewer: {reason}"


def resolve_settings(model: str, settings: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Sort `--set` values into the recipe and the model's own settings.

    The recipe's names come first; the rest must be parameters of the model's factory, which is loaded only if its
    source does not tell them. Raises UsageError with the nearest name for one that is neither, and for a value of the
    wrong type.
    """
    signature = signature_of(model)
    own, given = settings_in(signature), match_parameters(signature)
    recipe: dict[str, Any] = dict(DEFAULTS.get(model, {}))
    rest: dict[str, Any] = {}
    groups: dict[str, dict[str, float]] = {}
    for name, value in settings.items():
        setting, _, pattern = name.partition(".")
        if setting in BY_PATTERN and pattern:
            groups.setdefault(pattern, {})[setting] = _typed(name, value, float)
        elif name in Recipe.settings():
            recipe[name] = _typed(name, value, type(Recipe.model_fields[name].default))
        elif name in given:
            raise UsageError(f"--set {name}: the model gets this from the data; remove the setting")
        elif name in own or ANY in own:
            default = own.get(name)
            rest[name] = _typed(name, value, type(default)) if isinstance(default, bool | int | float | str) else value
        else:
            raise _not_a_setting(name, [*Recipe.settings(), *own])
    return Recipe.parse({**recipe, "groups": groups}, name=lambda field: f"--set {field}="), rest


def _not_a_setting(name: str, names: Sequence[str]) -> UsageError:
    """The error for a name that is neither of the recipe nor of the model."""
    option = name.replace("-", "_")
    if option in TrainingOptions.model_fields:
        return UsageError(f"--set {name}: this is an option, not a setting; use {flag_of(TrainingOptions, option)}")
    return UsageError(f"--set {name}: this is not a setting; {did_you_mean(name, names)}choose from {', '.join(names)}")


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
