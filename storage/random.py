"""Random numbers as a pure function of integers: the same on every machine, at any position, in any version of numpy.

They are those of SplitMix64 (Steele, Lea and Flood, 2014). The functions take arrays as they are, and single numbers
once compiled: numpy warns where a single number overflows, as it must here.
"""

from typing import TypeVar

import numpy as np

Words = TypeVar("Words", np.ndarray, np.uint64)

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""What SplitMix64 adds to its state for each number."""
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def mix64(state: Words) -> Words:
    """SplitMix64's number for each state, uint64 of any shape."""
    state = (state ^ (state >> S30)) * FIRST
    state = (state ^ (state >> S27)) * SECOND
    return state ^ (state >> S31)  # type: ignore[no-any-return]


def hash64(*keys: int | np.ndarray) -> np.ndarray:
    """Mix integers into uniform 64-bit values, elementwise over broadcast arrays, at least (1,) uint64."""
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = mix64(state + np.asarray(key).astype(np.uint64) + GOLDEN)
    return state
