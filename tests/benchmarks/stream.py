"""`make bench-stream`: rows per second of random batches, out of core and in memory, compared with other libraries.

python -m tests.benchmarks.stream PEERS_PYTHON RESULT.json [KIND ...]. With some kinds, the others keep their figures.
Rows from disk and rows in memory take turns, TURNS times, and so do the epochs of one stream and of new ones: the speed
of a shared machine doubles and halves within minutes, that of its memory more than that of its processors.
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
from .contenders import CONTENDERS, REOPENED
from .record import machine, write_section
from .rows import KINDS

PEERS = ("LitData", "MosaicML Streaming", "WebDataset", "Lance")
FROM_DISK, IN_MEMORY = "Foldstream, all from disk", "RAM, index_select"
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
    known = json.loads(result.read_text())["kinds"] if result.exists() else {}
    figures: dict[str, Any] = {"machine": machine(), "kinds": {kind: known[kind] for kind in KINDS if kind in known}}
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
    if set(figures["kinds"]) == set(KINDS):
        text = [line for kind in KINDS for line in lines(kind, figures["kinds"][kind])]
        write_section("stream", [f"`make bench-stream` on {figures['machine']}.", "", *text])


def in_turns(turns: list[dict[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    """The figures of a contender in all turns together: rates of all epochs, and the medians of the others."""
    taken = [turn[name] for turn in turns]

    def together(key: str) -> Any:
        values = [one[key] for one in taken]
        return [rate for rates in values for rate in rates] if isinstance(values[0], list) else median(values)

    return {key: together(key) for key in taken[0]}


def times_as_fast(ours: list[list[float]], others: list[list[float]]) -> float:
    """How many times as fast, given the rates of each turn: the median of the turns."""
    return float(median(median(own) / median(its) for own, its in zip(ours, others, strict=True)))


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
        peak = "" if name == REOPENED else f"{one['peak_bytes'] / 1e6:,.0f}"  # it has two streams, to compare them
        speed = f"{rate:,.0f} | {rate * of_kind['row_bytes'] / 1e6:,.0f} | {one['first_batch_seconds']:.3f}"
        table.append(f"| {name} | {speed} | {peak} | {own / rate:,.2f} × |")
    rates = {name: [turn[name]["rows_per_second"] for turn in of_kind["turns"]] for name in IN_TURNS}
    from_disk = times_as_fast(rates[FROM_DISK], rates[IN_MEMORY])
    reopened = times_as_fast(rates[REOPENED], [turn[REOPENED]["one_object"] for turn in of_kind["turns"]])
    text = f"All from disk, in {TURNS} turns: {from_disk:.2f} of `index_select`, and opened for each epoch, "
    text += f"{reopened:.2f} of that."
    return [*table, "", text, ""]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:] or list(KINDS))
