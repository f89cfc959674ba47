"""Compiled sums, minima and maxima, from which moments are computed."""

import numpy as np

from ...storage.compiled import compiled


@compiled
def sum_groups(x: np.ndarray, total: np.ndarray, squares: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Add the rows of `x` (rows, groups, columns), integers of up to 16 bits, and their squares to each group's int64
    sums, and update its minimum and maximum."""
    for row in range(len(x)):
        for group in range(x.shape[1]):
            values = x[row, group]
            one, two, least, most = np.int64(0), np.int64(0), low[group], high[group]
            for value in values:
                one += np.int64(value)
                two += np.int64(value) * np.int64(value)
                least = min(least, value)
                most = max(most, value)
            total[group] += one
            squares[group] += two
            low[group], high[group] = least, most


@compiled
def sum_columns(x: np.ndarray, total: np.ndarray, squares: np.ndarray) -> None:
    """`sum_groups` for groups of one column, (rows, columns), without minimum and maximum."""
    for row in range(len(x)):
        for c in range(x.shape[1]):
            value = np.int64(x[row, c])
            total[c] += value
            squares[c] += value * value


@compiled
def center_columns(x: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> None:
    """Compute the mean of each column of `x` (rows, columns), and the sum of squared deviations from it."""
    for row in range(len(x)):
        for c in range(x.shape[1]):
            mean[c] += np.float64(x[row, c])
    for c in range(x.shape[1]):
        mean[c] /= len(x)
    for row in range(len(x)):
        for c in range(x.shape[1]):
            distance = np.float64(x[row, c]) - mean[c]
            squares[c] += distance * distance


@compiled
def find_extremes(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Update the minimum and maximum of each column with the rows of `x` (rows, columns)."""
    for row in range(len(x)):
        for c in range(x.shape[1]):
            value = x[row, c]
            low[c] = value if value < low[c] else low[c]
            high[c] = value if value > high[c] else high[c]
