"""Find the parameters of a model that would get no gradient in training."""

import torch
from torch import nn

from ...storage.errors import UsageError
from ..config import Recipe
from ..fitted.inputs import Inputs
from ..zoo.user_code import describe_error

SHOWN = 5


def check_gradients(name: str, model: nn.Module, inputs: Inputs, recipe: Recipe) -> None:
    """Raise UsageError, naming the parameters, if some get no gradient from a batch of two rows of zeros, unless the
    recipe allows this: with several workers, training would wait for their gradients. Also raised if the pass fails."""
    try:
        outputs = model.train()(torch.zeros(2, *inputs.shape))
        if outputs.requires_grad:
            outputs.float().sum().backward()
    except Exception as error:  # user code may raise anything
        raise UsageError(
            f"--model {name}: a training pass failed for two rows of shape {inputs.shape}: {describe_error(error)}; "
            "fix the model"
        ) from error
    unused = [own for own, one in model.named_parameters() if one.requires_grad and one.grad is None]
    if unused and not recipe.find_unused_parameters:
        names = ", ".join(unused[:SHOWN]) + (f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else "")
        raise UsageError(
            f"--model {name}: these parameters are not used in the output, so they get no gradient: {names}; remove "
            "them from the model, freeze them with --set frozen=NAME, or allow them with --set "
            "find_unused_parameters=true"
        )
