"""What a run trains and how it is carried out, as frozen options that are checked before any worker starts.

`TrainConfig` decides the result: equal configurations on equal data give equal weights. `Execution` decides how that
result is reached, and changes nothing in it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field

from ..storage.machine import parse_bytes
from ..storage.options import Cli, Files, Location, Options, Texts, as_texts
from .fitted.strategies import (
    is_image_alone,
    parse_class_weight,
    parse_fill,
    parse_input,
    parse_pos_weight,
    parse_sample,
    parse_scaling,
)
from .splits.split import Split
from .zoo.augment import parse_augment
from .zoo.auto import AUTO, USUAL_LENGTH

Scheduler = Literal["OneCycleLR", "CosineAnnealingLR", "StepLR", "ExponentialLR", "ConstantLR", "ReduceLROnPlateau"]
Ensemble = Literal["mean", "vote", "median", "weighted", "refit"]
SHORTEST_HANG = 5.0  # seconds: below, a worker that is only slow would count as hung


def _check_pos_weight(text: str) -> str:
    if text:
        parse_pos_weight(text)
    return text


class Recipe(Options):
    """How the weights are found. The names are torch's; each can be given by `--set NAME=VALUE`."""

    optimizer: str = Field(default="AdamW", description="Any class of torch.optim that fits the model.")
    lr: float = Field(
        default=0.003,
        gt=0,
        description="Learning rate; the maximum of OneCycleLR. lr.PATTERN is that of some parameters, by name.",
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        description="Weight decay of weights; biases and norms have none. weight_decay.PATTERN is for some parameters.",
    )
    momentum: float = Field(default=0.0, ge=0, description="For optimizers that have it.")
    nesterov: bool = Field(default=False, description="Nesterov's momentum, for optimizers that have it.")
    betas: str = Field(default="", description="For Adam and its kin, as 0.9:0.95; by default torch's.")
    eps: float = Field(default=0.0, ge=0, description="For Adam and its kin; 0: torch's default.")
    frozen: str = Field(
        default="",
        description="Parameters that are not trained: names or patterns with colons between, as backbone:embed*.",
    )
    scheduler: Scheduler = Field(
        default="OneCycleLR",
        description="OneCycleLR and CosineAnnealingLR run over all epochs; StepLR; ExponentialLR per step; ConstantLR; "
        "ReduceLROnPlateau by the monitored metric.",
    )
    warmup: float = Field(
        default=0.0,
        ge=0,
        description="Optimizer steps over which the learning rate rises at first, or below 1 their fraction of all. "
        "OneCycleLR rises by itself; ReduceLROnPlateau does not take it.",
    )
    cycle_momentum: bool = Field(
        default=False, description="Have OneCycleLR change momentum, or Adam's first beta, between 0.85 and 0.95 too."
    )
    step_size: int = Field(default=100, ge=1, description="Optimizer steps between StepLR's decays.")
    plateau: int = Field(
        default=3, ge=0, description="Epochs without a better monitored metric before ReduceLROnPlateau decays."
    )
    gamma: float = Field(default=0.1, ge=0, description="Decay factor of StepLR, ExponentialLR or ReduceLROnPlateau.")
    loss: str = Field(
        default="auto",
        description="cross_entropy or focal for classes; binary_cross_entropy_with_logits or focal for labels that are "
        "0 or 1; mse_loss, l1_loss, smooth_l1_loss, huber_loss or quantile for regression; auto: the first; or your "
        "own: path/to/file.py:function or package.module:function.",
    )
    quantile: float = Field(
        default=0.5, gt=0, lt=1, description="Quantile that loss=quantile predicts, e.g. 0.9; 0.5 is the median."
    )
    focal_gamma: float = Field(default=2.0, ge=0, description="Gamma of the focal loss.")
    pos_weight: Annotated[str, AfterValidator(_check_pos_weight)] = Field(
        default="",
        description="Weight of the ones in the loss, for labels that are 0 or 1 or for two classes: a number, or "
        "balanced, zeros / ones of the fold's training rows.",
    )
    label_smoothing: float = Field(default=0.0, ge=0, le=1, description="Label smoothing of cross_entropy.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="bfloat16 or float16: autocast, with gradient scaling for float16."
    )
    clip_grad_norm: float = Field(default=0.0, ge=0, description="Maximum gradient norm; 0: no clipping.")
    accumulate: int = Field(default=1, ge=1, description="Batches whose gradients are summed for one optimizer step.")
    compile: bool = Field(
        default=False, description="Run training steps through torch.compile, which needs a C++ compiler."
    )
    stack: bool = Field(
        default=False,
        description="Compute the models of all folds as one by torch.func.vmap, in one process: faster for small "
        "models on a GPU. Random numbers such as dropout's differ from those of a fold alone.",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="How workers share a fold: ddp, each has the whole model; fsdp, each has a part of it.",
    )
    sync_batchnorm: bool = Field(
        default=False, description="Compute batch norm over the whole batch of all workers, on GPUs only."
    )
    find_unused_parameters: bool = Field(
        default=False,
        description="Allow parameters that get no gradient in some batches or in all; they are left as they are.",
    )
    deterministic: bool = Field(
        default=False, description="Use deterministic algorithms only on the GPU; on the CPU they always are."
    )
    patience: int = Field(
        default=0, ge=0, description="Early stopping: epochs without a better monitored metric; 0: never stop early."
    )
    groups: dict[str, dict[str, float]] = Field(default={})
    """What is set for some parameters, by their pattern: `{"backbone": {"lr": 0.0001}}` for `lr.backbone=0.0001`."""

    @property
    def spans_all_epochs(self) -> bool:
        """Whether the schedule depends on the number of updates in all."""
        return self.scheduler in ("OneCycleLR", "CosineAnnealingLR") or 0 < self.warmup < 1

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """The names that `--set` takes."""
        return tuple(name for name in cls.model_fields if name != "groups")


