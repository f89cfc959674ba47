"""One emulated accelerator: it takes batches and sleeps for the published time of a step, as if it computed on them.

python -m tests.benchmarks.accelerator LOADER FOLDER RANK WORLD_SIZE BATCH STEP_SECONDS. It prints READY once it has
warmed up, and waits for a line on stdin; then it measures for some seconds and prints JSON. FOLDER contains `x.npy`,
`y.npy` and `dataset`, in Foldstream's format. The peers have their own venv, so each function imports what it needs.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 8.0  # for which an accelerator is measured
AHEAD = 2  # batches that peers prepare ahead
WARM_UP = {"Foldstream": 4}
"""Times the rows of the data, 1 by default: after four, each rank has decoded all but some percent of the blocks."""

Batches = Iterator[Any]


def foldstream(folder: Path, rank: int, world_size: int, batch: int) -> Batches:
    """All blocks stay decoded in memory once they are read."""
    import foldstream as fs

    memory = (folder / "x.npy").stat().st_size + (2 << 30)
    lanes = world_size * max(part for part in range(1, 9) if batch % part == 0)
    data, every = folder / "dataset", batch * world_size
    stream = fs.stream(data, batch_size=every, rank=rank, world_size=world_size, lanes=lanes, memory=memory)
    while True:
        yield from ((x, y) for x, y, _ in stream)


def data_loader(folder: Path, rank: int, world_size: int, batch: int) -> Batches:
    """torch's DataLoader over a memory-mapped file, with one worker process."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    x, y = np.load(folder / "x.npy", mmap_mode="c"), np.load(folder / "y.npy")
    tensors = TensorDataset(*(torch.from_numpy(column[rank::world_size]) for column in (x, y)))
    loader = DataLoader(tensors, batch_size=batch, shuffle=True, num_workers=1, prefetch_factor=AHEAD, drop_last=True)
    while True:
        yield from loader


def litdata(folder: Path, rank: int, world_size: int, batch: int) -> Batches:
    """LitData, with one worker process for each accelerator."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder / "litdata"), shuffle=True, drop_last=True, seed=rank)
    while True:
        for one in StreamingDataLoader(dataset, batch_size=batch, num_workers=1, prefetch_factor=AHEAD):
            yield one["x"], one["y"]


def lance(folder: Path, rank: int, world_size: int, batch: int) -> Batches:
    """Random rows of a Lance dataset, read ahead by a thread."""
    import lance as library

    from .loaders.lance import TABLE, rows_of

    dataset = library.dataset(str(folder / "lance" / f"{TABLE}.lance"))
    rows, draws = dataset.count_rows(), np.random.default_rng(rank)

    def batches() -> Batches:
        while True:
            order = draws.permutation(np.arange(rank, rows, world_size))
            for start in range(0, len(order) - batch + 1, batch):
                table = dataset.take(np.sort(order[start : start + batch]))
                yield rows_of(table["x"].combine_chunks(), table.schema.field("x")), table["y"].to_numpy()

    return read_ahead(batches())


def read_ahead(batches: Batches) -> Batches:
    """The batches, taken in another thread."""
    ready: queue.Queue[Any] = queue.Queue(AHEAD)

    def take() -> None:
        for one in batches:
            ready.put(one)

    threading.Thread(target=take, daemon=True).start()
    while True:
        yield ready.get()


LOADERS: dict[str, Callable[[Path, int, int, int], Batches]] = {
    "Foldstream": foldstream,
    "DataLoader": data_loader,
    "LitData": litdata,
    "Lance": lance,
}


def main(loader: str, folder: Path, rank: int, world_size: int, batch: int, step_seconds: float) -> None:
    batches = LOADERS[loader](folder, rank, world_size, batch)
    for _ in range(WARM_UP.get(loader, 1) * len(np.load(folder / "y.npy")) // batch):
        next(batches)
    print("READY", flush=True)
    sys.stdin.readline()
    next(batches)
    time.sleep(step_seconds)  # the first step is left out
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        x, _ = next(batches)
        assert len(x) == batch
        time.sleep(step_seconds)
        steps += 1
    print("RESULT" + json.dumps({"steps": steps, "seconds": time.perf_counter() - begun}), flush=True)
    os._exit(0)  # do not wait for workers


if __name__ == "__main__":
    name, folder_name, *numbers, step = sys.argv[1:]
    main(name, Path(folder_name), *map(int, numbers), float(step))  # type: ignore[call-arg]
