"""Which fold each row belongs to, by its position or by its class: a pure function of that and the seed.

Rows are taken in groups of k in their order (for `stratified`: in each class by itself), and each group's k folds are
a random permutation of 0..k-1 keyed by (seed, class, group). So folds differ by at most one row in size, classes by
at most one row a fold, any block can be computed by itself, and appending rows changes nothing before the last group.
A holdout is drawn first, from groups of a thousand, and the folds are those of the rows that are left: its code is k.
"""

import numpy as np

from ...storage.random import hash64
from ..seeding import seed_of
from .split import Split

HOLDOUT_GROUP = 1000
HOLDOUT_KEY = 0x401D0  # keeps the holdout's random numbers apart from the folds'


def kfold(start: int, stop: int, rows: int, split: Split, repeat: int = 0) -> np.ndarray:
    """Codes of the rows `start` to `stop` of `rows`, whatever they hold, (stop - start,) uint8."""
    held, ranks = hold_out(np.arange(start, stop), rows, split, 0)
    codes = permuted(ranks, split.folds, repeat_seed(split, repeat), 0)
    return np.where(held, split.folds, codes).astype(np.uint8)


def stratified(y: np.ndarray, before: np.ndarray, totals: np.ndarray, split: Split, repeat: int = 0) -> np.ndarray:
    """Codes of a run of rows with class codes `y`, (rows,) uint8.

    `before` counts the rows of each class that come before this run, `totals` those of the whole data, (classes,).
    The last, short groups of all classes together are dealt round the folds, so that the folds' sizes differ by one.
    """
    folds, seed = split.folds, repeat_seed(split, repeat)
    left = rows_left(totals, split.holdout)
    offsets = np.cumsum(left % folds) - left % folds
    codes = np.empty(len(y), np.uint8)
    for code in np.unique(y).astype(int).tolist():
        where = np.flatnonzero(y == code)
        held, ranks = hold_out(before[code] + np.arange(len(where)), int(totals[code]), split, code)
        whole = ranks < left[code] // folds * folds
        dealt = np.where(whole, permuted(ranks, folds, seed, code), (offsets[code] + ranks % folds) % folds)
        codes[where] = np.where(held, folds, dealt)
    return codes


def repeat_seed(split: Split, repeat: int) -> int:
    """The seed of a repeat's folds."""
    return seed_of(split.seed, repeat) if repeat else split.seed


def permuted(ranks: np.ndarray, size: int, *keys: int) -> np.ndarray:
    """Where each of `ranks`, (rows,), stands in a random order of its group of `size`, (rows,) int64 below `size`."""
    groups, inside = np.divmod(ranks, size)
    first, last = (int(groups.min()), int(groups.max())) if len(ranks) else (0, -1)
    hashes = hash64(*keys, np.arange(first, last + 1)[:, None], np.arange(size)[None, :])
    places: np.ndarray = np.argsort(hashes, axis=1, kind="stable")[groups - first, inside]
    return places


def hold_out(ranks: np.ndarray, total: int, split: Split, code: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a class are held out from all models, (rows,) bool, and the ranks of the others among what is left.

    The rows are number `ranks`, (rows,), of `total` in the class `code`.
    """
    if not split.holdout:
        return np.zeros(len(ranks), bool), ranks
    whole, rest = divmod(total, HOLDOUT_GROUP)
    keys = HOLDOUT_KEY, split.seed, code
    short = ranks >= whole * HOLDOUT_GROUP
    places = permuted(ranks, HOLDOUT_GROUP, *keys)
    places[short] = permuted(ranks[short] % HOLDOUT_GROUP, max(rest, 1), *keys, whole)
    of_group = HOLDOUT_GROUP - int(rows_left(np.array(HOLDOUT_GROUP), split.holdout))
    quotas = np.where(short, rest - int(rows_left(np.array(rest), split.holdout)), of_group)
    return places < quotas, ranks // HOLDOUT_GROUP * (HOLDOUT_GROUP - of_group) + places - quotas


def rows_left(totals: np.ndarray, holdout: float) -> np.ndarray:
    """The rows of classes of `totals` rows that no holdout takes, of the same shape."""
    whole, rest = np.divmod(totals, HOLDOUT_GROUP)
    taken = whole * np.rint(holdout * HOLDOUT_GROUP) + np.rint(holdout * rest)
    left: np.ndarray = totals - taken.astype(np.int64)
    return left
