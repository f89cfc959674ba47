"""Models: the built-in ones, and any of the user's, made by a factory `(sample_shape, outputs, **settings) -> Module`.

A model gives logits, (rows, outputs); softmax belongs to the loss and to prediction.
"""

import importlib
import inspect
import linecache
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..storage.errors import UsageError, did_you_mean
from ..storage.files import content_hash
from ..storage.object_path import locate
from .user_code import in_words

Factory = Callable[..., nn.Module]


class SamePad(nn.Module):
    """Zeros around a picture so that a convolution gives ceil(size / stride), the odd one right and below."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size in (x.shape[-1], x.shape[-2]):
            total = max(0, (math.ceil(size / self.stride) - 1) * self.stride + self.kernel - size)
            pads += [total // 2, total - total // 2]
        return nn.functional.pad(x, pads)


def need_picture(sample_shape: tuple[int, ...], name: str) -> None:
    """Raise UsageError unless a sample is (channels, height, width)."""
    if len(sample_shape) != 3:
        raise UsageError(
            f"--model {name} needs pictures of shape channels,height,width, but a sample is {sample_shape}; "
            "convert with --shape (as in --shape 1,28,28), or use --model mlp"
        )


class RandomShift(nn.Module):
    """While training, move pictures by up to `pixels` in each direction; the border is repeated.

    The rows of a batch are moved in `groups` groups, each as one: as good as one by one, and it costs nothing.
    """

    def __init__(self, pixels: int, groups: int = 4) -> None:
        super().__init__()
        self.pixels, self.groups = pixels, groups

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.pixels:
            return x
        height, width = x.shape[-2:]
        padded = nn.functional.pad(x, [self.pixels] * 4, mode="replicate")
        parts = torch.chunk(padded, self.groups)
        offsets = torch.randint(0, 2 * self.pixels + 1, (len(parts), 2)).tolist()
        moved = (
            part[:, :, top : top + height, left : left + width]
            for part, (top, left) in zip(parts, offsets, strict=True)
        )
        return torch.cat(list(moved))


def digits_cnn(
    sample_shape: tuple[int, ...], outputs: int, dropout: float = 0.25, shift: int = 1, hidden: int = 128
) -> nn.Module:
    """Two 5×5 convolutions, 16 and 32 wide, each with pooling and batch norm, then two linear layers.

    `shift` moves the training pictures by up to as many pixels. Pictures are at least 16×16.
    """
    need_picture(sample_shape, "digits-cnn")
    channels, height, width = sample_shape
    after = [((size - 4) // 2 - 4) // 2 for size in (height, width)]
    if min(after) < 1:
        raise UsageError(f"--model digits-cnn needs pictures of at least 16×16, not {height}×{width}; use --model mlp")
    model = nn.Sequential(
        RandomShift(shift),
        nn.Conv2d(channels, 16, 5, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32 * math.prod(after), hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, outputs),
    )
    # Channels last in memory: on the CPU the whole step takes two thirds of the time.
    return model.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def mlp(
    sample_shape: tuple[int, ...], outputs: int, hidden: int = 256, layers: int = 2, dropout: float = 0.1
) -> nn.Module:
    """A multilayer perceptron over the flattened sample."""
    widths = [math.prod(sample_shape), *[hidden] * layers]
    parts: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*parts, nn.Linear(widths[-1], outputs))


class ArticleCNN(nn.Sequential):
    """The network of the tutorial that Foldstream comes from.

    Convolutions 6@6×6, 12@5×5 and 24@4×4 (strides 1, 2, 2, "same" padding), each with ReLU, L2 and local response
    normalisation; 128 tanh, 256 tanh, each with dropout that keeps 0.8; then the classes.
    """

    def __init__(self, sample_shape: tuple[int, ...], outputs: int, keep: float = 0.8) -> None:
        need_picture(sample_shape, "article-cnn")
        channels, height, width = sample_shape
        parts: list[nn.Module] = []
        for kernel, wide, stride in ((6, 6, 1), (5, 12, 2), (4, 24, 2)):
            # TFLearn's alpha 0.0001 stands for each of the 11 neighbours; torch divides its alpha by their number.
            norm = nn.LocalResponseNorm(size=11, alpha=0.0001 * 11, beta=0.75, k=1.0)
            parts += [SamePad(kernel, stride), nn.Conv2d(channels, wide, kernel, stride), nn.ReLU(), norm]
            channels, height, width = wide, math.ceil(height / stride), math.ceil(width / stride)
        parts += [nn.Flatten(), nn.Linear(channels * height * width, 128), nn.Tanh(), nn.Dropout(1 - keep)]
        parts += [nn.Linear(128, 256), nn.Tanh(), nn.Dropout(1 - keep), nn.Linear(256, outputs)]
        super().__init__(*parts)

    def decayed_parameters(self) -> Iterator[Tensor]:
        """L2 falls on the convolutions alone."""
        return (layer.weight for layer in self if isinstance(layer, nn.Conv2d))


BUILT_IN: dict[str, Factory] = {"digits-cnn": digits_cnn, "mlp": mlp, "article-cnn": ArticleCNN}

DEFAULTS: dict[str, dict[str, Any]] = {
    "article-cnn": {
        "optimizer": "SGD",
        "lr": 0.1,
        "weight_decay": 0.001,
        "scheduler": "StepLR",
        "step_size": 100,
        "gamma": 0.096,
    },
    "digits-cnn": {"lr": 0.006, "weight_decay": 0.02},
}
"""Recipe settings with which a built-in model trains well, where they differ from the recipe's own."""


