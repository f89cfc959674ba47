"""Writes the rows of a folder in the formats of LitData and Lance: python accelerator_files.py FOLDER.

FOLDER contains `x.npy` and `y.npy`. This runs in the peers' own venv.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import torch
from litdata.streaming.writer import BinaryWriter

folder = Path(sys.argv[1])
x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")

(folder / "litdata").mkdir()
writer = BinaryWriter(str(folder / "litdata"), chunk_bytes="64MB")
for number in range(len(x)):
    writer[number] = {"x": torch.from_numpy(np.array(x[number])), "y": int(y[number])}
writer.done()
writer.merge(num_workers=1)

width = x[0].size
schema = pa.schema([("x", pa.list_(pa.uint8(), width)), ("y", pa.uint8())])
step = max(1, (64 << 20) // width)


def batches() -> Iterator[pa.RecordBatch]:
    for start in range(0, len(x), step):
        rows = pa.array(np.array(x[start : start + step]).reshape(-1))
        columns = [pa.FixedSizeListArray.from_arrays(rows, width), pa.array(y[start : start + step])]
        yield pa.record_batch(columns, schema=schema)


lance.write_dataset(batches(), str(folder / "lance"), schema=schema)
