"""`make bench-readers`: blocks of a dataset read in random order by Foldstream, zarr-python, zarrs and tensorstore.

python -m tests.benchmarks.readers PEERS_PYTHON RESULT.json prints a table. With `--one NAME DATASET` instead,
it runs one reader in its own process and prints JSON: decoded bytes per second of each round.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROUNDS = 6  # the first one warms up
AT_ONCE = 16  # blocks per call
THREADS = 2
ROWS = {"digits": 300_000, "table": 900_000, "3x64x64": 20_000}

ReadBlocks = Callable[[list[int]], Any]


def foldstream(dataset: Path) -> ReadBlocks:
    from concurrent.futures import ThreadPoolExecutor

    from foldstream.storage.blocks.reader import BlockReader
    from foldstream.storage.dataset import open_dataset

    reader, threads = BlockReader(open_dataset(dataset)), ThreadPoolExecutor(THREADS)
    return lambda blocks: reader.read(blocks, threads)


def zarr_python(dataset: Path) -> ReadBlocks:
    import zarr

    zarr.config.set({"threading.max_workers": THREADS})
    return by_threads(zarr.open_array(dataset / "x", mode="r"))


def by_threads(array: Any) -> ReadBlocks:
    """Reads one block per call, with as many threads as the others: blocks in random order do not form a slice."""
    from concurrent.futures import ThreadPoolExecutor

    rows, threads = array.chunks[0], ThreadPoolExecutor(THREADS)
    return lambda blocks: list(threads.map(lambda block: array[block * rows : (block + 1) * rows], blocks))


def zarrs(dataset: Path) -> ReadBlocks:
    import zarr

    zarr.config.set(
        {
            "threading.max_workers": THREADS,
            "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
            "codec_pipeline.strict": True,
        }
    )
    return by_threads(zarr.open_array(dataset / "x", mode="r"))


def tensorstore(dataset: Path) -> ReadBlocks:
    import tensorstore as ts

    context = {"data_copy_concurrency": {"limit": THREADS}, "cache_pool": {"total_bytes_limit": 0}}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(dataset / "x")}, "context": context}
    array = ts.open(spec, read=True).result()
    rows = array.chunk_layout.read_chunk.shape[0]
    return lambda blocks: [
        wanted.result() for wanted in [array[block * rows : (block + 1) * rows].read() for block in blocks]
    ]


READERS = {"Foldstream": foldstream, "zarr-python": zarr_python, "zarrs": zarrs, "tensorstore": tensorstore}


def measure(name: str, dataset: Path) -> list[float]:
    """Decoded bytes per second over all full blocks, for each round but the first."""
    meta = json.loads((dataset / "manifest.json").read_text())
    layout, spec = meta["layout"], next(array for array in meta["arrays"] if array["name"] == "x")
    block_bytes = layout["block_rows"] * int(np.prod(spec["row_shape"])) * np.dtype(spec["dtype"]).itemsize
    count = layout["rows"] // layout["block_rows"]
    read, rates = READERS[name](dataset), []
    for number in range(ROUNDS):
        order = np.random.default_rng(number).permutation(count).tolist()
        started = time.perf_counter()
        for first in range(0, count, AT_ONCE):
            read(order[first : first + AT_ONCE])
        rates.append(count * block_bytes / (time.perf_counter() - started))
    return rates[1:]


def main(peers_python: str, result: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..datasets import write_dataset
    from .rows import KINDS

    figures: dict[str, dict[str, list[float]]] = {}
    table = Table("decoded MB/s", *READERS)
    for kind, rows in ROWS.items():
        figures[kind] = {}
        with tempfile.TemporaryDirectory(prefix="bench-readers-") as folder:
            dataset = write_dataset(Path(folder, "dataset"), rows, KINDS[kind][1]).root
            for name in READERS:
                python = sys.executable if name in ("Foldstream", "zarr-python") else peers_python
                command = [python, __file__, "--one", name, str(dataset)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                figures[kind][name] = json.loads(done.stdout.splitlines()[-1])
        table.add_row(kind, *(f"{median(rates) / 1e6:,.0f}" for rates in figures[kind].values()))
    Console(width=100).print(table)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(sys.argv[1], Path(sys.argv[2]))