def load_factory(name: str) -> Factory:
    """The factory behind `--model`: a built-in name, `path/to/file.py:factory` or `package.module:factory`.

    Raises UsageError if it cannot be found or imported.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    place, separator, attribute = name.rpartition(":")
    if not separator:
        raise UsageError(
            f"--model «{name}» is not known: {did_you_mean(name, BUILT_IN)}give one of {', '.join(BUILT_IN)}, "
            "path/to/file.py:factory, or package.module:factory"
        )
    factory = getattr(import_module(place, "--model", name), attribute, None)
    if not callable(factory):
        raise UsageError(f"--model {name}: there is no function «{attribute}» in {place}")
    return factory  # type: ignore[no-any-return]


def import_module(place: str, option: str, name: str) -> Any:
    """Import a module by name, or a file by its path, as an option with that name asks. Raises UsageError with the
    reason."""
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        return _run_file(place, option)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{option} {name} does not import: {in_words(error)}; mend it there") from error


def _run_file(place: str, option: str) -> ModuleType:
    """The module that a file or an object gives. Raises UsageError if there is none."""
    try:
        source = locate(place).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{option} {place}: there is no such file") from None
    module = ModuleType(f"foldstream_model_{Path(place).stem}")
    module.__file__ = place
    exec(compile(source, place, "exec"), module.__dict__)
    # Errors show their lines by this, and TorchScript reads a model's.
    linecache.cache[place] = (len(source), None, source.decode().splitlines(keepends=True), place)
    return module


def model_file(name: str) -> tuple[Path, str] | None:
    """The file and the factory of `path/to/file.py:factory`, None for other models."""
    place, _, attribute = name.rpartition(":")
    return (Path(place), attribute) if place.endswith(".py") else None


def model_hash(name: str) -> str | None:
    """SHA-256 of a user's model file, which may be an object, None for other models."""
    place = name.rpartition(":")[0]
    return content_hash(locate(place).read_bytes()) if place.endswith(".py") else None


def settings_of(factory: Factory) -> dict[str, Any]:
    """The names of a factory's settings with their defaults; a name «**» stands for "any"."""
    settings: dict[str, Any] = {}
    for position, parameter in enumerate(inspect.signature(factory).parameters.values()):
        if parameter.kind is parameter.VAR_KEYWORD:
            settings["**"] = None
        elif position >= 2:
            settings[parameter.name] = parameter.default
    return settings


def build_model(name: str, sample_shape: tuple[int, ...], outputs: int, settings: dict[str, Any]) -> nn.Module:
    """Make the model. Raises UsageError if its factory fails or gives something else."""
    factory = load_factory(name)
    try:
        model = factory(sample_shape, outputs, **settings)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"--model {name}: the factory failed for samples of shape {sample_shape} and {outputs} outputs: "
            f"{in_words(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model {name}: the factory gave {type(model).__name__}, not a torch.nn.Module")
    return model


def check_model(name: str, sample_shape: tuple[int, ...], outputs: int, settings: dict[str, Any]) -> int:
    """Try a model on two rows of zeros before any worker starts. Returns its number of parameters.

    Raises UsageError if it fails or its output is not (rows, outputs).
    """
    model = build_model(name, sample_shape, outputs, settings).eval()
    try:
        with torch.inference_mode():
            out = model(torch.zeros(2, *sample_shape))
    except Exception as error:
        raise UsageError(f"--model {name} fails on samples of shape {sample_shape}: {in_words(error)}") from error
    if not isinstance(out, Tensor) or tuple(out.shape) != (2, outputs):
        given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UsageError(
            f"--model {name} gives {given} for 2 rows, but the data needs (2, {outputs}): its last layer "
            f"must have {outputs} outputs"
        )
    return sum(p.numel() for p in model.parameters())


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
