"""`make bench-sample`: the stream with `--sample balanced` against the stream without.

python -m tests.benchmarks.sample RESULT.json
"""

import json
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import foldstream as fs
from foldstream.storage.dataset import Dataset
from rich.console import Console
from rich.table import Table

from ..datasets import write_dataset
from .rows import make_digits

ROWS, ROUNDS, BATCH = 300_000, 8, 256
CASES: dict[str, dict[str, Any]] = {
    "every block decoded in each epoch": {"memory": "120MB"},
    "every block decoded in each epoch, four of five folds": {"memory": "120MB", "fold": 0},
    "all blocks decoded in memory": {"memory": "1GB"},
    "all blocks decoded in memory, four of five folds": {"memory": "1GB", "fold": 0},
}
"""`memory` below and above what the dataset takes, 240 MB."""


def seconds(dataset: Dataset, **options: Any) -> list[float]:
    """The seconds of an epoch without and with sampling, which take turns: medians."""
    streams = [fs.stream(dataset, batch_size=BATCH, sample=sample, **options) for sample in ((), "balanced")]
    spent: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for stream, of_stream in zip(streams, spent, strict=True):
            started = perf_counter()
            for _ in stream:
                pass
            of_stream.append(perf_counter() - started)
    return [median(of_stream[1:]) for of_stream in spent]  # the first epoch loads compiled code


def main(result: Path) -> None:
    result.parent.mkdir(parents=True, exist_ok=True)
    figures = {}
    table = Table("stream", "rows/s", "sampled, rows/s", "sampled is", title=f"{ROWS:,} digits")
    with TemporaryDirectory(dir=result.parent) as folder:
        dataset = write_dataset(Path(folder) / "digits.zarr", ROWS, make_digits)
        for name, options in CASES.items():
            plain, sampled = seconds(dataset, threads=2, **options)
            figures[name] = {"plain": plain, "sampled": sampled}
            rows = ROWS * (0.8 if "fold" in options else 1)
            table.add_row(name, f"{rows / plain:,.0f}", f"{rows / sampled:,.0f}", f"{plain / sampled:.2f} ×")
    Console(width=120).print(table)
    result.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
