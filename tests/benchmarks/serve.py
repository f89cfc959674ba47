"""The latency and the throughput of `foldstream serve`, for a table of numbers and categories.

    .venv/bin/python -m tests.benchmarks.serve

One client sends single rows one after another; then many clients send them at once; then one
client sends many rows at once. The clients are in another process on the same machine, so they share its cores; the
server's own CPU time is shown, too, because it depends less on what else runs.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from subprocess import PIPE, Popen
from time import perf_counter

import foldstream as fs
import numpy as np
import pandas as pd
import psutil

ROWS, SINGLE, CLIENTS, EACH, MANY = 5_000, 500, 32, 40, 1_000


def make_run(root: Path) -> Path:
    """A run of five folds on a table of 20 numbers and 5 categories."""
    draws = np.random.default_rng(0)
    table = pd.DataFrame(draws.normal(size=(ROWS, 20)).round(4), columns=[f"n{at}" for at in range(20)])
    for at in range(5):
        table[f"c{at}"] = draws.choice([f"v{value}" for value in range(30)], ROWS)
    table["y"] = np.where(table["n0"] > 0, "yes", "no")
    table.to_csv(root / "table.csv", index=False)
    fs.convert_csv(root / "table.csv", root / "table.zarr", label="y")
    fs.train(root / "table.zarr", root / "run", model="mlp", epochs=1)
    table.drop(columns="y").to_json(root / "rows.json", orient="records")
    return root / "run"


def times(address: str, bodies: list[bytes]) -> Iterator[float]:
    """The seconds of each request on one connection."""
    connection = HTTPConnection(address)
    for body in bodies:
        began = perf_counter()
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        yield perf_counter() - began
    connection.close()


def measure(server: psutil.Process, address: str, clients: list[list[bytes]], rows: int) -> None:
    """Print the figures of clients that send their requests one after another, each with so many rows."""
    before, began = server.cpu_times(), perf_counter()
    with ThreadPoolExecutor(len(clients)) as threads:
        found = [one for part in threads.map(lambda bodies: list(times(address, bodies)), clients) for one in part]
    wall, after = perf_counter() - began, server.cpu_times()
    cpu = 1000 * (after.user + after.system - before.user - before.system) / len(found)
    p50, p99 = 1000 * np.percentile(found, [50, 99])
    print(f"| {len(clients)} | {rows:,} | {p50:.1f} | {p99:.1f} | {cpu:.1f} | {rows * len(found) / wall:,.0f} |")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        rows = json.loads((run.parent / "rows.json").read_text())
        command = [sys.executable, "-m", "foldstream.cli", "--json", "serve", str(run), "--port", "0"]
        began = perf_counter()
        with Popen(command, stdout=PIPE, text=True) as process:
            assert process.stdout
            address = json.loads(process.stdout.readline())["value"].removeprefix("http://")
            print(f"ready after {perf_counter() - began:.1f} s")
            server, single = psutil.Process(process.pid), [json.dumps(row).encode() for row in rows]
            list(times(address, single[:20]))
            print("| clients | rows a request | p50, ms | p99, ms | server's CPU, ms a request | rows/s |")
            measure(server, address, [single[:SINGLE]], 1)
            measure(server, address, [single[client * EACH :][:EACH] for client in range(CLIENTS)], 1)
            measure(server, address, [[json.dumps(rows[:MANY]).encode()] * 10], MANY)
            process.terminate()


if __name__ == "__main__":
    main()
