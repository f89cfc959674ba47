"""Folds that keep groups whole: groups are thrown into buckets by hash, and whole buckets are dealt to the folds.

However many groups there are, the counts of the buckets are what is held in memory. Dealing is greedy, the largest
buckets first, each to the fold that it helps most towards its share of every class (as scikit-learn's GroupKFold and
StratifiedGroupKFold do with groups; Graham 1969 bounds what that costs in balance).
"""

import numpy as np

from ...storage.random import hash64
from ..seeding import permutation
from .folds import HOLDOUT_KEY, repeat_seed
from .split import Split

MOST_BUCKETS = 1 << 16
MOST_COUNTS = 1 << 23  # of all buckets and classes


def bucket_count(classes: int) -> int:
    """How many buckets there are, a power of two."""
    return min(MOST_BUCKETS, 1 << (MOST_COUNTS // max(1, classes)).bit_length() - 1)


def buckets_of(values: np.ndarray, buckets: int, seed: int) -> np.ndarray:
    """The bucket of each row by its group, (rows,) int64. Groups are numbers, or text as bytes («S» dtype)."""
    if values.dtype.kind == "S":
        width = -(-values.dtype.itemsize // 8) * 8
        words = np.ascontiguousarray(values.astype(f"S{width}")).view(np.uint64).reshape(len(values), -1)
    elif values.dtype.kind == "f":
        words = (values.astype(np.float64) + 0.0).view(np.uint64)[:, None]  # + 0.0 makes -0.0 the same group as 0.0
    else:
        words = values.astype(np.int64).view(np.uint64)[:, None]
    return (hash64(seed, *words.T) % np.uint64(buckets)).astype(np.int64)


def count_buckets(buckets: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of some buckets in each class: the places in a table of `shape` (buckets, classes), and the counts there.

    `buckets` and `y`, (rows,), are those of a run of rows.
    """
    places, counts = np.unique(buckets * shape[1] + y.astype(np.int64), return_counts=True)
    return places, counts


def deal_buckets(counts: np.ndarray, split: Split, repeat: int = 0) -> np.ndarray:
    """The code of every bucket, (buckets,) uint8, from its rows in each class, `counts` (buckets, classes)."""
    codes = np.full(len(counts), split.folds, np.uint8)
    remaining = np.ones(len(counts), bool)
    if split.holdout:
        remaining = deal(counts, np.array([split.holdout, 1 - split.holdout]), HOLDOUT_KEY, split.seed) == 1
    left = np.where(remaining[:, None], counts, 0)
    dealt = deal(left, np.full(split.folds, 1 / split.folds), repeat_seed(split, repeat))
    codes[remaining] = dealt[remaining]
    return codes


def deal(counts: np.ndarray, shares: np.ndarray, *seeds: int) -> np.ndarray:
    """Deal buckets, (buckets, classes) rows, to bins that are to get `shares` (bins,) of every class: (buckets,) uint8.

    Buckets of about the same size come in a random order. Each goes where the sum over classes of the squared
    distances from the shares grows least. An empty one goes to the first bin.
    """
    sizes = counts.sum(axis=1)
    order = permutation(len(counts), *seeds)
    order = order[np.argsort(-np.frexp(sizes[order])[1], kind="stable")]  # by powers of two
    parts = counts / np.maximum(counts.sum(axis=0), 1)
    missing, bins = np.repeat(shares[:, None], counts.shape[1], axis=1), np.zeros(len(counts), np.uint8)
    for bucket in order[sizes[order] > 0]:
        chosen = int((missing @ parts[bucket]).argmax())  # the squared distance grows by part · (part - 2 missing)
        missing[chosen] -= parts[bucket]
        bins[bucket] = chosen
    return bins
