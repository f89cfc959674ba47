"""`make bench-stream`: rows per second of random batches, out of core and in memory, compared with other libraries.

python -m tests.benchmarks.stream PEERS_PYTHON RESULT.json [KIND ...]. Rows from disk and rows in memory take turns,
TURNS times: the speed of a shared machine doubles and halves within minutes, that of its memory more than that of its
processors.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from ..datasets import write_arrays, write_dataset
from .alone import run_alone
from .contenders import CONTENDERS
from .record import machine, write_section
from .rows import KINDS

PEERS = ("LitData", "MosaicML Streaming", "WebDataset", "Lance")
FROM_DISK, REOPENED = "Foldstream, all from disk", "Foldstream, all from disk, opened for each epoch"
IN_MEMORY = "RAM, index_select"
IN_TURNS, TURNS = (FROM_DISK, REOPENED, IN_MEMORY), 5


def prepare(kind: str, folder: Path) -> None:
    """Write the rows of one kind in every format that a contender reads."""
    count, make = KINDS[kind]
    write_dataset(folder / "dataset", count, make)
    write_arrays(folder, count, make)
    os.sync()  # otherwise the first contenders compete with write-back for the disk


def run(name: str, folder: Path, peers_python: str) -> dict[str, Any]:
    """The figures of a contender."""
    python = peers_python if name.startswith(PEERS) else sys.executable
    return run_alone([python, "-m", "tests.benchmarks.contenders", name, str(folder)])


def main(peers_python: str, result: Path, kinds: list[str]) -> None:
    console = Console(width=120)
    figures: dict[str, Any] = {"machine": machine(), "kinds": {}}
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="bench-stream-") as name:
            folder = Path(name)
            prepare(kind, folder)
            rows = np.load(folder / "x.npy", mmap_mode="r")
            of_kind: dict[str, Any] = {"rows": len(rows), "row_bytes": rows[0].nbytes}
            of_kind["turns"] = [{name: run(name, folder, peers_python) for name in IN_TURNS} for _ in range(TURNS)]
            of_kind["contenders"] = {
                name: in_turns(of_kind["turns"], name) if name in IN_TURNS else run(name, folder, peers_python)
                for name in CONTENDERS
            }
            figures["kinds"][kind] = of_kind
            console.print(Markdown("\n".join(lines(kind, of_kind))))
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(figures, indent=2) + "\n")
    if set(kinds) == set(KINDS):
        text = [line for kind, of_kind in figures["kinds"].items() for line in lines(kind, of_kind)]
        write_section("stream", [f"`make bench-stream` on {figures['machine']}.", "", *text])


def in_turns(turns: list[dict[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    """The figures of a contender in all turns together: rates of all epochs, and the medians of the others."""
    taken = [turn[name] for turn in turns]
    rates = [rate for one in taken for rate in one["rows_per_second"]]
    return {key: rates if key == "rows_per_second" else median(one[key] for one in taken) for key in taken[0]}


def ratio(turns: list[dict[str, dict[str, Any]]], name: str, other: str) -> float:
    """How many times as fast a contender is as another one: the median of the turns."""
    rates = ([median(turn[one]["rows_per_second"]) for turn in turns] for one in (name, other))
    return float(median(own / its for own, its in zip(*rates, strict=True)))


def lines(kind: str, of_kind: dict[str, Any]) -> list[str]:
    """The table of one kind of rows as Markdown."""
    size = f"{of_kind['rows']:,} rows of {of_kind['row_bytes']:,} bytes"
    header = "| loader | rows/s | MB/s | first batch, s | peak, MB | Foldstream is |"
    table = [f"**{kind}**, {size}:", "", header, "|---|---:|---:|---:|---:|---:|"]
    own = median(of_kind["contenders"]["Foldstream"]["rows_per_second"])
    for name, one in of_kind["contenders"].items():
        if "failed" in one:
            table.append(f"| {name} | {one['failed']} | | | | |")
            continue
        rate = median(one["rows_per_second"])
        speed = f"{rate:,.0f} | {rate * of_kind['row_bytes'] / 1e6:,.0f} | {one['first_batch_seconds']:.3f}"
        table.append(f"| {name} | {speed} | {one['peak_bytes'] / 1e6:,.0f} | {own / rate:,.2f} × |")
    from_disk, reopened = (ratio(of_kind["turns"], *pair) for pair in ((FROM_DISK, IN_MEMORY), (REOPENED, FROM_DISK)))
    text = f"All from disk, in {TURNS} turns: {from_disk:.2f} of `index_select`, and opened for each epoch, "
    text += f"{reopened:.2f} of that."
    return [*table, "", text, ""]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:] or list(KINDS))
