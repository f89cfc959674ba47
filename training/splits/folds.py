"""The fold of each row as a pure function of its position (or stratum) and the seed.

Rows are processed in order in groups of k (for `stratified`, separately in each stratum, such as a class), and the
folds of each group are a random permutation of 0..k-1 keyed by (seed, stratum, group). The sizes of the folds therefore
differ by at most one row, also within each stratum; every block can be computed independently; and appending rows
changes nothing before the last group. A holdout is drawn first, from groups of a thousand rows, and its code is k. The
folds are assigned among the remaining rows.

Only `contiguous` is not random: its folds are ranges of rows, and the holdout is the last range.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...storage.random import hash64
from ..seeding import seed_of
from .split import Split

HOLDOUT_GROUP = 1000
HOLDOUT_KEY = 0x401D0  # separates the random numbers of the holdout from those of the folds


@dataclass(frozen=True, eq=False)
class Rest:
    """The rows that the complete groups of strata do not cover.

    Attributes:
        left: The rows of each stratum outside the holdout, (strata,) int64.
        folds: The folds of the rows of each stratum's incomplete last group, in order, (strata, folds) uint8.
    """

    left: np.ndarray
    folds: np.ndarray


def kfold(start: int, stop: int, rows: int, split: Split, repeat: int = 0) -> np.ndarray:
    """Codes of the rows `start` to `stop` out of `rows`, regardless of their values, (stop - start,) uint8."""
    left = int(rows_left(np.array(rows), split.holdout))
    held, ranks = hold_out(np.arange(start, stop), rows, left, split, 0)
    codes = permuted(ranks, split.folds, repeat_seed(split, repeat), 0)
    return np.where(held, split.folds, codes).astype(np.uint8)


def contiguous(start: int, stop: int, rows: int, split: Split) -> np.ndarray:
    """Codes of the rows `start` to `stop` out of `rows`: consecutive ranges, (stop - start,) uint8.

    As in scikit-learn's KFold(shuffle=False), the first folds have one more row if the rows do not divide evenly.
    """
    size, longer = divmod(rows - round(rows * split.holdout), split.folds)
    edges = [fold * size + min(fold, longer) for fold in range(1, split.folds + 1)]
    return np.searchsorted(edges, np.arange(start, stop), side="right").astype(np.uint8)


def stratified(
    y: np.ndarray, before: np.ndarray, totals: np.ndarray, split: Split, repeat: int = 0, rest: Rest | None = None
) -> np.ndarray:
    """Codes of consecutive rows in the strata `y`, (rows,) integers. Returns (rows,) uint8.

    `before` is the number of rows of each stratum that precede these rows, and `totals` the number in the whole
    dataset, (strata,). `rest` assigns the incomplete last groups, by default like `in_turn`.
    """
    folds, seed = split.folds, repeat_seed(split, repeat)
    rest = rest or in_turn(totals, split)
    codes, order = np.empty(len(y), np.uint8), np.argsort(y, kind="stable")
    present, starts = np.unique(y[order], return_index=True)
    for code, (first, last) in zip(present.astype(int).tolist(), pairwise([*starts, len(y)]), strict=True):
        where, left = order[first:last], int(rest.left[code])
        held, ranks = hold_out(before[code] + np.arange(len(where)), int(totals[code]), left, split, code)
        in_full_group = ranks < left // folds * folds
        assigned = np.where(in_full_group, permuted(ranks, folds, seed, code), rest.folds[code, ranks % folds])
        codes[where] = np.where(held, folds, assigned)
    return codes


def in_turn(totals: np.ndarray, split: Split) -> Rest:
    """Assign the rows of the incomplete last groups of all strata to the folds in round-robin order, so that the sizes
    of the folds differ by at most one. `totals` are the rows of each stratum, (strata,)."""
    left = rows_left(totals, split.holdout)
    offsets = np.cumsum(left % split.folds) - left % split.folds
    return Rest(left, ((offsets[:, None] + np.arange(split.folds)) % split.folds).astype(np.uint8))


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


def hold_out(ranks: np.ndarray, total: int, left: int, split: Split, code: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a stratum belong to the holdout, (rows,) bool, and the ranks of the other rows among the `left`
    rows outside the holdout.

    The rows have the ranks `ranks`, (rows,), among the `total` rows of the stratum `code`.
    """
    if not split.holdout:
        return np.zeros(len(ranks), bool), ranks
    full_groups, rest = divmod(total, HOLDOUT_GROUP)
    keys = HOLDOUT_KEY, split.seed, code
    in_last = ranks >= full_groups * HOLDOUT_GROUP
    positions = permuted(ranks, HOLDOUT_GROUP, *keys)
    positions[in_last] = permuted(ranks[in_last] % HOLDOUT_GROUP, max(rest, 1), *keys, full_groups)
    of_group = HOLDOUT_GROUP - int(rows_left(np.array(HOLDOUT_GROUP), split.holdout))
    quotas = np.where(in_last, total - left - full_groups * of_group, of_group)
    return positions < quotas, ranks // HOLDOUT_GROUP * (HOLDOUT_GROUP - of_group) + positions - quotas


def rows_left(totals: np.ndarray, holdout: float) -> np.ndarray:
    """The rows that remain outside the holdout, for strata of `totals` rows; same shape as `totals`."""
    full_groups, rest = np.divmod(totals, HOLDOUT_GROUP)
    taken = full_groups * np.rint(holdout * HOLDOUT_GROUP) + np.rint(holdout * rest)
    left: np.ndarray = totals - taken.astype(np.int64)
    return left
