"""What is done with every row, compiled."""

import numpy as np

from ..storage.compiled import compiled
from ..storage.random import GOLDEN, mix64

mixed = compiled(mix64)


@compiled
def shuffled(size: int, key: np.uint64) -> np.ndarray:
    """A random permutation of `size` items, at most 2³², keyed by 64 bits, (size,) int64.

    Fisher and Yates' shuffle, inside out (Durstenfeld 1964), by the numbers of SplitMix64 (Steele et al. 2014), each
    scaled by its upper half (Lemire 2019). Written out, because numpy does not promise that `Generator.permutation`
    stays the same from release to release.
    """
    order = np.empty(size, np.int64)
    state = key
    for i in range(size):
        state += GOLDEN
        number = mixed(state)
        j = np.int64(((number >> np.uint64(32)) * np.uint64(i + 1)) >> np.uint64(32))
        order[i] = order[j]
        order[j] = i
    return order


@compiled
def place_rows(order: np.ndarray, mask: np.ndarray, start: int, places: np.ndarray) -> np.ndarray:
    """Where each row of a window goes, (rows,) int64: -1 for a row that is not wanted.

    `order` is the window's mixed order, `mask` says which rows are kept. Of the kept rows in that order, those from
    the `start`-th on go to `places`, as many as there are.
    """
    of_row = np.full(len(order), -1, np.int64)
    kept = -start
    for row in order:
        if mask[row]:
            if 0 <= kept < len(places):
                of_row[row] = places[kept]
            kept += 1
    return of_row


@compiled
def scatter(columns: tuple[np.ndarray, ...], places: np.ndarray, out: tuple[np.ndarray, ...]) -> None:
    """Copy row i of each column to row places[i] of the same column in `out`, unless that is negative.

    Rows are bytes: every column is (rows, bytes of a row) uint8.
    """
    for column in range(len(columns)):
        source, target = columns[column], out[column]
        width = source.shape[1]
        for i in range(len(places)):
            place = places[i]
            if place >= 0:
                for j in range(width):
                    target[place, j] = source[i, j]
