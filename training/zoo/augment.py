"""What `--augment` names: a built-in augmentation, one of torchvision, or the user's function.

A function `(x, y, generator) -> (x, y)` gets a batch of rows as they are stored, on the device that trains, and draws
its random numbers from the generator. What only names augmentations does not load torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...storage.errors import did_you_mean

if TYPE_CHECKING:
    import torch

Augment = Callable[["torch.Tensor", "torch.Tensor", "torch.Generator"], "tuple[torch.Tensor, torch.Tensor]"]

BUILT_IN = {"horizontal-flip": 0.5, "vertical-flip": 0.5, "crop": 4, "mixup": 0.2, "cutmix": 1.0}
"""The built-in augmentations with their numbers: the probability of a flip, the pixels around a crop, and the parameter
of the beta distribution from which the share of the one image is drawn."""

MIXES = "mixup", "cutmix"
"""Those that mix rows, and with them their labels."""


def is_code(text: str) -> bool:
    """Whether it is `path/to/file.py:function` or `package.module:function`, not a name with numbers."""
    return ".py:" in text or (":" in text and "=" not in text)


def parse_augment(text: str) -> tuple[str, tuple[Any, ...]]:
    """`crop=4` or `ColorJitter=0.2:0.1` as the name and its numbers, without which a built-in one has its usual number.

    Raises ValueError.
    """
    if is_code(text):
        return text, ()
    name, equals, numbers = text.partition("=")
    try:
        values = tuple(json.loads(part) for part in numbers.split(":")) if equals else ()
    except ValueError:
        values = ("",)
    if not name or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"must be one of {', '.join(BUILT_IN)}, a name of torchvision, or path/to/file.py:function")
    if name not in BUILT_IN:
        if not name[0].isupper():  # torchvision's are classes
            raise ValueError(
                f"there is no such augmentation; {did_you_mean(name, BUILT_IN)}choose from {', '.join(BUILT_IN)}"
            )
        return name, values
    value = values[0] if len(values) == 1 else BUILT_IN[name]
    fits = 0 < value < math.inf and (value <= 1 if name.endswith("flip") else type(value) is int or name != "crop")
    if len(values) > 1 or not fits:
        of_name = "a probability" if name.endswith("flip") else "pixels" if name == "crop" else "a number above 0"
        raise ValueError(f"takes {of_name}, e.g. {name}={BUILT_IN[name]}")
    return name, (value,)
