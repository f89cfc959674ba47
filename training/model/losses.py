"""Training losses: torch's losses by name, the focal loss, and user-defined functions."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...storage.errors import UsageError
from ...storage.format.dense import IGNORED
from ...storage.format.schema import Schema
from ...storage.programs.loading import load_entry
from ...storage.programs.user_code import describe_error
from ..config import Recipe

LossFunction = Callable[..., Tensor]
EXAMPLE_ROWS = 6  # on which a user's loss is tried
SMALLEST_MISS = 1e-7  # of the focal loss: below a probability of being wrong of so much, its slope is 0


def own_loss(name: str) -> LossFunction:
    """The user's function that a loss `path/to/file.py:function` or `package.module:function` names. Raises UsageError
    if it cannot be found or imported."""
    return load_entry("--set loss", name)


def focal_loss(each: Tensor, weighted: Tensor, gamma: float) -> Tensor:
    """The focal loss (Lin et al. 2017) from the cross-entropy of each row or label, `each`, and its weighted form: the
    weighted loss times (1 - probability of the true class) to the power of `gamma`."""
    return (-torch.expm1(-each)).clamp_min(SMALLEST_MISS) ** gamma * weighted


def class_losses(recipe: Recipe, outputs: Tensor, y: Tensor, weights: Tensor | None, reduction: str) -> Tensor:
    """The losses for class codes `y` (rows,), with class weights; `reduction` as in torch."""
    if recipe.loss == "focal":
        each = functional.cross_entropy(outputs, y, reduction="none")
        weighted = each if weights is None else functional.cross_entropy(outputs, y, weights, reduction="none")
        return reduced(focal_loss(each, weighted, recipe.focal_gamma), reduction)
    smoothing = recipe.label_smoothing
    if weights is None:
        return functional.cross_entropy(outputs, y, reduction=reduction, label_smoothing=smoothing)
    each = functional.cross_entropy(outputs, y, weights, reduction="none", label_smoothing=smoothing)
    return reduced(each, reduction)


def label_losses(recipe: Recipe, outputs: Tensor, y: Tensor, weights: Tensor | None, reduction: str) -> Tensor:
    """The losses for 0/1 labels `y` (rows, labels), with positive weights; `reduction` as in torch."""
    binary = functional.binary_cross_entropy_with_logits
    if recipe.loss == "focal":
        each = binary(outputs, y, reduction="none")
        weighted = each if weights is None else binary(outputs, y, pos_weight=weights, reduction="none")
        return reduced(focal_loss(each, weighted, recipe.focal_gamma), reduction)
    return binary(outputs, y, pos_weight=weights, reduction=reduction)


def mask_losses(recipe: Recipe, outputs: Tensor, y: Tensor, reduction: str) -> Tensor:
    """The losses for codes of classes by pixel, `y` (rows, height, width): of each row the mean over its pixels that
    count. A row without any costs nothing; so the mean over the parts of a batch equals that over the batch."""
    smoothing = 0.0 if recipe.loss == "focal" else recipe.label_smoothing
    each = functional.cross_entropy(outputs, y, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)
    if recipe.loss == "focal":
        each = focal_loss(each, each, recipe.focal_gamma)
    pixels = (y != IGNORED).flatten(1).sum(dim=1).clamp_min(1)
    return reduced(each.flatten(1).sum(dim=1) / pixels, reduction)


def quantile_loss(outputs: Tensor, targets: Tensor, quantile: float, reduction: str) -> Tensor:
    """The quantile loss (Koenker and Bassett 1978): a target above the output costs `quantile` times the distance, and
    one below it the rest to 1."""
    above = targets - outputs
    return reduced(torch.maximum(quantile * above, (quantile - 1) * above), reduction)


def reduced(each: Tensor, reduction: str) -> Tensor:
    """The unreduced losses, or their mean."""
    return each.mean() if reduction == "mean" else each


def by_row(each: Tensor) -> Tensor:
    """The loss of each row, (rows,), from losses (rows,) or (rows, outputs)."""
    return each.flatten(1).mean(dim=1) if each.ndim > 1 else each


def weighted_mean(each: Tensor, weight: Tensor) -> Tensor:
    """The mean over rows of losses (rows,) or (rows, outputs) times sample weights (rows,), whose mean over all rows is
    1, so that the mean over the parts of a batch equals the mean over the batch."""
    return (by_row(each) * weight).mean()


def mean_of_own(loss: LossFunction, outputs: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    """The mean loss of a user-defined function, which returns either the mean or the loss of each row; the latter is
    averaged with the sample weights."""
    found = loss(outputs, targets) if weight is None else loss(outputs, targets, weight=weight)
    if found.ndim == 0:
        return found
    return found.mean() if weight is None else weighted_mean(found, weight)


def check_own_loss(name: str, schema: Schema, weighted: bool = False) -> None:
    """Try a user-defined function on a few rows of typical outputs and targets; with `weighted`, also with weights.

    Raises UsageError if it fails, or does not return a finite loss with a gradient (a mean, or one value per row).
    """
    loss, generator = own_loss(name), torch.Generator().manual_seed(0)
    outputs = torch.randn(EXAMPLE_ROWS, *schema.output_shape, generator=generator).requires_grad_()
    targets = torch.randn(EXAMPLE_ROWS, *schema.output_shape, generator=generator)
    if schema.task == "multilabel":
        targets = (targets > 0).float()
    if schema.task == "classification":
        targets = torch.arange(EXAMPLE_ROWS) % schema.outputs
    if schema.task == "segmentation":
        shape = EXAMPLE_ROWS, *schema.target_shape
        targets = torch.randint(schema.outputs, shape, generator=generator)
    if weighted and "weight" not in inspect.signature(loss).parameters:
        raise UsageError(
            f"--set loss={name}: the rows have sample weights, but the function has no parameter 'weight'; add it"
        )
    given = {"weight": torch.ones(EXAMPLE_ROWS)} if weighted else {}
    try:
        found: Any = loss(outputs, targets, **given)
    except Exception as error:  # user code may raise anything
        raise UsageError(
            f"--set loss={name} failed for outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)}: {describe_error(error)}; fix the function"
        ) from error
    if problem := _problem(found, outputs):
        code = inspect.unwrap(loss).__code__ if inspect.isfunction(inspect.unwrap(loss)) else None
        line = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
        raise UsageError(f"--set loss={name}{line} {problem}")


def _problem(found: Any, outputs: Tensor) -> str:
    """The problem with the return value of a user-defined loss, and the remedy; empty if there is none."""
    remedy = "return the mean loss, or the loss of each row"
    if not isinstance(found, Tensor):
        return f"returned {type(found).__name__} instead of a tensor; {remedy}"
    if found.ndim and found.shape not in (outputs.shape, outputs.shape[:1]):
        return f"returned the shape {tuple(found.shape)} for {len(outputs)} rows; {remedy}"
    if not torch.isfinite(found).all():
        return "is not finite for outputs between -3 and 3; avoid log(0) and division by 0"
    if not found.requires_grad:
        return "has no gradient; compute it from the outputs with torch functions, without detach() or item()"
    (gradient,) = torch.autograd.grad(found.mean(), outputs, allow_unused=True)
    if gradient is None or not torch.isfinite(gradient).all():
        return "has no finite gradient; compute it from the outputs with differentiable functions"
    return ""
