"""Compiled sums, minima and maxima for each part of some rows, from which moments are computed.

`x` is (rows, groups, columns), `codes` (rows,) gives the part of each row, and the results are (parts, groups).
"""

import numpy as np

from ..compiled import compiled


@compiled
def sum_integers(
    x: np.ndarray, codes: np.ndarray, total: np.ndarray, squares: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    """Add integers of up to 16 bits and their squares to int64 sums, and update minima and maxima."""
    rows, groups, columns = x.shape
    for row in range(rows):
        code = codes[row]
        if columns == 1:  # the loop over the groups is then the inner one, which runs over adjacent values
            for group in range(groups):
                value = np.int64(x[row, group, 0])
                total[code, group] += value
                squares[code, group] += value * value
            for group in range(groups):
                found = x[row, group, 0]
                low[code, group] = found if found < low[code, group] else low[code, group]
                high[code, group] = found if found > high[code, group] else high[code, group]
            continue
        for group in range(groups):
            values = x[row, group]
            one, two, least, most = np.int64(0), np.int64(0), low[code, group], high[code, group]
            for found in values:
                one += np.int64(found)
                two += np.int64(found) * np.int64(found)
                least = min(least, found)
                most = max(most, found)
            total[code, group] += one
            squares[code, group] += two
            low[code, group], high[code, group] = least, most


@compiled
def sum_numbers(
    x: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray,
    count: np.ndarray,
    total: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    missing: np.ndarray,
) -> None:
    """Sum the weights, (rows,) float64, and the weighted values, both without NaN; update minima and maxima; count
    NaN values."""
    rows, groups, columns = x.shape
    for row in range(rows):
        code, weight = codes[row], weights[row]
        for group in range(groups):
            for column in range(columns):
                value = np.float64(x[row, group, column])
                if value == value:
                    count[code, group] += weight
                    total[code, group] += weight * value
                    low[code, group] = min(value, low[code, group])
                    high[code, group] = max(value, high[code, group])
                else:
                    missing[code, group] += 1


@compiled
def sum_distances(
    x: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray,
    center: np.ndarray,
    distances: np.ndarray,
    squares: np.ndarray,
) -> None:
    """Sum the weighted distances of the values from a center, and their squares, without NaN, in float64; weights are
    (rows,) float64."""
    rows, groups, columns = x.shape
    for row in range(rows):
        code, weight = codes[row], weights[row]
        for group in range(groups):
            for column in range(columns):
                value = np.float64(x[row, group, column])
                if value == value:
                    distance = value - center[code, group]
                    distances[code, group] += weight * distance
                    squares[code, group] += weight * distance * distance
