"""Count, mean, variance and range of columns or channels, for one shard and for all of them.

They are merged pairwise in the order of the shards (Chan, Golub and LeVeque, 1983), so that the result does not depend
on which worker wrote which shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from .moment_kernels import center_columns, find_extremes, sum_columns, sum_groups

SMALL_INTEGERS = ("uint8", "int8", "uint16", "int16")


@dataclass(frozen=True)
class Moments:
    """The number of values per group, and each group's mean, sum of squared deviations, minimum and maximum.

    Arrays are (groups,) float64.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Compute the moments of each group of `values`, (rows, groups, columns of a group)."""
        rows, groups, columns = values.shape
        if values.dtype.name in SMALL_INTEGERS:
            return cls._of_integers(values)
        flat = values.reshape(rows, -1)
        mean, around = np.zeros(groups * columns), np.zeros(groups * columns)
        center_columns(flat, mean, around)
        low, high = flat[0].copy(), flat[0].copy()
        find_extremes(flat, low, high)
        return cls(rows, mean, around, low.astype(np.float64), high.astype(np.float64))._pooled(groups)

    @classmethod
    def _of_integers(cls, values: np.ndarray) -> "Moments":
        rows, groups, columns = values.shape
        total, squares = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
        low, high = values[0, :, 0].copy(), values[0, :, 0].copy()
        if columns == 1:
            sum_columns(values[..., 0], total, squares)
            find_extremes(values[..., 0], low, high)
        else:
            sum_groups(values, total, squares, low, high)
        count = rows * columns
        sums = zip(total.tolist(), squares.tolist(), strict=True)
        around = np.array([(count * q - t * t) / count for t, q in sums])  # exact until the division
        return cls(count, total / count, around, low.astype(np.float64), high.astype(np.float64))

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows combined."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.squares + other.squares + delta**2 * (self.count * other.count / count),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    def _pooled(self, groups: int) -> "Moments":
        """The moments of each group of adjacent columns, pooled."""
        mean = self.mean.reshape(groups, -1)
        pooled = mean.mean(axis=1)
        between = self.count * np.square(mean - pooled[:, None]).sum(axis=1)
        return Moments(
            self.count * mean.shape[1],
            pooled,
            self.squares.reshape(groups, -1).sum(axis=1) + between,
            self.minimum.reshape(groups, -1).min(axis=1),
            self.maximum.reshape(groups, -1).max(axis=1),
        )

    def std(self) -> list[float]:
        """The standard deviation of each group."""
        deviations: list[float] = np.sqrt(self.squares / self.count).tolist()
        return deviations

    def to_json(self) -> list[object]:
        return [self.count, *(a.tolist() for a in (self.mean, self.squares, self.minimum, self.maximum))]

    @classmethod
    def from_json(cls, value: Sequence[object]) -> "Moments":
        count, *arrays = value
        assert isinstance(count, int)
        return cls(count, *(np.array(a, np.float64) for a in arrays))


def merge_moments(moments: Sequence[Moments]) -> Moments:
    """Merge moments in their order."""
    return reduce(Moments.merged, moments)
