"""LitData: chunks of 64 MB, which are downloaded as a whole, some ahead, and kept on disk within a bound."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming import downloader
from litdata.streaming.writer import BinaryWriter

downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # the server of the benchmark has no TLS


def write(x: np.ndarray, y: np.ndarray, out: Path, compressed: bool = False, tensors: bool = False) -> None:
    writer = BinaryWriter(str(out), chunk_bytes="64MB", compression="zstd" if compressed else None)
    for number in range(len(x)):
        row = np.array(x[number])
        writer[number] = {"x": torch.from_numpy(row) if tensors else row, "y": int(y[number])}
    writer.done()
    writer.merge(num_workers=1)


def batches(source: str, size: int, workers: int = 0, cache_bytes: int | None = None) -> Callable[[int], Iterator[Any]]:
    cache = mkdtemp() if "://" in source else None
    dataset = StreamingDataset(source, cache_dir=cache, max_cache_size=cache_bytes, shuffle=True, drop_last=True)
    loader = StreamingDataLoader(dataset, batch_size=size, num_workers=workers)
    return lambda epoch: (tuple(batch.values()) for batch in loader)
