"""`make bench-remote`: shuffled batches from an object store behind a slow link, compared with other libraries.

python -m tests.benchmarks.remote PEERS_PYTHON RESULT.json [CASE ...]. A case is a link, or a contender beside
Foldstream: where some are named, the others are left out. The link delays each request, bounds the rate of all answers
together, and counts. A first round of all fills the memory from which the link answers: the server would take one of
two processors from the loaders. The others, slower by more than ten times, then run once, and Foldstream ROUNDS times,
of which the medians count. What the peers read is kept beside the result for later runs.
"""

import json
import os
import subprocess
import sys
import tempfile
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

from foldstream.storage.dataset import open_dataset
from rich.console import Console
from rich.markdown import Markdown

from ..datasets import write_arrays, write_dataset
from ..object_store import object_server
from ..slow_link import slow_link
from .alone import run_alone
from .record import machine, write_section
from .remote_contenders import CONTENDERS
from .rows import make_digits

ROUNDS = int(os.environ.get("ROUNDS", "3"))
LIMIT = 90
"""Seconds after which a contender has failed."""
OWN, *PEERS = CONTENDERS
ROWS = 600_000
RATE = 100_000_000
LINKS = {
    f"{latency} ms, {'100 MB/s' if rate else 'not paced'}": (latency / 1000, rate)
    for latency in (1, 30, 100)
    for rate in (RATE, 0)
}
"""Seconds that each request is delayed, and bytes per second, of which 0 is no bound."""
HEADER = "| loader | rows/s | MB/s | of the rows | GETs | HEADs | open, s | first batch, s | peak, MB | Foldstream is |"


def prepare(loaders: set[str], folder: Path, kept: Path, peers_python: str) -> dict[str, Path]:
    """Write the rows in the format of each loader, the peers' compressed. Returns the folder of each."""
    write_arrays(folder, ROWS, make_digits)
    files = {loader: kept / loader for loader in loaders}
    writers = []
    for loader, out in files.items():
        if loader == "foldstream":
            files[loader] = write_dataset(folder / loader, ROWS, make_digits).root
        elif not out.exists():
            command = ["tests.benchmarks.peer_files", loader, str(folder), str(out), "compressed"]
            writers.append(subprocess.Popen([peers_python, "-m", *command]))
    for writer in writers:
        if writer.wait():
            raise SystemExit(f"{writer.args!r} failed")
    return files


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(name: str, source: str, link: str, peers_python: str) -> dict[str, Any]:
    """The figures of a contender. What it keeps in files is removed."""
    python = sys.executable if name == OWN else peers_python
    with tempfile.TemporaryDirectory(prefix="bench-remote-") as kept:
        environment = {**os.environ, "AWS_ENDPOINT_URL": link, "S3_ENDPOINT_URL": link, "TMPDIR": kept}
        return run_alone([python, "-m", "tests.benchmarks.remote_contenders", name, source, link], environment, LIMIT)


def medians(rounds: list[Any]) -> Any:
    """The median of each figure, in figures of the same structure."""
    if isinstance(rounds[0], dict):
        return {key: medians([one.get(key, 0) for one in rounds]) for key in rounds[0]}
    if isinstance(rounds[0], list):
        return [medians(list(each)) for each in zip(*rounds, strict=True)]
    return median(rounds)


def main(peers_python: str, result: Path, cases: list[str]) -> None:
    links = [link for link in LINKS if link in cases] or list(LINKS)
    peers = [name for name in PEERS if name in cases] or ([] if OWN in cases else PEERS)
    figures: dict[str, Any] = {"machine": machine(), "rounds": ROUNDS, "links": {}}
    with tempfile.TemporaryDirectory(prefix="bench-remote-") as folder, object_server() as server:
        loaders = {CONTENDERS[name].loader for name in (OWN, *peers)}
        files = prepare(loaders, Path(folder), result.with_suffix(""), peers_python)
        sources = {loader: server.upload(path, loader) for loader, path in files.items()}
        figures["stored_bytes"] = {loader: size_of(path) for loader, path in files.items()}
        figures["blocks"] = open_dataset(files["foldstream"]).layout.blocks
        for link in links:
            rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in (OWN, *peers)}
            with slow_link(server.port, *LINKS[link], keep=True) as address:
                for name in [*rounds, *rounds, *[OWN] * (ROUNDS - 1)]:
                    rounds[name].append(run(name, sources[CONTENDERS[name].loader], address, peers_python))
            rounds = {name: taken[1:] for name, taken in rounds.items()}
            figures["links"][link] = rounds
            Console(width=140).print(Markdown("\n".join(lines(link, rounds))))
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(figures, indent=2) + "\n")
    if not cases:
        text = [line for link, rounds in figures["links"].items() for line in lines(link, rounds)]
        write_section("remote", [*about(figures), "", *text])


def about(figures: dict[str, Any]) -> list[str]:
    """The machine, and how much the rows take in each format."""
    stored = ", ".join(f"{loader} {size / 1e6:,.0f} MB" for loader, size in sorted(figures["stored_bytes"].items()))
    return [
        f"`make bench-remote` on {figures['machine']}. Foldstream's figures are medians of {figures['rounds']}.",
        f"The rows as stored: {stored}. Foldstream's are in {figures['blocks']} blocks.",
    ]


def lines(link: str, rounds: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The table of one link as Markdown: first epoch / second epoch."""
    table = [f"**{link}**:", "", HEADER, "|---|" + "---:|" * HEADER.count(" | ")]
    complete = {name: [one for one in found if "failed" not in one] for name, found in rounds.items()}
    own = rates(medians(complete[OWN])) if complete[OWN] else [nan, nan]
    for name, found in complete.items():
        if found:
            table.append(f"| {name} | " + " | ".join(" / ".join(cell) for cell in cells(medians(found), own)) + " |")
        else:
            table.append(f"| {name} | {rounds[name][0]['failed']} |" + " |" * (HEADER.count(" | ") - 1))
    return [*table, ""]


def rates(figures: dict[str, Any]) -> list[float]:
    """The rows per second of each epoch."""
    return [epoch["rows"] / epoch["seconds"] for epoch in figures["epochs"]]


def cells(figures: dict[str, Any], own: list[float]) -> list[list[str]]:
    """The cells of a contender, each with its value in both epochs, or with one."""
    epochs = figures["epochs"]
    return [
        [f"{rate:,.0f}" for rate in rates(figures)],
        [f"{epoch['bytes'] / epoch['seconds'] / 1e6:.1f}" for epoch in epochs],
        [f"{epoch['rows'] / ROWS:.0%}" for epoch in epochs],
        [f"{epoch['GET']:.0f}" for epoch in epochs],
        [f"{epoch['HEAD']:.0f}" for epoch in epochs],
        [f"{figures['opened']['seconds']:.2f}"],
        [f"{epoch['first']:.2f}" for epoch in epochs],
        [f"{figures['peak_bytes'] / 1e6:,.0f}"],
        [f"{ours / rate:,.1f} ×" for ours, rate in zip(own, rates(figures), strict=True)],
    ]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
