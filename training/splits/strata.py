"""Strata of rows that are not classes: ranges of a regression target, and sets of 0/1 labels.

`folds.stratified` spreads the rows of every stratum evenly over the folds. The remainder of each stratum, fewer rows
than folds, is assigned by labels: iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) starts with the
rarest label, and assigns each of its rows to the fold with the greatest need for it. Memory is bounded: a table has one
entry per shard and stratum, and there are few strata.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...storage.errors import UsageError
from ...storage.random import hash64
from ..seeding import permutation
from .folds import HOLDOUT_GROUP, HOLDOUT_KEY, Rest, repeat_seed, rows_left
from .ordered import Sketch, value_at
from .split import Split

MOST_BINS = 10  # of a regression target
MOST_STRATA, LEAST_STRATA = 1024, 64  # of sets of labels
MOST_COUNTS = 1 << 23  # entries of the table of shards and strata
TIE = 9  # decimals of a comparison: what differs less is a tie, whatever the rounding of a machine


class Strata(Protocol):
    """Assigns rows to strata by their labels."""

    @property
    def count(self) -> int:
        """The number of strata."""
        ...

    def of(self, y: np.ndarray) -> np.ndarray:
        """The stratum of each row, (rows,) int64, from its labels, (rows,) or (rows, labels)."""
        ...


@dataclass(frozen=True)
class Bins:
    """Ranges of a single target. Bin b starts at the value `edges[b - 1]`."""

    edges: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.edges) + 1

    def of(self, y: np.ndarray) -> np.ndarray:
        return np.searchsorted(np.array(self.edges, np.float64), y.astype(np.float64), side="right")

    def joined(self, totals: np.ndarray, least: int) -> "Bins":
        """These bins, of `totals` rows, (bins,), where bins with fewer than `least` rows are joined with the next
        one."""
        kept, have = [], 0
        for edge, rows in zip(self.edges, totals[:-1], strict=True):
            have += int(rows)
            if have >= least:
                kept.append(edge)
                have = 0
        if kept and have + int(totals[-1]) < least:
            kept.pop()
        return Bins(tuple(kept))


def quantile_bins(sketches: Sequence[Sketch], rows: int, folds: int) -> Bins:
    """Bins with about equal shares of all `rows`, from sketches of the shards' targets.

    There are at most ten bins, and each has at least one row for every fold. Equal values are in the same bin.
    """
    count = max(1, min(MOST_BINS, rows // folds))
    return Bins(tuple(sorted({*value_at(sketches, [rows * number // count for number in range(1, count)])})))


@dataclass(frozen=True, eq=False)
class LabelSets:
    """The frequent sets of labels, each of which is a stratum, and strata of all other rows by their rarest label.

    Attributes:
        sets: The frequent sets as packed bits, sorted, (sets,) of `S` dtype.
        rarity: The rank of each label, starting with the rarest, (labels,) int32.
        others: The number of strata for other sets.
    """

    sets: np.ndarray
    rarity: np.ndarray
    others: int

    @property
    def count(self) -> int:
        return len(self.sets) + self.others

    def of(self, y: np.ndarray) -> np.ndarray:
        keys = packed(y)
        at = np.minimum(np.searchsorted(self.sets, keys), len(self.sets) - 1)
        rarest = np.where(y != 0, self.rarity, len(self.rarity)).min(axis=1)
        strata: np.ndarray = np.where(self.sets[at] == keys, at, len(self.sets) + rarest % self.others)
        return strata


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """Counts of sets of labels, as packed bits, and the number of rows with each label, (labels,)."""

    sets: Counter[bytes]
    rows: np.ndarray


def packed(y: np.ndarray) -> np.ndarray:
    """The set of labels of each row as bits, (rows,) of `S` dtype, from 0/1 labels, (rows, labels)."""
    bits = np.packbits(y != 0, axis=1)
    keys: np.ndarray = np.ascontiguousarray(bits).view(f"S{bits.shape[1]}")[:, 0]
    return keys


def count_labels(y: np.ndarray, labels: Sequence[str], start: int) -> LabelCounts:
    """Count the sets of labels of rows, (rows, labels), the first of which is row `start` of the dataset.

    Raises UsageError for a value that is neither 0 nor 1.
    """
    other = (y != 0) & (y != 1)
    if other.any():
        row, label = (int(at[0]) for at in np.nonzero(other))
        raise UsageError(
            f"--split stratified: target '{labels[label]}' is {y[row, label]:g} in row {start + row:,}, but several "
            "targets can only be stratified if all are 0 or 1; use --split kfold"
        )
    keys, counts = np.unique(packed(y), return_counts=True)
    most = np.argsort(-counts, kind="stable")[:MOST_STRATA]
    width = keys.dtype.itemsize
    sets = {
        key.ljust(width, b"\0"): count for key, count in zip(keys[most].tolist(), counts[most].tolist(), strict=True)
    }
    return LabelCounts(Counter(sets), (y != 0).sum(axis=0, dtype=np.int64))


def merge_labels(one: LabelCounts, other: LabelCounts) -> LabelCounts:
    """Merge counts. If there are very many sets, only the most frequent ones so far are kept."""
    return LabelCounts(frequent(one.sets + other.sets, 4 * MOST_STRATA), one.rows + other.rows)


def frequent(sets: Counter[bytes], most: int) -> Counter[bytes]:
    """The most frequent sets, at most `most`, in a deterministic order."""
    return Counter(dict(sorted(sets.items(), key=lambda item: (-item[1], item[0]))[:most]))


def label_sets(counts: LabelCounts, shards: int) -> LabelSets:
    """The strata of a dataset with these counts and this number of shards."""
    labels = len(counts.rows)
    strata = max(LEAST_STRATA, min(MOST_STRATA, MOST_COUNTS // shards))
    others = min(labels + 1, strata // 4)
    sets = np.sort(np.array([*frequent(counts.sets, strata - others)], f"S{-(-labels // 8)}"))
    rarity = np.empty(labels, np.int32)
    rarity[np.argsort(counts.rows, kind="stable")] = np.arange(labels)
    return LabelSets(sets, rarity, others)


def by_labels(totals: np.ndarray, having: np.ndarray, split: Split, repeat: int) -> Rest:
    """Assign the rows of the incomplete last groups of strata so that every label is spread evenly.

    `totals` are the rows of each stratum, (strata,), and `having` the rows with each label, (strata, labels).
    """
    rates, folds = having / np.maximum(totals, 1)[:, None], split.folds
    left = totals - held_out_rows(totals, rates, split)
    rows = left % folds
    found = iterate(rates, rows, np.tile(rows / folds, (folds, 1)), repeat_seed(split, repeat))
    table = np.zeros((len(totals), folds), np.uint8)
    for stratum, assigned in enumerate(found):
        table[stratum, : len(assigned)] = assigned
    return Rest(left, table)


def held_out_rows(totals: np.ndarray, rates: np.ndarray, split: Split) -> np.ndarray:
    """The rows of each stratum in the holdout, (strata,) int64: its fraction of every group of rows, rounded up or down
    in the incomplete last groups to balance the labels."""
    full = totals // HOLDOUT_GROUP * HOLDOUT_GROUP
    exact = np.round((totals - full) * split.holdout, TIE)
    certain = np.floor(exact)
    up, undecided = exact - certain, exact > certain
    found = iterate(rates, undecided.astype(np.int64), np.stack([up, undecided - up]), HOLDOUT_KEY, split.seed)
    taken = full - rows_left(full, split.holdout) + certain.astype(np.int64)
    held: np.ndarray = taken + np.array([assigned == [0] for assigned in found])
    return held


def iterate(rates: np.ndarray, rows: np.ndarray, wanted: np.ndarray, *seeds: int) -> list[list[int]]:
    """Assign `rows` rows of each stratum, (strata,), to bins that need `wanted` of them, (bins, strata).

    `rates`, (strata, labels), is the share of a stratum's rows with each label: 0 or 1 if all rows have the same
    labels. The rows of the rarest label come first. Each row goes to the bin with the greatest need for this label;
    ties are broken by the need for rows, then randomly. Returns the bins of each stratum's rows.
    """
    lacking = np.hstack([wanted @ rates, wanted.sum(axis=1, keepdims=True)])  # of each label, and of rows
    brought = np.hstack([rates, np.ones((len(rates), 1))])
    found, waiting = [list[int]() for _ in rows], rows > 0
    order = permutation(len(rows), *seeds)
    while waiting.any():
        left = rows[waiting] @ brought[waiting]
        column = int(np.where(left[:-1] > 0, left[:-1], np.inf).argmin()) if left[:-1].any() else len(left) - 1
        for stratum in order[waiting[order] & (brought[order, column] > 0)].tolist():
            for number in range(int(rows[stratum])):
                chosen = most_lacking(lacking, column, hash64(*seeds, stratum, number, np.arange(len(lacking))))
                lacking[chosen] -= brought[stratum]
                found[stratum].append(chosen)
            waiting[stratum] = False
    return found


def most_lacking(lacking: np.ndarray, column: int, draws: np.ndarray) -> int:
    """The bin with the greatest need in a column of `lacking`, (bins, labels + 1), then in the last one, then by
    `draws`."""
    first, second = np.round(lacking[:, column], TIE), np.round(lacking[:, -1], TIE)
    return int(np.lexsort((draws, second, first))[-1])
