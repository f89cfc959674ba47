"""Padding of batches of sequences, and the speed of their stream, with and without batches of similar lengths.

python -m tests.benchmarks.sequences [ROWS] [BATCH]
"""

import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import foldstream as fs
import numpy as np
import pyarrow as pa
from foldstream.training.stream import rank_reader
from pyarrow import parquet

MEDIAN, SIGMA, LONGEST, VOCABULARY = 40, 0.5, 512, 30_000


def write(rows: int, target: Path) -> None:
    """Token ids of log-normal lengths."""
    generator = np.random.default_rng(0)
    lengths = np.clip(np.round(generator.lognormal(np.log(MEDIAN), SIGMA, rows)), 1, LONGEST).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = pa.array(generator.integers(1, VOCABULARY, offsets[-1], dtype=np.int32))
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), ids)
    parquet.write_table(pa.table({"tokens": lists, "label": lengths % 2}), target, row_group_size=50_000)


def measure(dataset: Any, batch: int) -> tuple[float, float]:
    """The fraction of the elements of an epoch's batches that are padding, and rows a second, in the second epoch."""
    used = dataset.statistics.mean[0] * len(dataset)
    stream = fs.stream(dataset, batch_size=batch)
    for _ in range(2):
        began, elements = perf_counter(), 0
        for x, _, _ in stream:
            elements += x.numel()
    return 1 - used / elements, len(dataset) / (perf_counter() - began)


def main(rows: int = 100_000, batch: int = 128) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(rows, folder / "data.parquet")
        began = perf_counter()
        dataset = fs.convert_csv(folder / "data.parquet", folder / "data.zarr", tokens="tokens", label="label")
        seconds = perf_counter() - began
        ids = dataset.statistics.mean[0] * rows
        print(
            f"converted: {rows:,} rows, {ids / seconds / 1e6:.1f} million ids/s; {dataset.stored_bytes / ids:.2f} B/id"
        )
        print("buckets: {:.1%} padding, {:,.0f} rows/s".format(*measure(dataset, batch)))
        vars(rank_reader)["bucketed"] = lambda uses, lengths, targets: uses
        print("random: {:.1%} padding, {:,.0f} rows/s".format(*measure(dataset, batch)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
