"""Structures in the compact protocol of Apache Thrift, in which Parquet files describe their pages.

Source: the specification "Thrift compact protocol encoding".
"""

from typing import Any

TRUE, FALSE, BYTE, DOUBLE, BINARY, STRUCT = 1, 2, 3, 7, 8, 12
INTEGERS = (4, 5, 6)
DEEPEST = 8  # structures in one another
LONGEST_SHIFT = 56  # of the last seven bits of an integer, so that it has 63 at most


def read_struct(data: bytes | memoryview, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of the structure at the byte `at`, by their numbers, and where it ends. Raises ValueError for bytes
    that are none, and IndexError where they end too early."""
    fields, number = dict[int, Any](), 0
    while header := data[at]:
        kind, step = header & 15, header >> 4
        at += 1
        if step:
            number += step
        else:
            number, at = _integer(data, at)
        if kind in (TRUE, FALSE):
            fields[number] = kind == TRUE
        else:
            fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def integers(fields: Any, *numbers: int) -> list[int]:
    """The fields of a structure that have these numbers. Raises ValueError for what is no structure, and for fields
    that are missing, or are neither integers nor truth values."""
    known = fields if isinstance(fields, dict) else {}
    found = [known[number] for number in numbers if isinstance(known.get(number), int)]
    if len(found) != len(numbers):
        raise ValueError(f"not all fields {numbers} are integers")
    return found


def _value(data: bytes | memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of a kind, and where it ends."""
    if kind in INTEGERS:
        return _integer(data, at)
    if kind == BINARY:
        length, at = _varint(data, at)
        return data[at : at + length], at + length
    if kind == STRUCT and depth < DEEPEST:
        return read_struct(data, at, depth + 1)
    if kind in (BYTE, DOUBLE):
        size = 1 if kind == BYTE else 8
        return data[at : at + size], at + size
    raise ValueError(f"values of type {kind} are not expected at byte {at:,}")


def _integer(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A signed integer, whose lowest bit is its sign."""
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[at]) >= 128:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > LONGEST_SHIFT:
            raise ValueError(f"the integer at byte {at:,} does not end")
    return value | byte << shift, at + 1
