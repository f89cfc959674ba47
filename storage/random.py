"""Random numbers as a pure function of integers: the same on every machine, at any position, in any version of numpy.

The generator is SplitMix64 (Steele, Lea and Flood, 2014). The functions accept arrays and, inside compiled code,
scalars: numpy warns when a scalar overflows, which is intended here.
"""

from typing import TypeVar

import numpy as np

Words = TypeVar("Words", np.ndarray, np.uint64)

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The increment of SplitMix64's state."""
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def mix64(state: Words) -> Words:
    """SplitMix64's output for each state, uint64 of any shape."""
    state = (state ^ (state >> S30)) * FIRST
    state = (state ^ (state >> S27)) * SECOND
    return state ^ (state >> S31)  # type: ignore[no-any-return]


def hash64(*keys: int | np.ndarray) -> np.ndarray:
    """Hash integers into uniform 64-bit values, elementwise over broadcast arrays, at least (1,) uint64."""
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = mix64(state + np.asarray(key).astype(np.uint64) + GOLDEN)
    return state


ROUNDS = 6


def shuffled_places(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """New positions (n,) int64 of the rows at positions `rows` (n,) int64 of `count`: a permutation."""
    half = next(bits for bits in range(1, 32) if 1 << 2 * bits >= count)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    places = np.empty(len(rows), np.int64)
    open_rows, values = np.arange(len(rows)), rows.astype(np.uint64)
    while len(values):
        left, right = values >> shift, values & mask
        for turn in range(ROUNDS):
            mixed = mix64(right + np.uint64(((turn + 1) * int(GOLDEN) + seed) % 2**64))
            left, right = right, left ^ (mixed & mask)
        values = (left << shift) | right
        inside = values < np.uint64(count)
        places[open_rows[inside]] = values[inside].astype(np.int64)
        open_rows, values = open_rows[~inside], values[~inside]
    return places
