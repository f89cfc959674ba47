"""Folds that never split a group: groups are hashed into buckets, and each bucket is assigned to one fold.

Only the counts of the buckets are held in memory, however many groups there are. The assignment is greedy: the largest
buckets come first, and each goes to the fold that it brings closest to its share of every class. scikit-learn's
GroupKFold and StratifiedGroupKFold do the same with groups. Graham (1969) bounds the imbalance that results.
"""

import numpy as np

from ...storage.random import hash64
from ..seeding import permutation
from .folds import HOLDOUT_KEY, repeat_seed
from .split import Split

MOST_BUCKETS = 1 << 16
MOST_COUNTS = 1 << 23  # entries of the table of buckets and classes


def bucket_count(classes: int) -> int:
    """The number of buckets, a power of two."""
    return min(MOST_BUCKETS, 1 << (MOST_COUNTS // max(1, classes)).bit_length() - 1)


def buckets_of(values: np.ndarray, buckets: int, seed: int) -> np.ndarray:
    """The bucket of each row by its group, (rows,) int64. Groups are numbers, or text as bytes (`S` dtype)."""
    if values.dtype.kind == "S":
        width = -(-values.dtype.itemsize // 8) * 8
        words = np.ascontiguousarray(values.astype(f"S{width}")).view(np.uint64).reshape(len(values), -1)
    elif values.dtype.kind == "f":
        words = (values.astype(np.float64) + 0.0).view(np.uint64)[
            :, None
        ]  # adding 0.0 puts -0.0 in the same group as 0.0
    else:
        words = values.astype(np.int64).view(np.uint64)[:, None]
    return (hash64(seed, *words.T) % np.uint64(buckets)).astype(np.int64)


def count_buckets(buckets: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Count rows by bucket and class.

    `buckets` and `y`, (rows,), are the buckets and class codes of the rows. Returns the flat indices of the nonzero
    entries of a table of `shape` (buckets, classes), and their counts.
    """
    positions, counts = np.unique(buckets * shape[1] + y.astype(np.int64), return_counts=True)
    return positions, counts


def assign_buckets(counts: np.ndarray, split: Split, repeat: int = 0) -> np.ndarray:
    """The code of every bucket, (buckets,) uint8, from its rows in each class, `counts` (buckets, classes)."""
    codes = np.full(len(counts), split.folds, np.uint8)
    remaining = np.ones(len(counts), bool)
    if split.holdout:
        remaining = distribute(counts, np.array([split.holdout, 1 - split.holdout]), HOLDOUT_KEY, split.seed) == 1
    left = np.where(remaining[:, None], counts, 0)
    assigned = distribute(left, np.full(split.folds, 1 / split.folds), repeat_seed(split, repeat))
    codes[remaining] = assigned[remaining]
    return codes


def distribute(counts: np.ndarray, shares: np.ndarray, *seeds: int) -> np.ndarray:
    """Distribute buckets among bins that should get `shares`, (bins,), of every class. Returns (buckets,) uint8.

    `counts` are the rows of each bucket in each class, (buckets, classes). Buckets are taken by size, largest first,
    and in random order among those of about the same size. Each goes to the bin where the
    squared distance from the shares, summed over classes, grows least. Empty buckets go to the first bin.
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
