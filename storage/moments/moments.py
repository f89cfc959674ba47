"""Count, mean, variance and range of columns or channels.

Moments are merged pairwise (Chan, Golub and LeVeque, 1983), always in the same order, so that the result does not
depend on which worker computed which part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from .kernels import sum_distances, sum_integers, sum_numbers

SMALL_INTEGERS = ("uint8", "int8", "uint16", "int16")


@dataclass(frozen=True)
class Moments:
    """For each group: the number of non-missing values, their mean, the sum of squared deviations from the mean, the
    minimum and maximum, and the number of missing values. With weights, the first three are weighted.

    Arrays are (groups,) float64, or (parts, groups) for several parts of the rows. The exact mean is `mean` + `rest`:
    far from zero, `mean` alone would be too imprecise for the difference of two means. A group without values has
    mean 0, minimum inf and maximum -inf.
    """

    count: np.ndarray
    mean: np.ndarray
    rest: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    missing: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Compute the moments of each group of `values`, (rows, groups, columns of a group). NaN is a missing value."""
        return cls.of_parts(values, np.zeros(len(values), np.uint8), 1)[0]

    @classmethod
    def of_parts(cls, values: np.ndarray, codes: np.ndarray, parts: int) -> "Moments":
        """Compute the moments of each of `parts` parts of the rows; `codes` (rows,) gives the part of each row."""
        if values.dtype.name in SMALL_INTEGERS:
            return cls._of_integers(values, codes, parts)
        return cls.of_numbers(values, codes, parts)

    @classmethod
    def of_numbers(
        cls, values: np.ndarray, codes: np.ndarray, parts: int, weights: np.ndarray | None = None
    ) -> "Moments":
        """The same in float64, bit-identical for every dtype that can store the values. `weights` are the sample
        weights, (rows,), if any."""
        given = np.ones(len(values)) if weights is None else weights.astype(np.float64)
        nothing = np.zeros((parts, values.shape[1]))
        count, total, missing, distances, squares = (nothing.copy() for _ in range(5))
        low, high = nothing + np.inf, nothing - np.inf
        sum_numbers(values, codes, given, count, total, low, high, missing)
        rows = np.where(count > 0, count, 1)
        mean = total / rows
        sum_distances(values, codes, given, mean, distances, squares)
        # The distances from the exact mean sum to zero; what they sum to is the rounding of the mean.
        return cls(count, *add_exactly(mean, distances / rows), squares - distances**2 / rows, low, high, missing)

    @classmethod
    def _of_integers(cls, values: np.ndarray, codes: np.ndarray, parts: int) -> "Moments":
        """Compute moments of integers, exactly up to the last division."""
        _, groups, columns = values.shape
        limits, shape = np.iinfo(values.dtype), (parts, groups)
        total, squares = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        low, high = np.full(shape, limits.max, values.dtype), np.full(shape, limits.min, values.dtype)
        sum_integers(values, codes, total, squares, low, high)
        rows = np.bincount(codes, minlength=parts) * columns
        sums = zip(np.repeat(rows, groups).tolist(), total.ravel().tolist(), squares.ravel().tolist(), strict=True)
        around = np.array([(n * q - t * t) / n if n else 0.0 for n, t, q in sums]).reshape(shape)
        count = np.broadcast_to(rows[:, None], shape).astype(np.float64)
        some = count > 0
        extremes = np.where(some, low, np.inf), np.where(some, high, -np.inf)
        nothing = np.zeros(shape)
        return cls(count, total / np.maximum(count, 1), nothing, around, *extremes, nothing)

    def __getitem__(self, part: int) -> "Moments":
        """The moments of one part."""
        return Moments(*(array[part] for array in self.arrays))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.count, self.mean, self.rest, self.squares, self.minimum, self.maximum, self.missing

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of values combined."""
        count = self.count + other.count
        share = other.count / np.where(count > 0, count, 1)
        delta = (other.mean - self.mean) + (other.rest - self.rest)
        mean, rest = add_exactly(self.mean, self.rest + delta * share)
        first = self.count == 0
        return Moments(
            count,
            np.where(first, other.mean, mean),
            np.where(first, other.rest, rest),
            self.squares + other.squares + delta**2 * (self.count * share),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.missing + other.missing,
        )

    def std(self) -> np.ndarray:
        """The standard deviation of each group; 0 for one without values."""
        deviations: np.ndarray = np.sqrt(self.squares / np.where(self.count > 0, self.count, 1))
        return deviations

    def table(self) -> np.ndarray:
        """All arrays stacked as (…, groups, 7) float64. Zeros replace the infinite range of a group without values."""
        table = np.stack(self.arrays, axis=-1)
        return np.where(np.isfinite(table), table, 0.0)

    @classmethod
    def from_table(cls, table: np.ndarray) -> "Moments":
        """The inverse of `table`."""
        count, mean, rest, squares, low, high, missing = np.moveaxis(np.asarray(table, np.float64), -1, 0)
        some = count > 0
        return cls(count, mean, rest, squares, np.where(some, low, np.inf), np.where(some, high, -np.inf), missing)


def add_exactly(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded sum and its rounding error (Knuth's two-sum)."""
    total = one + other
    second = total - one
    return total, (one - (total - second)) + (other - second)


def merge_moments(moments: Iterable[Moments]) -> Moments:
    """Merge moments in the given order."""
    return reduce(Moments.merged, moments)


def parts_merged(moments: Moments, parts: Sequence[int]) -> Moments:
    """The moments of some parts of the rows, merged in the order of their codes."""
    return merge_moments(moments[part] for part in sorted(parts))
