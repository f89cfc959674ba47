"""`make bench-order`: time and memory to compute the order of a billion rows, at the start and mid-epoch.

python -m tests.benchmarks.order RESULT.json
"""

import json
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from foldstream.training.stream.loads import schedule_loads
from foldstream.training.stream.order import EpochOrder
from rich.console import Console
from rich.table import Table

BLOCKS, BLOCK_ROWS = 500_000, 2_000
LOADS = 100
TIMES = 5


def begin(part: float) -> None:
    """Compute an epoch's order and the first loads from a fraction of it on, like a stream that resumes there."""
    sizes = np.full(BLOCKS, BLOCK_ROWS)
    order = EpochOrder(sizes, sizes * 4 // 5, lanes=8, window=8, batch_size=256, seed=0, epoch=3)
    for load in islice(schedule_loads(order, range(8), int(order.steps * part)), LOADS):
        order.window_blocks(load.part.lane, load.part.window)


def main(result: Path) -> None:
    figures = {}
    table = Table("from", "seconds", "peak, MB", title=f"{BLOCKS * BLOCK_ROWS:,} rows in {BLOCKS:,} blocks")
    for name, part in (("the start", 0.0), ("the middle", 0.5)):
        seconds = []
        for _ in range(TIMES):
            started = perf_counter()
            begin(part)
            seconds.append(perf_counter() - started)
        tracemalloc.start()
        begin(part)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        figures[name] = {"seconds": seconds, "peak_bytes": peak}
        table.add_row(name, f"{median(seconds):.3f}", f"{peak / 1e6:,.0f}")
    Console(width=100).print(table)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
