"""Functions compiled by numba: as fast as C, and without the global interpreter lock (GIL).

Compiled code is cached next to its source or in the user's cache, so that only the very first process compiles it.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function on its first call. If no cache folder is writable, each process compiles its own copy."""
    try:
        made: Function = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        made = njit(nogil=True)(function)
    return made


def load_numba() -> None:
    """Load what numba needs before it runs a first function, half a second, which the first batch would wait for."""
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


@cache
def pread_address() -> int | None:
    """The address of C's `pread`, if it is found."""
    try:
        return ctypes.cast(ctypes.CDLL(None).pread, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):  # not Unix
        return None


@intrinsic  # type: ignore[untyped-decorator]
def call_pread(_: Any, function: Any, descriptor: Any, memory: Any, length: Any, offset: Any) -> Any:
    """Call C's `pread`, which is at the address `function`: read `length` bytes of a file to the address `memory`.
    Returns the number of bytes read."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        number, word = ir.IntType(32), ir.IntType(64)
        called = builder.inttoptr(arguments[0], ir.FunctionType(word, [number, word, word, word]).as_pointer())
        return builder.call(called, [builder.trunc(arguments[1], number), *arguments[2:]])

    return types.intp(types.intp, types.intp, types.intp, types.intp, types.intp), code


@intrinsic  # type: ignore[untyped-decorator]
def copy_past_caches(_: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy `count` times 16 bytes from the address `source` to the address `target`, a multiple of 16, by non-temporal
    stores: an ordinary store first reads the line that it overwrites, and replaces others in the caches.

    Before another thread reads the bytes, `finish_copies` must be called.
    """

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        unit = ir.VectorType(ir.IntType(8), 16).as_pointer()
        to, start = (builder.inttoptr(address, unit) for address in arguments[:2])
        with cgutils.for_range(builder, arguments[2]) as loop:
            loaded = builder.load(builder.gep(start, [loop.index]), align=1)
            stored = builder.store(loaded, builder.gep(to, [loop.index]), align=16)
            stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), code


@intrinsic  # type: ignore[untyped-decorator]
def copy_words(_: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy `count` times 8 bytes from the address `source` to the address `target`, either of which may be any."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        to, start = (builder.inttoptr(address, ir.IntType(64).as_pointer()) for address in arguments[:2])
        with cgutils.for_range(builder, arguments[2]) as loop:
            loaded = builder.load(builder.gep(start, [loop.index]), align=1)
            builder.store(loaded, builder.gep(to, [loop.index]), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), code


@intrinsic  # type: ignore[untyped-decorator]
def copy_sixteen(_: Any, target: Any, source: Any) -> Any:
    """Copy 16 bytes from the address `source` to the address `target`; all are read before any is written."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        unit = ir.VectorType(ir.IntType(8), 16).as_pointer()
        to, start = (builder.inttoptr(address, unit) for address in arguments)
        builder.store(builder.load(start, align=1), to, align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), code


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_: Any, address: Any) -> Any:
    """Start to read the cache line at an address, which is needed soon."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        called = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        to_read, keep, data = number(0), number(3), number(1)
        builder.call(called, [builder.inttoptr(arguments[0], pointer), to_read, keep, data])
        return context.get_dummy_value()

    return types.void(types.intp), code


@intrinsic  # type: ignore[untyped-decorator]
def finish_copies(_: Any) -> Any:
    """Make what was copied by `copy_past_caches` visible to other threads."""

    def code(context: Any, builder: Any, *_: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code
