"""Read, verify and decode a block of several arrays in one call of compiled code.

While one thread runs Python, others that come back from compiled code wait for the interpreter's lock, and with a call
for each step they come back often. The functions of C and of blosc are called by their addresses. Where they are not
found, or whenever something is wrong with a block, `reader.py` takes the steps one by one, and says what is wrong.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numcodecs import blosc

from ..compiled import call_pread, compiled, pread_address
from .checksum import HAS_INSTRUCTION, after_zeros, crc_at
from .shards import CHECKSUM_BYTES, COPIED, FLAGS_AT

LENGTH, CHECKSUM, ADDRESS, SIZE = range(4)
"""The columns of `parts`: bytes as stored, CRC-32C, and the memory for the decoded bytes; no memory for what is not
wanted."""


def read_parts(sources: np.ndarray, stored: np.ndarray, parts: np.ndarray) -> bool:
    """Read `stored`, (bytes,) uint8, from files, verify its `parts`, (parts, 4) int64, and decode those that are
    wanted. `sources`, (files, 3) int64, are the descriptors, and the offsets and numbers of bytes that are read. A part
    that is stored uncompressed stays where it is: its address becomes 0. Returns False if anything is wrong, or if this
    machine lacks what it takes."""
    functions = _functions()
    return functions is not None and _read_parts(*functions, sources, stored, parts, after_zeros())


@cache
def _functions() -> tuple[int, int] | None:
    """The addresses of `pread` and of blosc's function that decompresses in the calling thread, if they are found."""
    try:
        found = ctypes.CDLL(blosc.__file__).blosc_decompress_ctx
    except (AttributeError, OSError):  # not exported
        return None
    read, decompress = pread_address(), ctypes.cast(found, ctypes.c_void_p).value
    return (read, decompress) if read and decompress and HAS_INSTRUCTION else None


@compiled
def _read_parts(
    pread: int, decompress: int, sources: np.ndarray, stored: np.ndarray, parts: np.ndarray, after_zeros: np.ndarray
) -> bool:
    start = 0
    for source in range(len(sources)):
        descriptor, offset, length = sources[source]
        if call_pread(pread, descriptor, stored.ctypes.data + start, length, offset) != length:
            return False
        start += length
    start = 0
    for part in range(len(parts)):
        length, address, size = parts[part, LENGTH], parts[part, ADDRESS], parts[part, SIZE]
        if size:
            begin, end = stored.ctypes.data + start, start + length - CHECKSUM_BYTES
            written = np.int64(0)
            for place in range(CHECKSUM_BYTES):
                written |= np.int64(stored[end + place]) << (8 * place)
            if written != parts[part, CHECKSUM] or crc_at(begin, length - CHECKSUM_BYTES, after_zeros) != written:
                return False
            if stored[start + FLAGS_AT] & COPIED:
                parts[part, ADDRESS] = 0
            elif _call_decompress(decompress, begin, address, size) != size:
                return False
        start += length
    return True


@intrinsic  # type: ignore[untyped-decorator]
def _call_decompress(_: Any, function: Any, source: Any, target: Any, size: Any) -> Any:
    """Call `blosc_decompress_ctx`, which uses no other threads."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        number, word = ir.IntType(32), ir.IntType(64)
        called = builder.inttoptr(arguments[0], ir.FunctionType(number, [word, word, word, number]).as_pointer())
        return builder.sext(builder.call(called, [*arguments[1:], number(1)]), word)

    return types.intp(types.intp, types.intp, types.intp, types.intp), code
