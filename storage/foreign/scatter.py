"""The compiled loop that makes sparse rows dense."""

import numpy as np

from ..compiled import compiled


@compiled
def place_values(pointers: np.ndarray, columns: np.ndarray, values: np.ndarray, out: np.ndarray) -> bool:
    """Write sparse rows into `out`, (rows, width): row `i` has the `values` from `pointers[i]` to `pointers[i + 1]`,
    (rows + 1,) int64, counted from the first one, in `columns`. Values of one place add up, as in SciPy. Returns False
    for columns that do not exist."""
    rows, width = out.shape
    for row in range(rows):
        for column in range(width):
            out[row, column] = 0
        for place in range(pointers[row] - pointers[0], pointers[row + 1] - pointers[0]):
            column = columns[place]
            if column < 0 or column >= width:
                return False
            out[row, column] += values[place]
    return True
