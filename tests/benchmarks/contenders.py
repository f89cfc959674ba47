"""Runs one contender of the stream benchmark in its own process: random batches of 256 rows, epoch after epoch.

python contenders.py NAME FOLDER prints JSON: rows/s of each epoch and the seconds to the first batch. FOLDER contains
`x.npy`, `y.npy` and `dataset` (in Foldstream's format). A peer first converts them to its own format there.
The peers have their own venv, so each function imports what it needs.
"""

import json
import os
import resource
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 256
EPOCHS = 6  # the first one warms up
SECONDS = 1.0  # an epoch that takes longer is stopped early, because the rate is known by then
PEER_ROWS = 60_000  # for the slow peers

Epochs = Callable[[Path], Callable[[int], Iterator[Any]]]
"""Takes the folder, and returns a function from an epoch to its batches. The first column of a batch has its length."""


def rows(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")


def peer_rows(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first rows, at most 60,000 and 100 MB."""
    x, y = rows(folder)
    count = min(len(x), PEER_ROWS, 100_000_000 // x[0].nbytes)
    return x[:count], y[:count]


def foldstream(folder: Path, all_from_disk: bool = False) -> Callable[[int], Iterator[Any]]:
    """With default settings, or with memory for its windows only, so that no decoded blocks are kept."""
    import foldstream as fs

    stream: Any = fs.stream(folder / "dataset", batch_size=BATCH)
    if all_from_disk:
        stream = fs.stream(folder / "dataset", batch_size=BATCH, memory=stream.memory_needed)
    return lambda epoch: iter(stream)


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

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
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


def litdata(folder: Path, workers: int = 0, tensors: bool = False) -> Callable[[int], Iterator[Any]]:
    import torch
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    x, y = peer_rows(folder)
    out = folder / ("litdata-tensors" if tensors else "litdata")
    if not out.exists():
        out.mkdir()
        writer = BinaryWriter(str(out), chunk_bytes="64MB")
        for number in range(len(x)):
            row = np.array(x[number])
            writer[number] = {"x": torch.from_numpy(row) if tensors else row, "y": int(y[number])}
        writer.done()
        writer.merge(num_workers=1)
    dataset = StreamingDataset(str(out), shuffle=True, drop_last=True)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers)
    return lambda epoch: (tuple(batch.values()) for batch in loader)


def stand_in_for(name: str) -> type:
    """An empty class of any name; names with leading double underscores are refused."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def mosaicml_streaming(folder: Path, workers: int = 0) -> Callable[[int], Iterator[Any]]:
    import transformers.utils.import_utils  # noqa: F401 - checks for torchvision, so it must come before the stand-in

    # The package imports torchvision for image files, which are not used here.
    for name in ("", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder"):
        stand_in: Any = types.ModuleType(f"torchvision{name}")
        stand_in.__path__ = []
        stand_in.__getattr__ = stand_in_for
        sys.modules[stand_in.__name__] = stand_in
    import streaming
    from torch.utils.data import DataLoader

    x, y = peer_rows(folder)
    out = folder / "mosaicml"
    if not out.exists():
        shape = ",".join(map(str, x.shape[1:]))
        with streaming.MDSWriter(out=str(out), columns={"x": f"ndarray:{x.dtype}:{shape}", "y": "int"}) as writer:
            for number in range(len(x)):
                writer.write({"x": np.array(x[number]), "y": int(y[number])})
    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(local=str(out), shuffle=True, batch_size=BATCH)
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True)
    return lambda epoch: (tuple(batch.values()) for batch in loader)


def webdataset(folder: Path, workers: int = 0) -> Callable[[int], Iterator[Any]]:
    import webdataset

    x, y = peer_rows(folder)
    out = folder / "webdataset"
    if not out.exists():
        out.mkdir()
        with webdataset.ShardWriter(str(out / "%06d.tar"), maxsize=20e6, verbose=0) as writer:
            for number in range(len(x)):
                writer.write({"__key__": f"{number:08d}", "x.npy": np.array(x[number]), "y.cls": int(y[number])})
    shards = sorted(map(str, out.glob("*.tar")))
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode().to_tuple("x.npy", "y.cls")
    loader = webdataset.WebLoader(dataset.batched(BATCH, partial=False), batch_size=None, num_workers=workers)
    return lambda epoch: iter(loader)


def measure(epochs: Callable[[int], Iterator[Any]], started: float, once_started: bool) -> dict[str, Any]:
    """Rows per second of each epoch but the first, and the seconds from the start to the very first batch.

    With `once_started`, the time of an epoch starts at its first batch.
    """
    rates, first = [], 0.0
    for number in range(EPOCHS):
        begun, count = time.perf_counter(), 0
        batches = epochs(number)
        for batch in batches:
            first = first or time.perf_counter() - started
            if not count and once_started:
                begun = time.perf_counter()
            count += len(batch[0])
            if time.perf_counter() - begun > SECONDS:
                break
        seconds = time.perf_counter() - begun
        rates.append(count / seconds)
        if hasattr(batches, "close"):
            batches.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rows_per_second": rates[1:], "first_batch_seconds": first, "peak_bytes": peak}


CONTENDERS: dict[str, Epochs] = {
    "Foldstream": foldstream,
    "Foldstream, all from disk": partial(foldstream, all_from_disk=True),
    "RAM, X[i]": ram_index,
    "RAM, index_select": ram_index_select,
    "DataLoader over RAM": data_loader,
    "DataLoader over RAM, 2 workers": partial(data_loader, workers=2),
    "Ray Data, once started": ray_data,
    "LitData, NumPy rows": litdata,
    "LitData, NumPy rows, 2 workers": partial(litdata, workers=2),
    "LitData, tensors": partial(litdata, tensors=True),
    "LitData, tensors, 2 workers": partial(litdata, tensors=True, workers=2),
    "MosaicML Streaming": mosaicml_streaming,
    "MosaicML Streaming, 2 workers": partial(mosaicml_streaming, workers=2),
    "WebDataset": webdataset,
    "WebDataset, 2 workers": partial(webdataset, workers=2),
}

if __name__ == "__main__":
    made = CONTENDERS[sys.argv[1]](Path(sys.argv[2]))  # loading into memory and writing a peer's files are not timed
    figures = measure(made, time.perf_counter(), once_started=sys.argv[1] == "Ray Data, once started")
    print("RESULT" + json.dumps(figures), flush=True)
    os._exit(0)  # do not wait for threads and servers that the peers have started
