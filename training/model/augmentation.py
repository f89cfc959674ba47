"""Augmentation: random changes to the stored rows of a training step, before normalization."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...storage.errors import UsageError
from ...storage.format.arrays import IMAGE
from ...storage.format.schema import Schema
from ...storage.programs.loading import load_entry
from ...storage.programs.user_code import describe_error
from ..zoo.augment import MIXES, Augment, is_code, parse_augment

Rows = tuple[Tensor, Tensor]
"""x (rows, *sample_shape), of images with columns beside them the images alone, and the labels: y (rows,), (rows,
labels) or (rows, height, width) as stored or, after `mixup` and `cutmix`, class probabilities (rows, classes)."""


class Augmentation:
    """Applies functions to batches, each to the result of the previous one. The seed of a batch determines its random
    numbers."""

    def __init__(self, functions: Sequence[Augment]) -> None:
        self.functions = functions

    def __call__(self, x: Any, y: Tensor, seed: int) -> tuple[Any, Tensor]:
        if not self.functions:
            return x, y
        if isinstance(x, dict):
            image, y = self(x[IMAGE], y, seed)
            return {**x, IMAGE: image}, y
        generator = torch.Generator(x.device).manual_seed(seed)
        for function in self.functions:
            x, y = function(x, y, generator)
        return x, y


def make_augmentation(texts: Sequence[str], schema: Schema) -> Augmentation:
    """Create the augmentation for `--augment`. Raises UsageError if it does not match the data."""
    return Augmentation([_make(text, schema) for text in texts])


def check_augmentation(texts: Sequence[str], schema: Schema, x: Any, y: Tensor) -> None:
    """Raise UsageError unless the augmentations can be applied, one after the other, to these rows as stored."""
    x = x[IMAGE] if schema.table else x
    rows, shape = len(x), tuple(x.shape)
    targets = {tuple(y.shape), (rows, schema.outputs)} if schema.classes else {tuple(y.shape)}
    for text in texts:
        given = make_augmentation((text,), schema)
        try:
            x, y = given(x, y, 0)
            shapes = tuple(x.shape), tuple(y.shape)
        except Exception as error:  # user code may raise anything
            raise UsageError(
                f"--augment {text}: it failed for {rows} rows of shape {schema.sample_shape}: {describe_error(error)}; "
                "fix the function"
            ) from error
        if shapes[0] != shape or shapes[1] not in targets:
            raise UsageError(
                f"--augment {text} returns x of shape {shapes[0]} and y of shape {shapes[1]} for x of shape {shape} "
                f"and y of shape {sorted(targets)[0]}; return the same shapes"
            )


def _make(text: str, schema: Schema) -> Augment:
    if is_code(text):
        return load_entry("--augment", text)
    name, numbers = parse_augment(text)
    if name != "mixup" and len(schema.sample_shape) != 3:
        raise UsageError(
            f"--augment {text} requires images, but samples of this dataset have shape {schema.sample_shape}; remove it"
        )
    if name == "mixup" and schema.tokens:
        raise UsageError(f"--augment {text}: samples are sequences of token ids, which have no mean; remove it")
    if name == "mixup" and schema.categories:
        raise UsageError(
            f"--augment {text}: '{next(iter(schema.categories))}' is a category, and codes have no mean; remove it"
        )
    if name in MIXES and schema.task == "segmentation":
        raise UsageError(f"--augment {text} mixes rows, but masks cannot be mixed; remove it")
    if name == "cutmix" and not schema.classes:
        raise UsageError(f"--augment {text} mixes classes, but the dataset has none; use mixup")
    if name in MIXES and (weight := schema.role("weight")):
        raise UsageError(f"--augment {text} mixes rows, but the rows have sample weights ('{weight}'); remove it")
    if name in MIXES and schema.table:
        raise UsageError(f"--augment {text} mixes rows, but the images have columns beside them; remove it")
    if name in MIXES:
        return partial(_FUNCTIONS[name], alpha=numbers[0], classes=len(schema.classes))
    if name in _FUNCTIONS:
        function = partial(_FUNCTIONS[name], *numbers)
        return partial(_with_targets, function, schema.target_name) if schema.target_name else function
    return _of_torchvision(text, name, numbers, schema.target_name)


def _with_targets(function: Augment, kind: str, x: Tensor, y: Tensor, generator: torch.Generator) -> Rows:
    """Apply a function of images to targets of a kind, masks or images, too, with the same random numbers. What it pads
    in masks counts for nothing."""
    state = generator.get_state()
    images, _ = function(x, y, generator)
    generator.set_state(state)
    if kind == "images":
        return images, function(y, y, generator)[0]
    counting, _ = function(y[:, None] + 1, y, generator)  # IGNORED is 0, as the padding of `crop` is
    return images, counting[:, 0] - 1


def _of_torchvision(text: str, name: str, numbers: Sequence[Any], targets: str | None) -> Augment:
    """A torchvision transform, applied row by row, because on a batch it would treat all rows in the same way. If the
    `targets` are masks or images, each is transformed with its image."""
    try:
        v2 = import_module("torchvision.transforms.v2")
    except ImportError:
        raise UsageError(
            f"--augment {text}: torchvision is not installed; install it, or use another augmentation"
        ) from None
    try:
        transform = getattr(v2, name)(*numbers)
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"--augment {text}: torchvision.transforms.v2 rejects this: {error}; fix it") from error
    if targets:
        kind, more = ("Mask", 1) if targets == "masks" else ("Image", 0)  # what is padded with 0 does not count
        tensors = import_module("torchvision.tv_tensors")

        def both(x: Tensor, y: Tensor, generator: torch.Generator) -> Rows:
            pairs = zip(x, y + more, strict=True)
            rows = [transform(tensors.Image(image), getattr(tensors, kind)(target)) for image, target in pairs]
            images, changed = zip(*rows, strict=True)
            return torch.stack(images).as_subclass(Tensor), torch.stack(changed).as_subclass(Tensor) - more

        return both
    return lambda x, y, generator: (torch.stack([transform(row) for row in x]), y)


def _flip(axis: int, probability: float, x: Tensor, y: Tensor, generator: torch.Generator) -> Rows:
    flipped = torch.rand(len(x), generator=generator, device=x.device) < probability
    backwards = torch.arange(x.shape[axis] - 1, -1, -1, device=x.device)  # `flip` knows no uint16
    mirrored = x[..., backwards] if axis == -1 else x[..., backwards, :]
    return torch.where(flipped[:, None, None, None], mirrored, x), y


def _crop(padding: int, x: Tensor, y: Tensor, generator: torch.Generator) -> Rows:
    """Pad images with `padding` zeros on each side, and crop each to its original size at a random position."""
    count, channels, height, width = x.shape
    tops, lefts = torch.randint(2 * padding + 1, (2, count, 1, 1, 1), generator=generator, device=x.device)
    numbers = partial(torch.arange, device=x.device)
    rows, columns = tops + numbers(height)[:, None], lefts + numbers(width)
    padded = functional.pad(x, [padding] * 4)
    return padded[numbers(count)[:, None, None, None], numbers(channels)[:, None, None], rows, columns], y


def _mixup(x: Tensor, y: Tensor, generator: torch.Generator, alpha: float, classes: int) -> Rows:
    """Replace each row by the weighted mean of itself and another row, and likewise its targets (Zhang et al. 2018)."""
    share, other = _draw(x, generator, alpha)
    numbers = x if x.is_floating_point() else x.to(torch.float32 if x.element_size() <= 2 else torch.float64)
    return _mean(numbers, numbers[other], share), _mean(*_targets(y, other, classes), share)


def _cutmix(x: Tensor, y: Tensor, generator: torch.Generator, alpha: float, classes: int) -> Rows:
    """Replace a rectangle of each image by that of another one, and mix the targets by its area (Yun et al. 2019)."""
    share, other = _draw(x, generator, alpha)
    at = torch.rand(2, generator=generator, device=x.device)
    inside = []
    for size, place in zip(x.shape[-2:], at, strict=True):
        middle, half = (place * size).floor(), ((1 - share).sqrt() * size / 2).floor()
        pixels = torch.arange(size, device=x.device)
        inside.append((pixels >= middle - half) & (pixels < middle + half))
    box = inside[0][:, None] & inside[1]
    return torch.where(box, x[other], x), _mean(*_targets(y, other, classes), 1 - box.float().mean())


def _draw(x: Tensor, generator: torch.Generator, alpha: float) -> Rows:
    """The mixing weight of a batch from Beta(alpha, alpha), and for each row the number of the other row."""
    # What torch.distributions.Beta draws by, which takes no generator.
    share = torch._sample_dirichlet(torch.full((2,), alpha, device=x.device), generator=generator)[0]
    return share, torch.randperm(len(x), generator=generator, device=x.device)


def _targets(y: Tensor, other: Tensor, classes: int) -> Rows:
    """The targets of the rows and of the other rows: class probabilities, or numbers."""
    if not classes:
        return y.double(), y.double()[other]
    targets = y if y.ndim == 2 else functional.one_hot(y.long(), classes).float()
    return targets, targets[other]


def _mean(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return share * one + (1 - share) * other


_FUNCTIONS: dict[str, Any] = {
    "horizontal-flip": partial(_flip, -1),
    "vertical-flip": partial(_flip, -2),
    "crop": _crop,
    "mixup": _mixup,
    "cutmix": _cutmix,
}
