"""What is known of the values of each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from ..moments.moments import Moments  # whose kernels load numba, which few processes that read a schema need


@dataclass(frozen=True)
class Statistics:
    """Per channel of `x` (the first axis of a sample): mean, standard deviation, minimum, maximum, number of missing
    values, and the median if it was computed.

    `y_mean` and `y_std` are the mean and standard deviation of each regression target, and `class_rows` the number of
    rows of each class, where they were counted. `weight` is the mean sample weight; with sample weights, means and
    standard deviations are weighted. `table` are the statistics of the columns beside images.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    missing: tuple[int, ...] = ()
    y_mean: tuple[float, ...] = ()
    y_std: tuple[float, ...] = ()
    median: tuple[float, ...] = ()
    class_rows: tuple[int, ...] = ()
    weight: float = 1.0
    table: Statistics | None = None

    @property
    def tabular(self) -> Statistics:
        """The statistics of the columns: those beside the images if there are any, otherwise of `x`."""
        return self.table or self

    @classmethod
    def of(
        cls,
        features: Moments,
        targets: Moments | None,
        missing: Sequence[int] | None = None,
        median: Sequence[float] = (),
        class_rows: Sequence[int] = (),
        weight: float = 1.0,
        table: Statistics | None = None,
    ) -> Self:
        """Compute statistics from the moments of the features and of the regression targets. A channel without values
        has the range 0 to 0. `missing`, if given, replaces the number of NaN values."""
        some = features.count > 0
        return cls(
            mean=tuple(features.mean.tolist()),
            std=tuple(features.std().tolist()),
            minimum=tuple(np.where(some, features.minimum, 0.0).tolist()),
            maximum=tuple(np.where(some, features.maximum, 0.0).tolist()),
            missing=tuple(features.missing.astype(int).tolist() if missing is None else missing),
            y_mean=tuple(targets.mean.tolist()) if targets else (),
            y_std=tuple(targets.std().tolist()) if targets else (),
            median=tuple(median),
            class_rows=tuple(class_rows),
            weight=weight,
            table=table,
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        lists = {name: tuple(found) for name, found in value.items() if name not in ("weight", "table")}
        table = cls.from_json(value["table"]) if value.get("table") else None
        return cls(**lists, weight=value.get("weight", 1.0), table=table)
