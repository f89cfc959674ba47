"""Compiled code that runs for every row."""

import numpy as np

from ...storage.compiled import compiled


@compiled
def place_rows(order: np.ndarray, mask: np.ndarray, start: int, places: np.ndarray) -> np.ndarray:
    """Where each row of a window goes, (rows,) int64; -1 for a row that goes nowhere.

    `order` is the window's mixed order, `mask` says which rows are kept. The kept rows in that order, from the
    `start`-th on, go to `places`, one row to each.
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
