"""Datasets written directly from arrays, for tests and benchmarks of training."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from foldstream.storage.blocks.writer import blocks_of, commit, create_arrays, write_block_table, write_shard
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.format.layout import Layout, choose_layout
from foldstream.storage.format.manifest import Manifest
from foldstream.storage.format.schema import Schema
from foldstream.storage.format.statistics import Statistics
from foldstream.storage.places.locate import locate

MakeRows = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def write_dataset(root: Path, rows: int, make: MakeRows, classes: int = 10, layout: Layout | None = None) -> Dataset:
    """Write a dataset of `rows` rows. `make(start, stop)` returns x (rows, *sample_shape) and class codes y (rows,)."""
    sample, _ = make(0, 1)
    channels = sample.shape[1] if sample.ndim > 1 else 1
    schema = Schema(
        features=tuple(f"c{i}" for i in range(sample[0].size if sample.ndim == 2 else 0)),  # images have none
        sample_shape=sample.shape[1:],
        x_dtype=str(sample.dtype),
        labels=("label",),
        task="classification",
        y_dtype="uint8",
        classes=tuple(str(code) for code in range(classes)),
    )
    layout = layout or choose_layout(rows, sample[0].nbytes)
    create_arrays(locate(root), layout, schema.arrays(), {})
    written, counts = [], np.zeros((layout.blocks, classes), np.uint32)
    for shard in range(layout.shards):
        start, stop = layout.shard_range(shard)
        x, y = make(start, stop)
        for position, block in enumerate(layout.blocks_of(shard)):
            of_block = y[position * layout.block_rows : (position + 1) * layout.block_rows]
            counts[block] = np.bincount(of_block, minlength=classes)
        arrays = {"x": x, "y": y.astype(np.uint8), "id": np.arange(start, stop)}
        written.append(write_shard(locate(root), layout, schema.arrays(), shard, arrays, schema.behind))
    write_block_table(locate(root), "class_counts", counts)
    whole = np.iinfo(sample.dtype).max if sample.dtype.kind == "u" else 1.0
    statistics = Statistics((whole / 2,) * channels, (whole / 4,) * channels, (0.0,) * channels, (whole,) * channels)
    details = {
        "schema": asdict(schema),
        "statistics": asdict(statistics),
        "request": {},
        "class_counts": counts.sum(axis=0).tolist(),
    }
    entries = tuple(shard.entry for shard in written)
    manifest = Manifest("dataset", layout, schema.arrays(), entries, details, behind=schema.behind)
    commit(locate(root), manifest, blocks_of(written, schema.arrays()))
    return open_dataset(root)


def write_arrays(folder: Path, rows: int, make: MakeRows) -> None:
    """Write the rows for libraries that read NumPy files: `x.npy` and `y.npy`."""
    first, _ = make(0, 1)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", first.dtype, (rows, *first.shape[1:]))
    y = np.empty(rows, np.uint8)
    step = max(1, (16 << 20) // first[0].nbytes)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        x[part], y[part] = make(part.start, part.stop)
    np.save(folder / "y.npy", y)
