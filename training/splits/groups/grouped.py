"""Folds that never split a group: groups are hashed into buckets, and each bucket is assigned to one fold.

Only the counts of the buckets are kept in memory, however many groups there are; `balance.py` balances the folds.
"""

from collections.abc import Sequence

import numpy as np

from ....storage.fold_plan import among
from ....storage.random import hash64
from ..folds import HOLDOUT_KEY, repeat_seed
from ..split import Split
from .balance import distribute

MOST_BUCKETS = 1 << 16
MOST_COUNTS = 1 << 23  # entries of the table of buckets and classes
MOST_MARKED, MOST_MARKS = 1 << 20, 1 << 23  # buckets that are only marked, a bit for each period


def bucket_count(classes: int) -> int:
    """The number of buckets, a power of two."""
    return min(MOST_BUCKETS, 1 << (MOST_COUNTS // max(1, classes)).bit_length() - 1)


def buckets_of(values: np.ndarray, buckets: int, seed: int, usual: int | None = None) -> np.ndarray:
    """The bucket of each row by its group, (rows,) int64. Groups are numbers, or text as bytes (`S` dtype).

    If rows with longer texts were appended, `usual` is the length of the first ones: the buckets of texts that are not
    longer remain the same.
    """
    if values.dtype.kind == "S":
        width = -(-values.dtype.itemsize // 8) * 8
        words = np.ascontiguousarray(values.astype(f"S{width}")).view(np.uint64).reshape(len(values), -1)
        first = -(-(usual or width) // 8)
        hashes = hash64(seed, *words[:, :first].T)
        for more in words[:, first:].T:
            hashes = np.where(more == 0, hashes, hash64(hashes, more))
        return (hashes % np.uint64(buckets)).astype(np.int64)
    if values.dtype.kind == "f":
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


def marked_buckets(periods: int) -> int:
    """The number of buckets to mark in `periods` periods, a power of two."""
    return min(MOST_MARKED, 1 << (MOST_MARKS // periods).bit_length() - 1)


def mark_buckets(buckets: np.ndarray, codes: np.ndarray, periods: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Mark the buckets that occur in each of some periods, which are given by their codes.

    `buckets` and `codes`, (rows,), are the buckets and codes of the rows. Returns one bit per bucket,
    (periods, buckets / 8) uint8, for the number of buckets given by `marked_buckets`.
    """
    marks = np.zeros((len(periods), marked_buckets(len(periods)) // 8), np.uint8)
    for bits, period in zip(marks, periods, strict=True):
        inside = buckets[among(codes, period)]
        np.bitwise_or.at(bits, inside >> 3, (1 << (inside & 7)).astype(np.uint8))
    return marks


def are_present(marks: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """Which of `buckets`, (rows,), are marked in a period's bits, (buckets / 8,) uint8. Returns (rows,) bool."""
    present: np.ndarray = (marks[buckets >> 3] >> (buckets & 7) & 1).astype(bool)
    return present


def assign_buckets(counts: np.ndarray, split: Split, repeat: int = 0) -> np.ndarray:
    """The code of every bucket, (buckets,) uint8, from its rows in each class, `counts` (buckets, classes)."""
    codes = np.full(len(counts), split.folds, np.uint8)
    remaining = np.ones(len(counts), bool)
    if split.holdout:
        shares, least = np.array([split.holdout, 1 - split.holdout]), (1, split.folds)
        remaining = distribute(counts, shares, HOLDOUT_KEY, split.seed, least=least) == 1
    left = np.where(remaining[:, None], counts, 0)
    assigned = distribute(left, np.full(split.folds, 1 / split.folds), repeat_seed(split, repeat))
    codes[remaining] = assigned[remaining]
    return codes
