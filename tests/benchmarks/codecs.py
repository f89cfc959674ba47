"""`make bench-codecs`: compression ratio and single-threaded speed of codecs on blocks of each kind of rows.

python -m tests.benchmarks.codecs RESULT.json
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numcodecs
import numpy as np
from foldstream.storage.format.layout import BLOCK_BYTES
from numcodecs import blosc
from rich.console import Console
from rich.table import Table

from .rows import KINDS

TIMES = 9
BLOCKS = 8  # processed in turn, so that none stays in the CPU cache


def codecs(itemsize: int) -> dict[str, Any]:
    shuffle = blosc.NOSHUFFLE if itemsize == 1 else blosc.SHUFFLE
    by_blosc = {
        f"blosc {name} {level}": numcodecs.Blosc(cname=name, clevel=level, shuffle=shuffle)
        for name, level in (("lz4", 1), ("lz4", 5), ("lz4", 9), ("lz4hc", 5), ("blosclz", 5), ("zstd", 1))
    }
    others = {"lz4 1": numcodecs.LZ4(1), "zstd 1": numcodecs.Zstd(1), "zstd -5": numcodecs.Zstd(-5)}
    return {"stored": numcodecs.Blosc(clevel=0), **by_blosc, **others}


def seconds(work: Callable[[Any], Any], blocks: list[Any]) -> float:
    """Seconds per block, the median of several rounds."""
    times = []
    for _ in range(TIMES):
        started = perf_counter()
        for block in blocks:
            work(block)
        times.append((perf_counter() - started) / len(blocks))
    return median(times)


def main(result: Path) -> None:
    blosc.use_threads = False
    figures: dict[str, dict[str, list[float]]] = {}
    for kind, (_, make) in KINDS.items():
        rows = max(1, BLOCK_BYTES // make(0, 1)[0].nbytes)
        blocks = [np.ascontiguousarray(make(first * rows, (first + 1) * rows)[0]) for first in range(BLOCKS)]
        size, out = blocks[0].nbytes, np.empty_like(blocks[0])
        table = Table("", "ratio", "encode, MB/s", "decode, MB/s", title=kind)
        figures[kind] = {}
        for name, codec in codecs(blocks[0].itemsize).items():
            packed = [codec.encode(block) for block in blocks]
            ratio = size * BLOCKS / sum(map(len, packed))
            encode = size / seconds(codec.encode, blocks) / 1e6
            decode = size / seconds(partial(codec.decode, out=out), packed) / 1e6
            figures[kind][name] = [ratio, encode, decode]
            table.add_row(name, f"{ratio:.2f}", f"{encode:,.0f}", f"{decode:,.0f}")
        Console(width=100).print(table)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
