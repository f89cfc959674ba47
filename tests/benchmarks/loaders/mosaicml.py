"""MosaicML Streaming: shards of 64 MB or less, which are downloaded as a whole and kept on disk within a bound."""

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import transformers.utils.import_utils  # noqa: F401 - checks for torchvision, so it must come before the stand-in
from torch.utils.data import DataLoader


def stand_in_for(name: str) -> type:
    """An empty class of any name; names with leading double underscores are refused."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


# The package imports torchvision for image files, which are not used here.
for part in ("", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder"):
    stand_in: Any = types.ModuleType(f"torchvision{part}")
    stand_in.__path__ = []
    stand_in.__getattr__ = stand_in_for
    sys.modules[stand_in.__name__] = stand_in

import streaming  # noqa: E402 - after the stand-in


def write(x: np.ndarray, y: np.ndarray, out: Path, compressed: bool = False) -> None:
    """Compressed in smaller shards, because a bound of the files on disk must be at least four times a shard."""
    columns = {"x": f"ndarray:{x.dtype}:{','.join(map(str, x.shape[1:]))}", "y": "int"}
    options: dict[str, Any] = {"compression": "zstd", "size_limit": 16 << 20} if compressed else {}
    with streaming.MDSWriter(out=str(out), columns=columns, **options) as writer:
        for number in range(len(x)):
            writer.write({"x": np.array(x[number]), "y": int(y[number])})


def batches(source: str, size: int, workers: int = 0, **options: Any) -> Callable[[int], Iterator[Any]]:
    streaming.base.util.clean_stale_shared_memory()
    places = {"remote": source, "local": mkdtemp()} if "://" in source else {"local": source}
    dataset = streaming.StreamingDataset(**places, **options, shuffle=True, batch_size=size)
    for stream in dataset.streams:
        stream._downloader.clean_up()  # workers, which are forked, would share its connection and mix their answers up
    loader = DataLoader(dataset, batch_size=size, num_workers=workers, drop_last=True)
    return lambda epoch: (tuple(batch.values()) for batch in loader)
