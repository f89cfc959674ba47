"""Randomness as a pure function of integers: the same on every machine, at any position, in any version of numpy."""

import numpy as np

from .kernels import shuffled

_MASK = (1 << 64) - 1


def hash64(*keys: int | np.ndarray) -> np.ndarray:
    """Mix integers into uniform 64-bit values, elementwise over broadcast arrays (SplitMix64, Steele et al. 2014)."""
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = state + np.asarray(key).astype(np.uint64)
        state += np.uint64(0x9E3779B97F4A7C15)
        state ^= state >> np.uint64(30)
        state *= np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(27)
        state *= np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def permutation(size: int, *keys: int) -> np.ndarray:
    """A random permutation of `size` items keyed by integers, (size,) int64."""
    return shuffled(size, hash64(*keys)[0])


def seed_of(*keys: int) -> int:
    """A seed for torch from integers: half of their `hash64`, in plain integers, because training asks every step."""
    state = 0
    for key in keys:
        state = (state + key + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1
