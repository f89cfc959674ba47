"""Models, built-in or the user's own. A factory `(sample_shape, outputs, **settings) -> Module` creates each; one with
a parameter `schema` also gets an `InputSchema`.

A model returns logits, (rows, outputs); the softmax is part of the loss and of prediction. What only names models does
not load torch, which takes a second.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import linecache
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...storage.errors import UsageError, did_you_mean
from ...storage.places.json_files import content_hash
from ...storage.places.locate import locate
from ..fitted.inputs import Inputs
from .user_code import describe_error

if TYPE_CHECKING:
    from torch import nn

Factory = Callable[..., "nn.Module"]

BUILT_IN = {"digits-cnn": "digits_cnn", "mlp": "mlp", "article-cnn": "ArticleCNN"}
"""The built-in models by their names, with those of their factories in `networks.py`."""

SCHEMA = "schema"  # the parameter of a factory that gets the meaning of the columns

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
"""Recipe settings with which a built-in model trains well, where they differ from the recipe's defaults."""


def load_factory(name: str) -> Factory:
    """Return the factory that `--model` names: a built-in model, `path/to/file.py:factory` or
    `package.module:factory`.

    Raises UsageError if it cannot be found or imported.
    """
    if name in BUILT_IN:
        from . import networks

        built_in: Factory = getattr(networks, BUILT_IN[name])
        return built_in
    if ":" not in name:
        raise UsageError(
            f"--model: unknown model '{name}'. {did_you_mean(name, BUILT_IN)}Use a built-in model "
            f"({', '.join(BUILT_IN)}), path/to/file.py:factory or package.module:factory"
        )
    return load_code("--model", name)


def load_code(option: str, name: str) -> Callable[..., Any]:
    """The function or class that `path/to/file.py:name` or `package.module:name`, the value of an option, names.

    Raises UsageError if it cannot be found or imported.
    """
    module, _, attribute = name.rpartition(":")
    found = getattr(import_module(module, option, name), attribute, None)
    if not callable(found):
        raise UsageError(
            f"{option} {name}: {module} does not define a function '{attribute}'; define it, or fix the name"
        )
    return found  # type: ignore[no-any-return]


def import_module(module: str, option: str, name: str) -> Any:
    """Import a module by its name, or a file ending in `.py` by its path.

    `option` and `name` are the command-line option and its value, for the message of the UsageError that is raised
    if the import fails.
    """
    try:
        if not module.endswith(".py"):
            return importlib.import_module(module)
        return _run_file(module, option)
    except UsageError:
        raise
    except Exception as error:  # user code may raise anything
        raise UsageError(f"{option} {name} cannot be imported: {describe_error(error)}; fix the error there") from error


