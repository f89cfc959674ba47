"""Metrics of the user's: functions of all rows at once, or of a uniform sample if there are more than fit."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .sample import RowSample

MOST_RESAMPLED, REPLICATES = 5000, 100  # rows and replicates of an interval: how long a function takes is not known


@dataclass(frozen=True)
class OwnMetric:
    """A function `(y, prediction) -> number` by its name: of class codes (rows,) and probabilities (rows, classes); or
    of labels or targets, (rows,) or (rows, labels), and probabilities or values, (rows, labels). One with a parameter
    `sample_weight` gets the weights of the rows too, (rows,)."""

    name: str
    function: Callable[..., Any]

    @property
    def higher_is_better(self) -> bool:
        """Whether higher values are better: yes, unless the function has `greater_is_better = False`."""
        return bool(getattr(self.function, "greater_is_better", True))

    def __call__(self, sample: RowSample) -> float:
        weighted = "sample_weight" in inspect.signature(self.function).parameters
        given = {"sample_weight": sample.weight} if weighted else {}
        return float(self.function(sample.y, sample.prediction, **given))

    def resampled(self, sample: RowSample, draws: np.ndarray) -> tuple[np.ndarray, float, int]:
        """The metric of replicates of up to 5,000 rows, each as often as it is drawn, `draws` (replicates, rows); that
        of these rows once; and their number."""
        rows = sample.chosen(MOST_RESAMPLED)
        chosen = (np.repeat(rows, drawn[rows]) for drawn in draws[:REPLICATES])
        return np.array([self(sample.take(at)) for at in chosen]), self(sample.take(rows)), len(rows)
