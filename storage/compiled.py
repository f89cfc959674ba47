"""Functions compiled by numba: as fast as C, and without the global interpreter lock (GIL).

Compiled code is cached next to its source or in the user's cache, so that only the very first process compiles it.
"""

from collections.abc import Callable
from typing import TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function on its first call. If no cache folder is writable, each process compiles its own copy."""
    try:
        made: Function = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        made = njit(nogil=True)(function)
    return made
