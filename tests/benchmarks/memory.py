"""`make bench-memory`: peak memory as the data grow tenfold, and speed with memory for a quarter of the data.

python -m tests.benchmarks.memory RESULT.json. The limit is set with a control group (version 1 or 2), which requires
root.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from ..datasets import write_dataset
from .rows import make_digits

SMALL, LARGE = 700_000, 7_000_000
EPOCHS = 5
MEMORY = "256MB"
HERE = Path(__file__).parent


def run(dataset: Path, group: Path | None = None) -> dict[str, Any]:
    """Stream a dataset in a separate process, in a control group if one is given."""

    def enter() -> None:
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, str(HERE / "epoch.py"), str(dataset), str(EPOCHS), MEMORY]
    done = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=enter)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@contextmanager
def limited(limit: int) -> Iterator[Path]:
    """A control group with a memory limit, which includes the page cache."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    old = next((path for _, controllers, path in lines if controllers == "memory"), None)
    parent = Path("/sys/fs/cgroup/memory" + old if old else "/sys/fs/cgroup" + lines[-1][2])
    group = parent / f"foldstream-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
        yield group
    finally:
        group.rmdir()


def main(result: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as name:
        small, large = Path(name, "small"), Path(name, "large")
        decoded = LARGE * 784
        write_dataset(small, SMALL, make_digits)
        write_dataset(large, LARGE, make_digits)
        rows = {"a tenth of the rows": (SMALL, run(small)), "all rows": (LARGE, run(large))}
        with limited(decoded // 4) as group:
            rows[f"all rows, limit {decoded / 4e6:,.0f} MB"] = LARGE, run(large, group)
    table = Table("", "decoded, MB", "rows/s", "peak, MB", title="memory")
    figures = {}
    for name, (count, one) in rows.items():
        rate = count / median(one["seconds"])
        figures[name] = {"rows": count, "rows_per_second": rate, **one}
        table.add_row(name, f"{count * 784 / 1e6:,.0f}", f"{rate:,.0f}", f"{one['peak_bytes'] / 1e6:,.0f}")
    Console(width=100).print(table)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
