"""`make bench-accelerators`: how many accelerators one core keeps busy. They are emulated: they sleep as long as a step
takes.

python -m tests.benchmarks.accelerators PEERS_PYTHON RESULT.json [LOAD ...]. The number of accelerators grows up to
eight, or until one of them is busy for less than 90 % of the time, the limit of MLPerf Storage. All of it runs on one
core.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from ..datasets import MakeRows, write_arrays, write_dataset
from ..gpu.loads import noise
from .accelerator import LOADERS
from .record import machine, write_section

BUSY = 0.9
MOST = 8  # as many as a node has
OWN = "Foldstream", "DataLoader"
"""Loaders that run in this environment, not in the peers'."""


@dataclass(frozen=True)
class Emulated:
    """A model on an H100, by the step that MLPerf Storage publishes: `batch` samples in `seconds`."""

    rows: int
    make: MakeRows
    batch: int
    seconds: float


LOADS = {
    "ResNet-50": Emulated(8_000, noise(3, 224, 224), 400, 0.224),
    "3D U-Net": Emulated(600, noise(1, 128, 128, 128), 7, 0.323),
}


def prepare(load: Emulated, folder: Path, peers_python: str) -> None:
    """Write the rows in the format of each loader."""
    write_dataset(folder / "dataset", load.rows, load.make)
    write_arrays(folder, load.rows, load.make)
    for loader, *options in (["litdata", "tensors"], ["lance"]):
        command = [peers_python, "-m", "tests.benchmarks.peer_files", loader, str(folder), str(folder / loader)]
        subprocess.run([*command, *options], check=True, capture_output=True)
    os.sync()


def utilization(loader: str, folder: Path, load: Emulated, accelerators: int, peers_python: str) -> float:
    """The share of the time in which the least busy of some accelerators is busy, when one core serves all."""
    python = sys.executable if loader in OWN else peers_python
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", core, python, "-m", "tests.benchmarks.accelerator", loader, str(folder)]
    fixed = str(accelerators), str(load.batch), str(load.seconds)
    with ExitStack() as stack:
        ranks = []
        for rank in range(accelerators):
            process = subprocess.Popen(
                [*command, str(rank), *fixed],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            ranks.append(process)
        for process in ranks:
            await_line(process, "READY")
        for process in ranks:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [json.loads(await_line(process, "RESULT")) for process in ranks]
    return min(load.seconds * float(one["steps"]) / float(one["seconds"]) for one in results)


def await_line(process: subprocess.Popen[str], sign: str) -> str:
    """The rest of the next line that begins with a sign."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(sign):
            return line.removeprefix(sign)
    raise RuntimeError(f"{process.args!r} ended early")


def measure(loader: str, folder: Path, load: Emulated, peers_python: str) -> list[float]:
    """The utilization with one accelerator, with two, and so on."""
    found: list[float] = []
    for accelerators in range(1, MOST + 1):
        found.append(utilization(loader, folder, load, accelerators, peers_python))
        if found[-1] < BUSY:
            break
    return found


def main(peers_python: str, result: Path, names: list[str]) -> None:
    console = Console(width=120)
    figures: dict[str, Any] = {"machine": machine(), "loads": {}}
    for name in names:
        load = LOADS[name]
        with tempfile.TemporaryDirectory(prefix="bench-accelerators-") as folder:
            prepare(load, Path(folder), peers_python)
            found = {loader: measure(loader, Path(folder), load, peers_python) for loader in LOADERS}
        figures["loads"][name] = found
        console.print(Markdown("\n".join(lines(name, found))))
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(figures, indent=2) + "\n")
    if set(names) == set(LOADS):
        text = [line for name, found in figures["loads"].items() for line in lines(name, found)]
        write_section("accelerators", [f"`make bench-accelerators` on one core of {figures['machine']}.", "", *text])


def lines(name: str, found: dict[str, list[float]]) -> list[str]:
    """The table of one load as Markdown."""
    load = LOADS[name]
    table = [f"**{name}**, {load.batch} samples in {load.seconds} s:", ""]
    table += ["| loader | accelerators at 90 % or more | utilization with 1, 2, … |", "|---|---:|---|"]
    for loader, busy in found.items():
        table.append(f"| {loader} | {sum(one >= BUSY for one in busy)} | {', '.join(f'{one:.0%}' for one in busy)} |")
    return [*table, ""]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:] or list(LOADS))
