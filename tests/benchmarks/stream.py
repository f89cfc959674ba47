"""`make bench-stream`: rows per second of random batches, out of core and in memory, compared with other libraries.

python -m tests.benchmarks.stream PEERS_PYTHON RESULT.json [KIND ...]
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.markdown import Markdown

from ..datasets import write_arrays, write_dataset
from .contenders import CONTENDERS
from .record import machine, write_section
from .rows import KINDS

HERE = Path(__file__).parent
PEERS = ("LitData", "MosaicML Streaming", "WebDataset")
SAMPLE_SECONDS = 1.0  # sampling all processes slows down the one that is measured
LIMIT_SECONDS = 300


def prepare(kind: str, folder: Path) -> None:
    """Write the rows of one kind in every format that a contender reads."""
    count, make = KINDS[kind]
    write_dataset(folder / "dataset", count, make)
    write_arrays(folder, count, make)
    os.sync()  # otherwise the first contenders compete with write-back for the disk


def run(name: str, folder: Path, peers_python: str) -> dict[str, Any]:
    """Run a contender in its own process. Returns its figures and the peak memory of its process tree."""
    python = peers_python if name.startswith(PEERS) else sys.executable
    if not Path(python).exists():
        return {"failed": "not installed"}
    command = [python, str(HERE / "contenders.py"), name, str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    peak, ended = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            peak = max(peak, tree_memory(process.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    family: list[psutil.Process] = []
    try:
        out, errors = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"timeout after {LIMIT_SECONDS} s"}
    finally:
        ended.set()
        sampler.join()
        family = [p for p in psutil.process_iter() if _group(p.pid) == process.pid]
        for member in family:
            member.kill()
    line = next((line for line in out.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        return {"failed": (errors.strip().splitlines() or ["no output"])[-1][:200]}
    figures: dict[str, Any] = json.loads(line.removeprefix("RESULT"))
    return {**figures, "peak_bytes": max(peak, figures["peak_bytes"])}


def _group(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def main(peers_python: str, result: Path, kinds: list[str]) -> None:
    console = Console(width=120)
    figures: dict[str, Any] = {"machine": machine(), "kinds": {}}
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="bench-stream-") as name:
            folder = Path(name)
            prepare(kind, folder)
            rows = np.load(folder / "x.npy", mmap_mode="r")
            of_kind: dict[str, Any] = {"rows": len(rows), "row_bytes": rows[0].nbytes, "contenders": {}}
            for contender in CONTENDERS:
                of_kind["contenders"][contender] = run(contender, folder, peers_python)
            figures["kinds"][kind] = of_kind
            console.print(Markdown("\n".join(lines(kind, of_kind))))
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(figures, indent=2) + "\n")
    if set(kinds) == set(KINDS):
        text = [line for kind, of_kind in figures["kinds"].items() for line in lines(kind, of_kind)]
        write_section("stream", [f"`make bench-stream` on {figures['machine']}.", "", *text])


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
    return [*table, ""]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:] or list(KINDS))
