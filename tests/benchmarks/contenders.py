"""Runs one contender of the stream benchmark in its own process: random batches of 256 rows, epoch after epoch.

python -m tests.benchmarks.contenders NAME FOLDER prints JSON: rows/s of each epoch and the seconds to the first batch.
FOLDER contains `x.npy`, `y.npy` and `dataset` (in Foldstream's format). A peer first converts them to its own format
there. The peers have their own venv, so each function imports what it needs.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 256
EPOCHS = 6  # the first one warms up
SECONDS = 1.0  # an epoch that takes longer is stopped early, because the rate is known by then
MEASURED, COMPARED = 2.0, 6.0  # seconds of epochs at least: short ones differ more, and more than 5 % is to be seen
PEER_ROWS = 60_000  # for the slow peers

REOPENED = "Foldstream, all from disk, opened for each epoch"

Epochs = Callable[[Path], Callable[[int], Iterator[Any]]]
"""Takes the folder, and returns a function from an epoch to its batches. The first column of a batch has its length."""


def rows(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")


def peer_rows(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first rows, at most 60,000 and 100 MB."""
    x, y = rows(folder)
    count = min(len(x), PEER_ROWS, 100_000_000 // x[0].nbytes)
    return x[:count], y[:count]


def foldstream(folder: Path, all_from_disk: bool = False, reopened: bool = False) -> Callable[[int], Iterator[Any]]:
    """With default settings, or with memory for its windows only, so that no decoded blocks are kept; with one stream,
    or, in turns, with this one and with another one for each second epoch."""
    import foldstream as fs

    opened: Any = partial(fs.stream, folder / "dataset", batch_size=BATCH)
    if all_from_disk:
        opened = partial(opened, memory=opened().memory_needed)
    stream = opened()
    return lambda epoch: iter(opened(epoch=epoch) if reopened and epoch % 2 == 0 else stream)


def in_memory(folder: Path, gather: Callable[[Any, Any], Any]) -> Callable[[int], Iterator[Any]]:
    import torch

    torch.set_num_threads(1)
    x, y = (torch.from_numpy(np.array(column)) for column in rows(folder))

    def epoch(number: int) -> Iterator[Any]:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield gather(x, chosen), gather(y, chosen), chosen

    return epoch


def ram_index(folder: Path) -> Callable[[int], Iterator[Any]]:
    return in_memory(folder, lambda column, chosen: column[chosen])


def ram_index_select(folder: Path) -> Callable[[int], Iterator[Any]]:
    return in_memory(folder, lambda column, chosen: column.index_select(0, chosen))


def data_loader(folder: Path, workers: int = 0) -> Callable[[int], Iterator[Any]]:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    tensors = TensorDataset(*(torch.from_numpy(np.array(column)) for column in rows(folder)))
    loader = DataLoader(tensors, batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True)
    return lambda epoch: iter(loader)


def ray_data(folder: Path) -> Callable[[int], Iterator[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray
    from ray.data.extensions import ArrowTensorArray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    parquet = folder / "parquet"
    if not parquet.exists():
        x, y = rows(folder)
        step = max(1, (32 << 20) // x[0].nbytes)
        for start in range(0, len(x), step):
            part = {"x": ArrowTensorArray.from_numpy(x[start : start + step]), "y": pa.array(y[start : start + step])}
            parquet.mkdir(exist_ok=True)
            pq.write_table(pa.table(part), parquet / f"{start:09d}.parquet", compression="lz4", use_dictionary=False)
    data = ray.data.read_parquet(str(parquet))

    def epoch(number: int) -> Iterator[Any]:
        for batch in data.iter_torch_batches(batch_size=BATCH, drop_last=True):
            yield batch["x"], batch["y"]

    return epoch


def peer(folder: Path, name: str, workers: int = 0, **options: Any) -> Callable[[int], Iterator[Any]]:
    """A library that reads its own format, in which it first writes the rows."""
    loader = import_module(f".loaders.{name}", __package__)
    out = folder / "-".join([name, *options])
    if not out.exists():
        loader.write(*peer_rows(folder), out, **options)
    batches: Callable[[int], Iterator[Any]] = loader.batches(
        str(out), BATCH, **({"workers": workers} if workers else {})
    )
    return batches


@dataclass(frozen=True)
class Epoch:
    """How many rows came, and the seconds until the first batch and until the end."""

    rows: int
    first: float
    seconds: float


def timed_epoch(epochs: Callable[[int], Iterator[Any]], number: int, limit: float) -> Epoch:
    """Take the batches of an epoch. It is stopped after so many seconds from its first batch."""
    begun, rows, first = time.perf_counter(), 0, 0.0
    batches = epochs(number)
    for batch in batches:
        now = time.perf_counter() - begun
        first = first or now
        rows += len(batch[0])
        if now - first > limit:
            break
    seconds = time.perf_counter() - begun
    if hasattr(batches, "close"):
        batches.close()
    return Epoch(rows, first, seconds)


def peak_memory() -> int:
    """Bytes of this process at its peak. The peak of getrusage begins with that of the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def measure(epochs: Callable[[int], Iterator[Any]], seconds: float, once_started: bool) -> dict[str, Any]:
    """Rows per second of each epoch but the first, and the seconds to the very first batch. The epochs take at least so
    many seconds in all.

    With `once_started`, the time of an epoch starts at its first batch.
    """
    warm_up, *others = (timed_epoch(epochs, number, SECONDS) for number in range(EPOCHS))
    while sum(one.seconds for one in others) < seconds:
        others.append(timed_epoch(epochs, len(others) + 1, SECONDS))
    rates = [one.rows / (one.seconds - (one.first if once_started else 0)) for one in others]
    return {"rows_per_second": rates, "first_batch_seconds": warm_up.first, "peak_bytes": peak_memory()}


CONTENDERS: dict[str, Epochs] = {
    "Foldstream": foldstream,
    "Foldstream, all from disk": partial(foldstream, all_from_disk=True),
    REOPENED: partial(foldstream, all_from_disk=True, reopened=True),
    "RAM, X[i]": ram_index,
    "RAM, index_select": ram_index_select,
    "DataLoader over RAM": data_loader,
    "DataLoader over RAM, 2 workers": partial(data_loader, workers=2),
    "Ray Data, once started": ray_data,
    "LitData, NumPy rows": partial(peer, name="litdata"),
    "LitData, NumPy rows, 2 workers": partial(peer, name="litdata", workers=2),
    "LitData, tensors": partial(peer, name="litdata", tensors=True),
    "LitData, tensors, 2 workers": partial(peer, name="litdata", tensors=True, workers=2),
    "MosaicML Streaming": partial(peer, name="mosaicml"),
    "MosaicML Streaming, 2 workers": partial(peer, name="mosaicml", workers=2),
    "WebDataset": partial(peer, name="webdataset"),
    "WebDataset, 2 workers": partial(peer, name="webdataset", workers=2),
    "Lance": partial(peer, name="lance"),
}

if __name__ == "__main__":
    made = CONTENDERS[sys.argv[1]](Path(sys.argv[2]))  # loading into memory and writing a peer's files are not timed
    seconds = COMPARED if sys.argv[1] == REOPENED else MEASURED
    figures = measure(made, seconds, once_started=sys.argv[1] == "Ray Data, once started")
    if sys.argv[1] == REOPENED:
        rates = figures["rows_per_second"]
        figures |= {"one_object": rates[::2], "rows_per_second": rates[1::2]}
    print("RESULT" + json.dumps(figures), flush=True)
    os._exit(0)  # do not wait for threads and servers that the peers have started
