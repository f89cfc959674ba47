"""The weights of classes and of ones in the loss, by the training rows of a model."""

from collections.abc import Sequence

import numpy as np

from ...storage.errors import UsageError, suggest
from ...storage.format import Schema, Statistics
from .strategies import parse_class_weight, parse_pos_weight


def class_weights(schema: Schema, statistics: Statistics, options: Sequence[str]) -> np.ndarray | None:
    """The weight of each class, (classes,) float64; None if all weigh the same.

    "balanced" gives each class the same total weight, and a row a mean weight of 1: rows / (classes · rows of the
    class), as in scikit-learn. A class without training rows weighs nothing. Weights by name multiply that.

    Raises UsageError for a class that does not exist, and for data without classes.
    """
    if not options:
        return None
    if not schema.classes:
        raise UsageError(f"--class-weight {options[0]}: the data has no classes; remove it")
    weights = np.ones(len(schema.classes))
    for name, weight in map(parse_class_weight, options):
        if name is None:
            rows = np.array(statistics.class_rows, np.float64)
            there = rows > 0
            weights *= np.where(there, rows.sum() / (there.sum() * np.where(there, rows, 1)), 0.0)
        elif name in schema.classes:
            weights[schema.classes.index(name)] *= weight
        else:
            raise UsageError(f"--class-weight {name}=…: there is no such class{suggest(name, schema.classes)}")
    return weights


def pos_weights(schema: Schema, statistics: Statistics, option: str) -> np.ndarray | None:
    """The weights of the ones: of each label that is 0 or 1, (labels,), or of two classes, (1, weight), float64; None
    if nothing is asked for.

    "balanced" is the number of zeros divided by that of ones, and 1 where one of them is missing.
    """
    if not option:
        return None
    weight = parse_pos_weight(option)
    if schema.task == "multilabel":
        share = np.array(statistics.y_mean, np.float64)
    elif len(schema.classes) == 2:
        share = np.array(statistics.class_rows[1:], np.float64) / max(1, sum(statistics.class_rows))
    else:
        raise UsageError(
            f"--set pos_weight={option} is for labels that are 0 or 1, or two classes; for others use --class-weight"
        )
    if weight is None:
        both = (share > 0) & (share < 1)
        weights = np.where(both, (1 - share) / np.where(both, share, 1), 1.0)
    else:
        weights = np.full(len(share), weight)
    return weights if schema.task == "multilabel" else np.array([1.0, *weights])
