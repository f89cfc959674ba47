"""Seeds and permutations as pure functions of integers; see `storage/random.py`."""

import numpy as np

from ..storage.random import GOLDEN, hash64
from .kernels import mixed, shuffled

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
