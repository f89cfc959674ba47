"""WebDataset: tar files, which are read from the beginning to the end; rows are shuffled in a buffer of a thousand."""

import gzip
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import webdataset
from obstore.store import S3Store


def write(x: np.ndarray, y: np.ndarray, out: Path, compressed: bool = False) -> None:
    """Compressed at level 1, because the default takes three times as long as everything else."""
    out.mkdir(parents=True)
    files: dict[str, Any] = {"pattern": str(out / "%06d.tar"), "maxsize": 20e6}
    if compressed:
        opener = partial(gzip.open, mode="wb", compresslevel=1)
        files = {"pattern": str(out / "%06d.tar.gz"), "maxsize": 100e6, "compress": False, "opener": opener}
    with webdataset.ShardWriter(**files, verbose=0) as writer:
        for number in range(len(x)):
            writer.write({"__key__": f"{number:08d}", "x.npy": np.array(x[number]), "y.cls": int(y[number])})


def shards_of(source: str) -> list[str]:
    """Paths, or signed addresses, which it reads with curl."""
    if "://" not in source:
        return sorted(map(str, Path(source).glob("*.tar")))
    store = S3Store.from_url(source)
    names = sorted(one["path"] for part in obstore.list(store) for one in part)
    return list(obstore.sign(store, "GET", names, timedelta(hours=1)))


def batches(source: str, size: int, workers: int = 0) -> Callable[[int], Iterator[Any]]:
    shards = shards_of(source)
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode().to_tuple("x.npy", "y.cls")
    loader = webdataset.WebLoader(dataset.batched(size, partial=False), batch_size=None, num_workers=workers)
    return lambda epoch: iter(loader)
