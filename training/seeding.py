"""Seeds and permutations as pure functions of integers, based on the hash in `storage/random.py`."""

import numpy as np

from ..storage.compiled import compiled
from ..storage.random import GOLDEN, mix64

mixed = compiled(mix64)


@compiled
def shuffled(size: int, key: np.uint64) -> np.ndarray:
    """A random permutation of `size` items (at most 2³²) for a 64-bit key, (size,) int64.

    The inside-out Fisher-Yates shuffle (Durstenfeld 1964) with random numbers from SplitMix64 (Steele et al. 2014),
    whose upper halves are scaled to the range by multiplication (Lemire 2019). It is implemented here because NumPy
    does not guarantee that `Generator.permutation` is stable across releases.
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


def key_of(*keys: int) -> np.uint64:
    """The `hash64` of integers."""
    return np.uint64(hashed(np.array([key & _MASK for key in keys], np.uint64)))


@compiled
def hashed(keys: np.ndarray) -> np.uint64:
    """The `hash64` of keys, (n,) uint64. Compiled, because streams call it for every window."""
    state = np.uint64(0)
    for key in keys:
        state = mixed(state + key + GOLDEN)
    return state


def permutation(size: int, *keys: int) -> np.ndarray:
    """A random permutation of `size` items keyed by integers, (size,) int64."""
    return shuffled(size, key_of(*keys))


def seed_of(*keys: int) -> int:
    """A seed for torch from integers: their `hash64` without its lowest bit."""
    return int(key_of(*keys)) >> 1