def _run_file(path: str, option: str) -> ModuleType:
    """Run a Python file, which may be an object in a store, as a module. Raises UsageError if it does not exist."""
    try:
        source = locate(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{option} {path}: the file does not exist; check the path") from None
    module = ModuleType(f"foldstream_model_{Path(path).stem}")
    module.__file__ = path
    exec(compile(source, path, "exec"), module.__dict__)
    # Tracebacks show source lines from this cache, and TorchScript reads a model's source from it.
    linecache.cache[path] = (len(source), None, source.decode().splitlines(keepends=True), path)
    return module


def code_file(name: str) -> tuple[Path, str] | None:
    """Split `path/to/file.py:function` into the file and the function's name. None for other names."""
    path, _, attribute = name.rpartition(":")
    return (Path(path), attribute) if path.endswith(".py") else None


def code_hash(name: str) -> str | None:
    """SHA-256 of the file of a user's model or loss, which may be an object in a store. None for other names."""
    path = name.rpartition(":")[0]
    return content_hash(locate(path).read_bytes()) if path.endswith(".py") else None


def copy_name(name: str) -> str:
    """The name of the user's code by the copy of its file in a run's folder; other names as they are."""
    file = code_file(name)
    return f"{file[0].name}:{file[1]}" if file else name


def code_files(names: Iterable[str]) -> dict[str, bytes]:
    """The files of the user's code among some names, by the names of their copies in a run's folder.

    Raises UsageError for a file that does not exist, and for different files of the same name.
    """
    files: dict[str, bytes] = {}
    for name in names:
        if file := code_file(name):
            place = locate(str(file[0]))
            try:
                content = place.read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                raise UsageError(f"{place} does not exist; check the path") from None
            if files.setdefault(place.name, content) != content:
                raise UsageError(f"{place}: the run has another file named {place.name}; rename one of them")
    return files


def settings_of(factory: Factory) -> dict[str, Any]:
    """The names of a factory's settings with their defaults. The name `**` means that any name is accepted."""
    settings: dict[str, Any] = {}
    for position, parameter in enumerate(inspect.signature(factory).parameters.values()):
        if parameter.kind is parameter.VAR_KEYWORD:
            settings["**"] = None
        elif position >= 2 and parameter.name != SCHEMA:
            settings[parameter.name] = parameter.default
    return settings


@cache
def takes_schema(name: str) -> bool:
    """Whether the factory that `--model` names wants to know the meaning of the columns."""
    return SCHEMA in inspect.signature(load_factory(name)).parameters


def settings_in_source(name: str) -> dict[str, Any] | None:
    """`settings_of` the factory that `--model` names, from the source of its function or class: no torch is loaded for
    that. None where that does not tell, as for a model of a package.

    Raises UsageError for an unknown name.
    """
    if file := code_file(name):
        place, attribute = locate(str(file[0])), file[1]
    elif name in BUILT_IN:
        place, attribute = locate(Path(__file__).with_name("networks.py")), BUILT_IN[name]
    else:
        if ":" not in name:
            load_factory(name)
        return None
    try:
        parsed = ast.parse(place.read_bytes())
    except (OSError, SyntaxError):  # who loads it tells what is wrong
        return None
    found = [node for node in parsed.body if getattr(node, "name", None) == attribute]
    if found and isinstance(found[-1], ast.ClassDef):
        found = [node for node in found[-1].body if getattr(node, "name", None) == "__init__"]
    if not found or not isinstance(found[-1], ast.FunctionDef) or found[-1].decorator_list:
        return None
    try:
        return _settings_in(found[-1].args, first=2 + (found[-1].name == "__init__"))
    except ValueError:  # a default that is computed
        return None


def _settings_in(arguments: ast.arguments, first: int) -> dict[str, Any]:
    """The names and defaults of parameters from the one at position `first` on. Raises ValueError."""
    named = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(named) - len(arguments.defaults)) + [*arguments.defaults]
    pairs = [*zip(named, defaults, strict=True)][first:]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    settings = {one.arg: None if default is None else ast.literal_eval(default) for one, default in pairs}
    settings.pop(SCHEMA, None)
    return {**settings, "**": None} if arguments.kwarg else settings


def build_model(name: str, inputs: Inputs, outputs: int, settings: dict[str, Any]) -> nn.Module:
    """Create the model. Raises UsageError if its factory fails or returns anything but a torch.nn.Module."""
    from torch import nn

    factory = load_factory(name)
    columns = {SCHEMA: inputs.schema} if takes_schema(name) else {}
    try:
        model = factory(inputs.shape, outputs, **columns, **settings)
    except UsageError:
        raise
    except Exception as error:  # user code may raise anything
        raise UsageError(
            f"--model {name}: the factory failed for samples of shape {inputs.shape} and {outputs} outputs: "
            f"{describe_error(error)}; fix the factory, or its settings (--set)"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {name}: the factory returned {type(model).__name__}, not a torch.nn.Module; return the model"
        )
    return model


def check_model(name: str, inputs: Inputs, outputs: int, settings: dict[str, Any]) -> nn.Module:
    """Run a model on two rows of zeros before any worker starts, and return it.

    Raises UsageError if the forward pass fails, or if the output is not of shape (rows, outputs).
    """
    import torch

    model = build_model(name, inputs, outputs, settings).eval()
    try:
        with torch.inference_mode():
            out = model(torch.zeros(2, *inputs.shape))
    except Exception as error:  # user code may raise anything
        raise UsageError(
            f"--model {name}: the forward pass failed for samples of shape {inputs.shape}: {describe_error(error)}; "
            "fix the model, or convert to samples of another shape"
        ) from error
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != (2, outputs):
        returned = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise UsageError(
            f"--model {name} returns {returned} for 2 rows, but the data requires (2, {outputs}); the last layer must "
            f"have {outputs} outputs"
        )
    return model