def _check_missing(text: str) -> str:
    if text != "auto":
        parse_fill(text)
    return text


def _each(parse: Callable[[str], object]) -> AfterValidator:
    """A check that each text can be parsed."""

    def check(texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            parse(text)
        return texts

    return AfterValidator(check)


def _check_inputs(texts: tuple[str, ...]) -> tuple[str, ...]:
    if is_image_alone(texts):
        return texts
    names = [parse_input(text)[0] for text in texts]
    if len({*names}) < len(names):
        raise ValueError("must have a name of its own for each input")
    return texts


Functions = Annotated[
    str | Callable[..., Any] | Sequence[str | Callable[..., Any]] | None,
    BeforeValidator(as_texts),
    Cli(repeatable=True),
]
"""Names of functions, or in Python functions themselves, also one alone; checked values are a tuple of text."""
SEVERAL_FUNCTIONS = "augment", "metric"
"""The options of that type."""


class TrainingOptions(Options):
    """What decides the result of a training, as a user gives it; the split stands apart."""

    panel: ClassVar[str] = "Training"

    model: str | Callable[..., Any] = Field(
        default=AUTO,
        description="Model: wide-deep, mlp, digits-cnn, resnet, article-cnn, deep-averaging, nlinear, unet, "
        "path/to/file.py:factory or package.module:factory; auto: wide-deep for columns, digits-cnn for small images, "
        "resnet for others, unet for masks or images as targets, deep-averaging for sequences of tokens, nlinear for "
        "windows over time series.",
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Number of passes over each fold's training rows; by default 10, or for wide-deep, resnet, nlinear "
        "and unet a number that depends on the number of rows.",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows per global batch, over all workers; by default 128, or for wide-deep, resnet, nlinear and "
        "unet a number that depends on the number of rows.",
    )
    drop_last: bool = Field(default=False, description="Drop the last batch of an epoch if it is not full.")
    asset: Files = Field(
        default=(),
        description="File or folder beside your code that it reads, repeatable: the run keeps a copy.",
    )
    seed: int = Field(default=0, description="Seed of the folds, the order of samples, the weights and dropout.")
    missing: Annotated[str, AfterValidator(_check_missing)] = Field(
        default="auto",
        description="Fill value for missing numbers: mean or median of the fold's training rows, or constant=NUMBER; "
        "the prefix indicator+ adds an input that marks them; auto: indicator+mean.",
    )
    normalize: Annotated[Texts, _each(parse_scaling)] = Field(
        default=(),
        description="Scaling, repeatable, for all columns or as COLUMN=SCALING for one: standard, minmax, none, "
        "imagenet or MEAN:SCALE; by default standard for numbers.",
    )
    input: Annotated[Texts, AfterValidator(_check_inputs), Cli(metavar="NAME=COLUMNS", repeatable=True)] = Field(
        default=(),
        description="One of several inputs of the model, repeatable, by the names of its columns or patterns with "
        "commas between, e.g. codes=city,job* and numbers=*: the model gets a dict of tensors. Of images with columns "
        "beside them, the image is another input; image alone leaves out the columns.",
    )
    class_weight: Annotated[Texts, _each(parse_class_weight)] = Field(
        default=(),
        description="Weight of classes in the loss, repeatable: balanced, by the rows of each in the fold's training "
        "rows, or NAME=WEIGHT.",
    )
    sample: Annotated[Texts, _each(parse_sample)] = Field(
        default=(),
        description="Draw the rows of each epoch with replacement: balanced, each class equally often; weight, by the "
        "column of weights; or NAME=FACTOR, repeatable, a class FACTOR times as often.",
    )
    init: Annotated[Location | None, Cli(metavar="FILE|RUN")] = Field(
        default=None,
        description="Weights to start from, as far as they fit: a file of safetensors or a state dict, or a complete "
        "run.",
    )
    augment: Annotated[Functions, _each(parse_augment)] = Field(
        default=(),
        description="Random change of training batches, repeatable: horizontal-flip, vertical-flip, crop=PIXELS, "
        "mixup=ALPHA, cutmix=ALPHA, a name of torchvision.transforms.v2, or path/to/file.py:function.",
    )
    metric: Functions = Field(
        default=(),
        description="Metric of your own beside the usual ones, repeatable: path/to/file.py:function or "
        "package.module:function, of (y, prediction).",
    )
    monitor: str = Field(
        default="auto",
        description="Metric for early stopping, ReduceLROnPlateau, weighted ensembles and the ranking of candidates; "
        "auto: the held-out loss, but accuracy to rank candidates for classes or labels, and mean_iou for masks.",
    )
    window: int = Field(default=8, ge=1, description="Blocks of each lane that are shuffled together.")
    refit: bool = Field(default=False, description="Train one more model on all rows except the holdout.")

    @property
    def assets(self) -> tuple[str, ...]:
        """The files and folders of `asset`."""
        return cast(tuple[str, ...], self.asset)

    @property
    def scalings(self) -> tuple[str, ...]:
        """The scalings of `normalize`."""
        return cast(tuple[str, ...], self.normalize)

    @property
    def samples(self) -> tuple[str, ...]:
        """The options of `sample`."""
        return cast(tuple[str, ...], self.sample)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of `input`."""
        return cast(tuple[str, ...], self.input)

    @property
    def class_weights(self) -> tuple[str, ...]:
        """The weights of `class_weight`."""
        return cast(tuple[str, ...], self.class_weight)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The user's metrics of `metric`."""
        return cast(tuple[str, ...], self.metric)

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The augmentations of `augment`, in order."""
        return cast(tuple[str, ...], self.augment)


def renamed_functions(options: TrainingOptions, names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The options that name several functions, with other names, by those that they replace."""
    every: dict[str, tuple[str, ...]] = {option: getattr(options, option) for option in SEVERAL_FUNCTIONS}
    return {option: tuple(names.get(name, name) for name in given) for option, given in every.items()}


class TrainConfig(TrainingOptions):
    """A run's configuration, settled: nothing in it depends on the machine or on other data any more."""

    model: str = Field(default="digits-cnn")
    epochs: int = Field(default=USUAL_LENGTH.epochs)
    batch_size: int = Field(default=USUAL_LENGTH.batch_size)
    missing: str = Field(default="mean")
    split: Split = Field(default=Split())
    lanes: int = Field(default=8)
    """A multiple of `LANE_STEP` (stream/order.py), which the number of workers divides."""
    shares: int = Field(default=1)
    """Parts of a batch that are computed by themselves: the number of workers with which the run began."""
    restarts: tuple[int, ...] = Field(default=())
    """The epochs after which the schedule started again, because `epochs` was raised then."""
    recipe: Recipe = Field(default=Recipe())
    model_settings: dict[str, Any] = Field(default={})

    @property
    def monitored(self) -> str:
        """The metric by which a fold's epochs are compared."""
        return "loss" if self.monitor == "auto" else self.monitor

    @property
    def least_rows(self) -> int:
        """Rows of the smallest last batch that is trained on: two for each share, which batch norm needs. Models that
        are stacked need batches of equal size."""
        return self.batch_size if self.drop_last or self.recipe.stack else min(self.batch_size, 2 * self.shares)

    @property
    def code(self) -> tuple[str, ...]:
        """The names of what may be the user's code: the model, the loss, augmentations, metrics."""
        return (self.model, self.recipe.loss, *self.augmentations, *self.metrics)

    def with_code(self, names: Mapping[str, str], assets: Sequence[str]) -> "TrainConfig":
        """This configuration with other names of the user's code, by those that they replace, and other assets."""
        recipe = self.recipe.model_copy(update={"loss": names.get(self.recipe.loss, self.recipe.loss)})
        update = renamed_functions(self, names)
        model = names.get(self.model, self.model)
        return self.model_copy(update={"model": model, "recipe": recipe, "asset": tuple(assets), **update})


@dataclass(frozen=True)
class CheckpointPolicy:
    """A checkpoint after every `every` epochs, steps or minutes; the last `keep` of a fold stay."""

    every: float = 1
    unit: str = "epoch"
    keep: int = 1


def parse_interval(text: str) -> tuple[float, str]:
    """`1 epoch`, `500 steps` or `10 minutes` as a number and its unit. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(epoch|step|minute)s?", text.strip())
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if number <= 0 or (unit != "minute" and number % 1):
        raise ValueError(
            "must be a whole number of epochs or steps, or a number of minutes, e.g. '1 epoch', '500 steps' or "
            "'10 minutes'"
        )
    return number, unit


def _check_interval(text: str) -> str:
    parse_interval(text)
    return text


Bytes = Annotated[int | str | None, BeforeValidator(parse_bytes), Cli(metavar="SIZE")]
"""A number of bytes, also as text such as "2GB"; checked values are int or None."""


class Execution(Options):
    """How a run is carried out, which does not change its result."""

    panel: ClassVar[str] = "Execution"

    workers: int | None = Field(
        default=None,
        ge=0,
        description="Data-parallel workers, or 0 to train in this process; by default 0 as long as that is enough, "
        "else 2.",
    )
    memory: Bytes = Field(
        default=None,
        description="Memory limit of each worker's stream, e.g. 2GB; by default an eighth of the machine's, shared by "
        "its workers of all runs.",
    )
    cache: Bytes = Field(
        default=None,
        description="Local disk of each machine for blocks of datasets in object stores, e.g. 50GB, shared by all its "
        "workers of all runs; by default a tenth of the free space.",
    )
    fold_mode: Literal["auto", "fused", "runs"] = Field(
        default="auto",
        description="fused: train all folds in one pass over the data; runs: train each fold separately; auto chooses.",
    )
    max_retries: int = Field(
        default=2, ge=0, description="Retries of a fold that fails, before the other folds continue without it."
    )
    hang_timeout: float = Field(
        default=30.0, ge=SHORTEST_HANG, description="Seconds of silence after which a worker counts as failed."
    )
    checkpoint_every: Annotated[str, AfterValidator(_check_interval), Cli(metavar="INTERVAL")] = Field(
        default="1 epoch", description="Checkpoint interval: '1 epoch', '500 steps' or '10 minutes'."
    )
    keep: int = Field(default=1, ge=1, description="Number of most recent checkpoints to keep for each fold.")

    @property
    def world_size(self) -> int:
        """Workers of each run, once their number is settled."""
        return self.workers or 1

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit of each worker's stream."""
        return parse_bytes(self.memory)

    @property
    def cache_bytes(self) -> int | None:
        """The local disk for blocks, shared by all workers of a machine."""
        return parse_bytes(self.cache)

    @property
    def checkpoints(self) -> CheckpointPolicy:
        """When checkpoints are written, and how many stay."""
        return CheckpointPolicy(*parse_interval(self.checkpoint_every), self.keep)
