"""The CRC-32C of a block, computed without holding the GIL.

google_crc32c is as fast, but other threads wait for the GIL meanwhile: for blocks that are stored uncompressed, a third
of the time in which a stream reads them. With the instruction that x86 processors have for it, three parts of the data
are processed at once, because a result takes three cycles, but another one may begin in each (Gopal et al., "Fast CRC
computation for iSCSI polynomial using CRC32 instruction", 2011). Other processors use google_crc32c.
"""

from functools import cache
from typing import Any

import google_crc32c
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..compiled import compiled

WORD = 8  # bytes that an instruction takes
PART = 1024 * WORD
"""Bytes of each of the three parts that are processed at once."""
LONG = 128 << 10  # bytes from which on it takes longer than calling compiled code
ONES = 0xFFFFFFFF  # what a CRC begins with, and is combined with at its end
SHIFTS = (0, 8, 16, 24)  # of the bytes of a register
HAS_INSTRUCTION = bool(binding.get_host_cpu_features().get("sse4.2"))


def crc32c(data: bytes | np.ndarray) -> int:
    """The CRC-32C of bytes or of an array (length,) uint8."""
    if len(data) < LONG or not HAS_INSTRUCTION:
        found: int = google_crc32c.value(data)
        return found
    return int(crc_at(np.frombuffer(data, np.uint8).ctypes.data, len(data), after_zeros()))


@cache
def after_zeros() -> np.ndarray:
    """What the four bytes of a register contribute to it once as many zeros as a part has bytes have followed, (4, 256)
    uint64. The register is linear: this is the exclusive or of all four."""
    zeros = bytes(PART)
    rows = [[google_crc32c.extend(value << shift ^ ONES, zeros) ^ ONES for value in range(256)] for shift in SHIFTS]
    return np.array(rows, np.uint64)


@intrinsic  # type: ignore[untyped-decorator]
def _next_word(_: Any, register: Any, address: Any) -> Any:
    """The register after the 8 bytes at an address."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        number = ir.IntType(64)
        kind, name = ir.FunctionType(number, [number, number]), "llvm.x86.sse42.crc32.64.64"
        word = builder.load(builder.inttoptr(arguments[1], number.as_pointer()), align=1)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [arguments[0], word])

    return types.uint64(types.uint64, types.intp), code


@intrinsic  # type: ignore[untyped-decorator]
def _next_byte(_: Any, register: Any, address: Any) -> Any:
    """The register after the byte at an address."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        number, byte = ir.IntType(32), ir.IntType(8)
        kind, name = ir.FunctionType(number, [number, byte]), "llvm.x86.sse42.crc32.32.8"
        value = builder.load(builder.inttoptr(arguments[1], byte.as_pointer()))
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [arguments[0], value])

    return types.uint32(types.uint32, types.intp), code


@compiled
def crc_at(address: int, length: int, after_zeros: np.ndarray) -> np.uint64:
    """The CRC-32C of `length` bytes at an address; `after_zeros` is that of this module."""
    register, end = np.uint64(ONES), address + length
    while end - address >= 3 * PART:
        one, two, three = register, np.uint64(0), np.uint64(0)
        for _ in range(PART // WORD):
            one = _next_word(one, address)
            two = _next_word(two, address + PART)
            three = _next_word(three, address + 2 * PART)
            address += WORD
        address += 2 * PART
        register = _moved(_moved(one, after_zeros) ^ two, after_zeros) ^ three
    while end - address >= WORD:
        register = _next_word(register, address)
        address += WORD
    while address < end:
        register = np.uint64(_next_byte(np.uint32(register), address))
        address += 1
    return register ^ np.uint64(ONES)


@compiled
def _moved(register: np.uint64, after_zeros: np.ndarray) -> np.uint64:
    """The register after as many zeros as a part has bytes."""
    found = np.uint64(0)
    for place in range(4):
        found ^= after_zeros[place, (register >> np.uint64(8 * place)) & np.uint64(255)]
    return found
