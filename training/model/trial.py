"""The trial of a model before anything starts: on rows of the data, in evaluation and in training."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...storage.blocks.reader import cached_reader
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.format.arrays import TABLE
from ...storage.programs.user_code import describe_error
from ..config import Recipe
from ..fitted.inputs import Inputs
from ..stream.batch import Batch, column_specs, make_batch
from .objective import Normalizer

ROWS = 2
SHOWN = 5


def stored_rows(dataset: Dataset) -> Batch:
    """The first two rows of a dataset, as stored."""
    stored = cached_reader(dataset, [spec.name for spec in column_specs(dataset, weighted=False)]).read([0])
    first = {name: np.take(values, range(ROWS), axis=0, mode="wrap") for name, values in stored.items()}
    return make_batch({name: torch.from_numpy(values) for name, values in first.items()})


def model_rows(x: Any, inputs: Inputs) -> Tensor | dict[str, Tensor]:
    """The `x` of two rows as a model gets it. The second one has the last code of each category, or the largest token
    id: an embedding that is too small for it fails."""
    codes = [(place, column.values - 1) for place, column in enumerate(inputs.schema.columns) if column.values]
    if codes:
        table = (x[TABLE] if inputs.table else x).double()
        for place, last in codes:
            table[1, (inputs.table or inputs).kept[place]] = last
        x = {**x, TABLE: table} if inputs.table else table
    rows: Tensor | dict[str, Tensor] = Normalizer(inputs)(x)
    if inputs.schema.vocabulary:
        assert isinstance(rows, Tensor)
        rows[1, 0] = inputs.schema.vocabulary - 1
    return rows


def check_gradients(name: str, model: nn.Module, rows: Tensor | dict[str, Tensor], recipe: Recipe) -> None:
    """Raise UsageError, with their names, if parameters get no gradient from a batch of these rows, unless the recipe
    allows that: several workers would wait for their gradients. Also if the training pass fails."""
    try:
        outputs = model.train()(rows)
        if outputs.requires_grad:
            outputs.float().sum().backward()
    except Exception as error:  # user code may raise anything
        raise UsageError(
            f"--model {name}: a training pass failed for two rows of the data: {describe_error(error)}; fix the model"
        ) from error
    unused = [own for own, one in model.named_parameters() if one.requires_grad and one.grad is None]
    if unused and not recipe.find_unused_parameters:
        names = ", ".join(unused[:SHOWN]) + (f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else "")
        raise UsageError(
            f"--model {name}: these parameters have no part in the output, so they get no gradient: {names}; remove "
            "them from the model, freeze them with --set frozen=NAME, or allow them with --set "
            "find_unused_parameters=true"
        )
