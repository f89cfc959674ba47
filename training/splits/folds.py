"""The fold of each row as a pure function of its position, or its class, and the seed.

Rows are taken in order in groups of k (for `stratified`, separately in each class), and the folds of each group are a
random permutation of 0..k-1 keyed by (seed, class, group). So the sizes of the folds differ by at most one row, and for
each class by at most one row; every block can be computed independently; and appending rows changes nothing before the
last group. A holdout is drawn first, from groups of a thousand rows, and its code is k. The folds are assigned among
the remaining rows.
"""

import numpy as np

from ...storage.random import hash64
from ..seeding import seed_of
from .split import Split

HOLDOUT_GROUP = 1000
HOLDOUT_KEY = 0x401D0  # separates the random numbers of the holdout from those of the folds


def kfold(start: int, stop: int, rows: int, split: Split, repeat: int = 0) -> np.ndarray:
    """Codes of the rows from `start` to `stop` among `rows`, whatever their values, (stop - start,) uint8."""
    held, ranks = hold_out(np.arange(start, stop), rows, split, 0)
    codes = permuted(ranks, split.folds, repeat_seed(split, repeat), 0)
    return np.where(held, split.folds, codes).astype(np.uint8)


def stratified(y: np.ndarray, before: np.ndarray, totals: np.ndarray, split: Split, repeat: int = 0) -> np.ndarray:
    """Codes of consecutive rows with class codes `y`, (rows,) uint8.

    `before` counts the rows of each class that precede these rows, and `totals` those of the whole dataset, (classes,).
    The rows of the incomplete last groups of all classes are assigned to the folds in turn, so that the sizes of the
    folds differ by at most one.
    """
    folds, seed = split.folds, repeat_seed(split, repeat)
    left = rows_left(totals, split.holdout)
    offsets = np.cumsum(left % folds) - left % folds
    codes = np.empty(len(y), np.uint8)
    for code in np.unique(y).astype(int).tolist():
        where = np.flatnonzero(y == code)
        held, ranks = hold_out(before[code] + np.arange(len(where)), int(totals[code]), split, code)
        in_full_group = ranks < left[code] // folds * folds
        assigned = np.where(in_full_group, permuted(ranks, folds, seed, code), (offsets[code] + ranks % folds) % folds)
        codes[where] = np.where(held, folds, assigned)
    return codes


def repeat_seed(split: Split, repeat: int) -> int:
    """The seed of a repeat's folds."""
    return seed_of(split.seed, repeat) if repeat else split.seed


def permuted(ranks: np.ndarray, size: int, *keys: int) -> np.ndarray:
    """The position of each of `ranks`, (rows,), in a random permutation of its group of `size`, (rows,) int64."""
    groups, inside = np.divmod(ranks, size)
    first, last = (int(groups.min()), int(groups.max())) if len(ranks) else (0, -1)
    hashes = hash64(*keys, np.arange(first, last + 1)[:, None], np.arange(size)[None, :])
    positions: np.ndarray = np.argsort(hashes, axis=1, kind="stable")[groups - first, inside]
    return positions


def hold_out(ranks: np.ndarray, total: int, split: Split, code: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a class belong to the holdout, (rows,) bool, and the ranks of the others among the remaining rows.

    The rows have the ranks `ranks`, (rows,), among the `total` rows of the class `code`.
    """
    if not split.holdout:
        return np.zeros(len(ranks), bool), ranks
    full_groups, rest = divmod(total, HOLDOUT_GROUP)
    keys = HOLDOUT_KEY, split.seed, code
    in_last = ranks >= full_groups * HOLDOUT_GROUP
    positions = permuted(ranks, HOLDOUT_GROUP, *keys)
    positions[in_last] = permuted(ranks[in_last] % HOLDOUT_GROUP, max(rest, 1), *keys, full_groups)
    of_group = HOLDOUT_GROUP - int(rows_left(np.array(HOLDOUT_GROUP), split.holdout))
    quotas = np.where(in_last, rest - int(rows_left(np.array(rest), split.holdout)), of_group)
    return positions < quotas, ranks // HOLDOUT_GROUP * (HOLDOUT_GROUP - of_group) + positions - quotas


def rows_left(totals: np.ndarray, holdout: float) -> np.ndarray:
    """The rows that remain outside the holdout, for classes of `totals` rows; same shape as `totals`."""
    full_groups, rest = np.divmod(totals, HOLDOUT_GROUP)
    taken = full_groups * np.rint(holdout * HOLDOUT_GROUP) + np.rint(holdout * rest)
    left: np.ndarray = totals - taken.astype(np.int64)
    return left
