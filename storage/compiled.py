"""Functions compiled by numba: the speed of C, and without the interpreter's lock.

Compiled code is kept beside its source or in the user's cache, so that only the first process of all waits for it.
"""

from collections.abc import Callable
from typing import TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function on its first call. Where no folder can be written, each process compiles for itself."""
    try:
        made: Function = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        made = njit(nogil=True)(function)
    return made
