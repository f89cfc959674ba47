"""Lance: rows in any order, read by ranges of a columnar file. Its loader is LanceDB's StreamingDataset."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.streaming import StreamingDataset
from torch.utils.data import DataLoader

TABLE = "rows"


def write(x: np.ndarray, y: np.ndarray, out: Path, compressed: bool = False) -> None:
    """Rows as bytes, because lists of numbers are not compressed. The field tells what they are."""
    kind = {"kind": json.dumps({"dtype": str(x.dtype), "shape": x.shape[1:]})}
    encoding = {"lance-encoding:compression": "zstd"} if compressed else {}
    schema = pa.schema([pa.field("x", pa.binary(), metadata=kind | encoding), pa.field("y", pa.uint8())])

    def parts() -> Iterator[pa.RecordBatch]:
        step = max(1, (64 << 20) // x[0].nbytes)
        for start in range(0, len(x), step):
            part = np.array(x[start : start + step])
            ends = np.arange(len(part) + 1, dtype=np.int32) * np.int32(part[0].nbytes)
            rows = pa.Array.from_buffers(pa.binary(), len(part), [None, pa.py_buffer(ends), pa.py_buffer(part)])
            yield pa.record_batch([rows, pa.array(y[start : start + step], pa.uint8())], schema=schema)

    lance.write_dataset(parts(), str(out / f"{TABLE}.lance"), schema=schema)


def rows_of(column: pa.Array, field: pa.Field) -> np.ndarray:
    """The rows (rows, *sample_shape) in a column of bytes."""
    kind = json.loads(field.metadata[b"kind"])
    values = np.frombuffer(column.buffers()[2], kind["dtype"])
    rows = values.reshape(-1, *kind["shape"])
    return rows[column.offset : column.offset + len(column)]


def batches(
    source: str, size: int, splits: int = 1, clump: int | None = None, read: int = 256, depth: int = 4
) -> Callable[[int], Iterator[Any]]:
    """Each epoch has an order of its own, by a table of the positions that is made when the epoch begins.

    Args:
        source: Folder or URL that contains the table.
        size: Rows in a batch.
        splits: Parts of the order, of which a batch has rows in turn.
        clump: Neighbouring rows that stay together, or None for rows one by one.
        read: Rows that are read at once.
        depth: Reads of a split that are in flight.
    """
    table = lancedb.connect(source).open_table(TABLE)
    field = table.schema.field("x")

    def as_samples(rows: pa.RecordBatch) -> list[tuple[Any, int]]:
        x = torch.from_numpy(np.array(rows_of(rows["x"], field)))
        return list(zip(x, rows["y"].to_pylist(), strict=True))

    def epoch(number: int) -> Iterator[Any]:
        dataset = StreamingDataset(
            table,
            epoch=number,
            num_splits=splits,
            shuffle_clump_size=clump,
            read_batch_size=read,
            io_queue_depth=depth,
            transform=as_samples,
        )
        return iter(DataLoader(dataset, batch_size=size, drop_last=True))

    return epoch
