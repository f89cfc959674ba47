"""Seeds and permutations as pure functions of integers; see `storage/random.py`."""

import numpy as np

from ..storage.compiled import compiled
from ..storage.random import GOLDEN, hash64, mix64

mixed = compiled(mix64)


@compiled
def shuffled(size: int, key: np.uint64) -> np.ndarray:
    """A random permutation of `size` items, at most 2³², keyed by 64 bits, (size,) int64.

    Fisher and Yates' shuffle, inside out (Durstenfeld 1964), by the numbers of SplitMix64 (Steele et al. 2014), each
    scaled by its upper half (Lemire 2019). Written out, because numpy does not promise that `Generator.permutation`
    stays the same from release to release.
    """
    order = np.empty(size, np.int64)
    state = key
    for i in range(size):
        state += GOLDEN
        number = mixed(state)
        j = np.int64(((number >> np.uint64(32)) * np.uint64(i + 1)) >> np.uint64(32))
        order[i] = order[j]
        order[j] = i
    return order


_MASK = (1 << 64) - 1


def permutation(size: int, *keys: int) -> np.ndarray:
    """A random permutation of `size` items keyed by integers, (size,) int64."""
    return shuffled(size, hash64(*keys)[0])


def seed_of(*keys: int) -> int:
    """A seed for torch from integers: half of their `hash64`, compiled, because training asks every step."""
    state = 0
    for key in keys:
        state = int(mixed(np.uint64((state + key + int(GOLDEN)) & _MASK)))
    return state >> 1
