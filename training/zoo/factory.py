"""Models: the built-in ones, and any of the user's, made by a factory `(sample_shape, outputs, **settings) -> Module`.

A model gives logits, (rows, outputs); softmax belongs to the loss and to prediction.
"""

import importlib
import inspect
import linecache
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ...storage.errors import UsageError, did_you_mean
from ...storage.places.json_files import content_hash
from ...storage.places.locate import locate
from .networks import ArticleCNN, digits_cnn, mlp
from .user_code import in_words

Factory = Callable[..., nn.Module]


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
