"""Distribute buckets of rows among folds so that the folds are balanced in size and in each class.

The buckets are assigned one by one, the largest first, each to the fold with the greatest need for it; then buckets are
moved or swapped as long as that improves the balance. The first part is what scikit-learn's GroupKFold and
StratifiedGroupKFold do with groups (Graham 1969 bounds the resulting imbalance); the second is a local search in the
style of Kernighan and Lin (1970).
"""

from collections.abc import Sequence

import numpy as np

from ...seeding import permutation

TRIES = 4  # of which the best counts, for few buckets
ROUNDS = 8  # of moves of every bucket, at most
FEW = 256  # buckets that are tried several times, and among which pairs change places: all pairs are searched
TIE = 12  # decimals of a comparison: what differs less is a tie, whatever the rounding of a machine


def distribute(counts: np.ndarray, shares: np.ndarray, *seeds: int, least: Sequence[int] = ()) -> np.ndarray:
    """Distribute buckets among bins that should get `shares`, (bins,), of all rows and of every class.

    `counts` are the rows of each bucket in each class, (buckets, classes). Returns the bin of each bucket, (buckets,)
    uint8, such that the squared distances from the shares, summed over bins and classes, are small; all rows together
    count as an additional class with the same weight as all other classes combined. Each bin gets at least `least` of
    the non-empty buckets, by default one, if there are enough. Empty buckets go to the first bin. Different seeds give
    different results.
    """
    sizes, bins = counts.sum(axis=1), np.zeros(len(counts), np.uint8)
    filled = np.flatnonzero(sizes)
    parts, tries = weighted_parts(counts[filled]), TRIES if len(filled) <= FEW else 1
    found = [attempt(parts, sizes[filled], shares, *seeds, number) for number in range(tries)]
    chosen = min(found, key=lambda one: one[0])[1]
    fill(chosen, sizes[filled], least or [1] * len(shares))
    bins[filled] = chosen
    return bins


def weighted_parts(counts: np.ndarray) -> np.ndarray:
    """The share of each bucket in the rows of every class, and in all rows, weighted like all classes combined,
    (buckets, classes + 1) float64, from its rows in each class, (buckets, classes)."""
    totals, sizes = counts.sum(axis=0), counts.sum(axis=1, keepdims=True)
    weight = np.sqrt(np.count_nonzero(totals))  # distances are squared
    return np.hstack([counts / np.maximum(totals, 1), weight * sizes / max(1, totals.sum())])


def attempt(parts: np.ndarray, sizes: np.ndarray, shares: np.ndarray, *seeds: int) -> tuple[float, np.ndarray]:
    """Distribute buckets with `parts`, (buckets, classes), and `sizes`, (buckets,), once. Buckets of about the same
    size are processed in random order. Returns the squared distance from the shares, and the bins, (buckets,) int64."""
    order = permutation(len(parts), *seeds)
    order = order[np.argsort(-np.frexp(sizes[order])[1], kind="stable")]  # by powers of two
    missing, bins = np.outer(shares, parts.sum(axis=0)), np.zeros(len(parts), np.int64)
    bins[order] = place(parts[order], missing)
    improve(parts, missing, bins)
    return round(float(np.square(missing).sum()), TIE), bins


def place(parts: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Assign buckets in order, each to the bin where the squared distance increases least, (buckets,) int64.

    `parts`, (buckets, classes), are the contents of the buckets, and `missing`, (bins, classes), is what the bins still
    need; it is updated in place.
    """
    bins = np.zeros(len(parts), np.int64)
    for bucket, part in enumerate(parts):
        # The squared distance grows by part · (part - 2 missing).
        bins[bucket] = chosen = int(np.round(missing @ (part / part.max()), TIE).argmax())
        missing[chosen] -= part
    return bins


def improve(parts: np.ndarray, missing: np.ndarray, bins: np.ndarray) -> None:
    """Move buckets to other bins and, if there are few, swap pairs, as long as the squared distance decreases.

    `bins`, (buckets,), and `missing` are updated in place; see `place`.
    """
    for _ in range(ROUNDS):
        moved = move_each(parts, missing, bins)
        swapped = len(parts) <= FEW and swap_pairs(parts, missing, bins)
        if not moved and not swapped:
            return


def move_each(parts: np.ndarray, missing: np.ndarray, bins: np.ndarray) -> bool:
    """Move each bucket to the bin with the smallest squared distance. Returns whether any bucket was moved."""
    squares = np.square(parts).sum(axis=1)
    gains = (parts @ missing.T).max(axis=1) - (parts * missing[bins]).sum(axis=1) - squares
    moved = False
    for bucket in np.flatnonzero(gains > 1e-9 * squares):
        part, now = parts[bucket], bins[bucket]
        lacks = missing @ part
        best = int(lacks.argmax())
        if lacks[best] - lacks[now] - squares[bucket] > 1e-9 * squares[bucket]:
            missing[now] += part
            missing[best] -= part
            bins[bucket], moved = best, True
    return moved


def swap_pairs(parts: np.ndarray, missing: np.ndarray, bins: np.ndarray) -> bool:
    """Repeatedly swap the pair of buckets that reduces the squared distance most, at most once per bucket. Returns
    whether any buckets were swapped."""
    products = parts @ parts.T
    squares = np.diag(products)
    apart = squares[:, None] + squares - 2 * products
    swapped = False
    for _ in range(len(parts)):
        lacks = (parts @ missing.T)[:, bins]  # of one bucket's classes, in the bin of another
        own = np.diag(lacks)
        gains = lacks + lacks.T - own[:, None] - own - apart
        one, other = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[one, other] <= 1e-9 * apart[one, other]:
            break
        difference = parts[one] - parts[other]
        missing[bins[one]] += difference
        missing[bins[other]] -= difference
        bins[[one, other]], swapped = bins[[other, one]], True
    return swapped


def fill(bins: np.ndarray, sizes: np.ndarray, least: Sequence[int]) -> None:
    """Move the smallest buckets to bins that have fewer than `least`, (bins,), from bins with more, if there are any.

    `bins` and `sizes`, (buckets,), are the bins and rows of the buckets; `bins` is updated in place.
    """
    have = np.bincount(bins, minlength=len(least))
    for poor, wanted in enumerate(least):
        while have[poor] < wanted:
            spare = np.flatnonzero((have > np.asarray(least))[bins])
            if not len(spare):
                return
            moved = spare[sizes[spare].argmin()]
            have[bins[moved]] -= 1
            bins[moved] = poor
            have[poor] += 1
