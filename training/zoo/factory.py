"""Models, built-in or the user's own. A factory `(sample_shape, outputs, **settings) -> Module` creates each; its
parameters may have other names that tell what they want (`arguments.py`).

A model returns logits, (rows, outputs), or for masks (rows, classes, height, width); the softmax is part of the loss
and of prediction. What only names models does not load torch, which takes a second.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...storage.errors import UsageError, did_you_mean
from ...storage.machine import size_text, this_machine
from ...storage.places.locate import locate
from ...storage.programs.loading import load_entry, remedy_for
from ...storage.programs.own_code import find_entry
from ...storage.programs.user_code import describe_error
from ..fitted.inputs import Inputs
from .arguments import SCHEMA, call_factory, match_parameters, signature_in_source

if TYPE_CHECKING:
    import torch
    from torch import nn

Factory = Callable[..., "nn.Module"]

BUILT_IN = {
    "wide-deep": "WideDeep",
    "mlp": "mlp",
    "digits-cnn": "digits_cnn",
    "resnet": "ResNet",
    "nlinear": "NLinear",
    "article-cnn": "ArticleCNN",
    "deep-averaging": "DeepAveraging",
    "unet": "UNet",
}
"""The built-in models by their names, with those of their factories in `networks.py`."""
TAKES_TOKENS = "deep-averaging"
"""The built-in model for sequences of token ids."""
TRAINED_BYTES = 16
"""Of a weight in training: its value, its gradient, and two of AdamW's means."""
TAKES_COLUMNS = "resnet"
"""The built-in model that takes columns beside images."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "article-cnn": {
        "optimizer": "SGD",
        "lr": 0.1,
        "weight_decay": 0.001,
        "scheduler": "StepLR",
        "step_size": 100,
        "gamma": 0.096,
    },
    "wide-deep": {"lr": 0.005},
    "nlinear": {"lr": 0.005},
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
    return load_entry("--model", name)


def signature_of(name: str) -> Signature:
    """The signature of the factory that `--model` names, from its source where that tells it: then no torch is loaded.

    Raises UsageError for an unknown name.
    """
    if name in BUILT_IN:
        place, attribute = locate(Path(__file__).with_name("networks.py")), BUILT_IN[name]
    elif entry := find_entry(name):
        place, attribute = entry.place, entry.attribute
    else:
        return inspect.signature(load_factory(name))
    source = place.read_bytes() if place.is_file() else b""
    return signature_in_source(source, attribute) or inspect.signature(load_factory(name))


def takes_schema(name: str) -> bool:
    """Whether the factory that `--model` names wants to know the meaning of the columns."""
    return SCHEMA in match_parameters(signature_of(name))


def _check_vocabulary(ids: int, settings: dict[str, Any]) -> None:
    """Raise UsageError for token ids whose embeddings do not fit into the memory."""
    width = int(settings.get("width", signature_of(TAKES_TOKENS).parameters["width"].default))
    size = ids * width * TRAINED_BYTES
    if size > this_machine().memory:
        raise UsageError(
            f"--model {TAKES_TOKENS}: the token ids go up to {ids - 1:,}, so that training their embeddings takes "
            f"{size_text(size)} of memory, more than there is; if the ids are hashes, take them modulo e.g. 100,000, "
            "otherwise number them from 1, and convert again"
        )


def build_model(name: str, inputs: Inputs, outputs: int, settings: dict[str, Any]) -> nn.Module:
    """Create the model. Raises UsageError if its factory fails or returns anything but a torch.nn.Module."""
    from torch import nn

    factory = load_factory(name)
    if name in BUILT_IN and (name == TAKES_TOKENS) != bool(inputs.schema.vocabulary):
        what = "sequences of token ids only; convert with --tokens, or use another model"
        if inputs.schema.vocabulary:
            what = f"no sequences of token ids; use {TAKES_TOKENS} or a model of your own"
        raise UsageError(f"--model {name} takes {what}")
    if name == TAKES_TOKENS:
        _check_vocabulary(inputs.schema.vocabulary, settings)
    if inputs.table and name in BUILT_IN and name != TAKES_COLUMNS:
        raise UsageError(
            f"--model {name} takes no columns beside images; use {TAKES_COLUMNS} or a model of your own, or leave them "
            "out with --input image"
        )
    if name in BUILT_IN and (inputs.groups or (inputs.table and inputs.table.groups)):
        raise UsageError(
            f"--input: {name} takes all columns as one tensor; use a model of your own, or remove the option"
        )
    try:
        model = call_factory(factory, inputs, outputs, settings)
    except UsageError:
        raise
    except Exception as error:  # user code may raise anything
        remedy = remedy_for(error) or "fix the factory, or its settings (--set)"
        raise UsageError(
            f"--model {name}: the factory failed for samples of shape {inputs.shapes} and {outputs} outputs: "
            f"{describe_error(error)}; {remedy}"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {name}: the factory returned {type(model).__name__}, not a torch.nn.Module; return the model"
        )
    return model


def check_model(
    name: str,
    inputs: Inputs,
    outputs: tuple[int, ...],
    settings: dict[str, Any],
    rows: torch.Tensor | dict[str, torch.Tensor] | None = None,
) -> nn.Module:
    """Run a model on two rows before any worker starts, by default of zeros, and return it.

    Raises UsageError if the forward pass fails, if the output is not of shape (rows, *outputs), or if it is not finite.
    """
    import torch

    model = build_model(name, inputs, outputs[0], settings).eval()
    try:
        with torch.inference_mode():
            out = model(torch.zeros(2, *inputs.shape) if rows is None else rows)
    except Exception as error:  # user code may raise anything
        remedy = "fix the model, or convert to samples of another shape"
        if isinstance(error, IndexError) and inputs.schema.vocabulary:
            remedy = f"give the embedding schema.vocabulary rows, which are {inputs.schema.vocabulary:,}"
        elif isinstance(error, IndexError) and any(column.values for column in inputs.schema.columns):
            remedy = "give the embedding of a category as many rows as its column.values in the schema"
        raise UsageError(
            f"--model {name}: the forward pass failed for samples of shape {inputs.shapes}: {describe_error(error)}; "
            f"{remedy}"
        ) from error
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != (2, *outputs):
        returned = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        remedy = f"the last layer must have {outputs[0]} outputs"
        if len(outputs) > 1:
            remedy = f"return {outputs[0]} numbers for each pixel of the target, as 'unet' does"
        raise UsageError(
            f"--model {name} returns {returned} for 2 rows, but the data requires {(2, *outputs)}; {remedy}"
        )
    if not out.isfinite().all():
        raise UsageError(
            f"--model {name} returns numbers that are not finite for the first rows of the data; fix the model, or "
            "scale the data differently (--normalize)"
        )
    return model
