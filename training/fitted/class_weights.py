"""Class weights and positive weights in the loss, computed from the training rows of a model."""

from collections.abc import Sequence

import numpy as np

from ...storage.errors import UsageError, suggest
from ...storage.format.schema import Schema
from ...storage.format.statistics import Statistics
from .strategies import parse_class_weight, parse_pos_weight


def class_weights(schema: Schema, statistics: Statistics, options: Sequence[str]) -> np.ndarray | None:
    """The weight of each class, (classes,) float64; None if all weights are equal.

    "balanced" gives each class the same total weight, with a mean weight of 1 per row: rows / (classes · rows of the
    class), as in scikit-learn. A class without training rows has weight 0. Weights by name multiply these weights.

    Raises UsageError for a class that does not exist, and for a dataset without classes.
    """
    if not options:
        return None
    if not schema.classes:
        raise UsageError(f"--class-weight {options[0]}: the dataset has no classes; remove the option")
    weights = np.ones(len(schema.classes))
    for name, weight in map(parse_class_weight, options):
        if name is None:
            rows = np.array(statistics.class_rows, np.float64)
            there = rows > 0
            weights *= np.where(there, rows.sum() / (there.sum() * np.where(there, rows, 1)), 0.0)
        elif name in schema.classes:
            weights[schema.classes.index(name)] *= weight
        else:
            raise UsageError(f"--class-weight {name}=…: the class does not exist{suggest(name, schema.classes)}")
    return weights


def pos_weights(schema: Schema, statistics: Statistics, option: str) -> np.ndarray | None:
    """The weights of positive rows, float64: (labels,) for 0/1 labels, or (1, weight) for two classes; None if not
    requested.

    "balanced" is the number of zeros divided by the number of ones, and 1 if either does not occur.
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
            f"--set pos_weight={option} requires 0/1 labels or two classes; use --class-weight for other tasks"
        )
    if weight is None:
        both = (share > 0) & (share < 1)
        weights = np.where(both, (1 - share) / np.where(both, share, 1), 1.0)
    else:
        weights = np.full(len(share), weight)
    return weights if schema.task == "multilabel" else np.array([1.0, *weights])
