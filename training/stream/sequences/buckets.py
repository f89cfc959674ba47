"""Batches of rows with similar lengths, in an exact order: a pure function of the lengths, the seed and the position.

Each step of an epoch has a target between 0 and 1: the van der Corput sequence, scrambled by seed and epoch (Owen 1995,
by the hash of Laine and Karras 2011). Any run of consecutive steps has targets that are spread evenly. Each window of a
lane gives its shortest rows to the steps with the lowest targets, and so on: the n-th of its rows by length to the n-th
of its places by target. So all lanes give a batch rows from about the same quantile of the lengths, though their
windows begin and end at different steps. Rows of equal length stay in their random order.

Which rows a window has, and how many times it uses them, stays as it is. So does everything that follows from it: the
rows of an epoch, what a rank reads, and what models that are trained together share.
"""

import numpy as np

from ...seeding import key_of

BUCKET_STREAM = 7  # keeps the targets apart from the other random numbers of an order
HASH = 0x6C50B47C, 0xB82F1E52, 0xC7AFE638, 0x8D22F6E6
"""The factors of the hash, which are even: a bit of its result depends only on that bit and those below it."""
SWAPS = (1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)


def targets_of(steps: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The targets of steps, (n,) int64, as fractions of 2³²: (n,) uint32."""
    key = np.uint32(int(key_of(seed, epoch, BUCKET_STREAM)) & 0xFFFFFFFF)
    found = steps.astype(np.uint32) + key
    for factor in HASH:
        found ^= found * np.uint32(factor)
    for bits, mask in SWAPS:  # reverse the order of the bits
        found = ((found >> np.uint32(bits)) & np.uint32(mask)) | ((found & np.uint32(mask)) << np.uint32(bits))
    return found


def bucketed(uses: np.ndarray, lengths: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The rows that a window `uses`, (uses,) int64, in the order in which each comes to a place with a target that fits
    its length.

    `lengths` are those of all rows of the window, (rows,), and `targets` those of the places, (uses,).
    """
    order = np.empty_like(uses)
    order[np.argsort(targets, kind="stable")] = uses[np.argsort(lengths[uses], kind="stable")]
    return order
