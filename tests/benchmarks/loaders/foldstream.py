"""Foldstream, with the options of its stream."""

from collections.abc import Callable, Iterator
from typing import Any

import foldstream as fs

open_stream = fs.stream  # loads what it needs


def batches(source: str, size: int, **options: Any) -> Callable[[int], Iterator[Any]]:
    stream: Any = open_stream(source, batch_size=size, **options)
    return lambda epoch: iter(stream)
