"""Out-of-fold predictions as a CSV or Parquet table for other tools, written shard by shard."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from ...storage.dataset import Dataset, StoredArrays
from ...storage.format import Schema, SideColumn, keys_of
from ...storage.places.place import Place
from ...storage.reader import BlockReader
from ...storage.tasks import Progress

WRITERS: dict[str, Callable[[Any, pa.Schema], Any]] = {".csv": csv.CSVWriter, ".parquet": parquet.ParquetWriter}
"""By file suffix."""


def write_table(dataset: Dataset, predictions: StoredArrays, target: Place, progress: Progress) -> int:
    """Write the merged predictions of a dataset's rows to a file, atomically. Returns the number of rows."""
    layout = dataset.layout
    with target.whole_file() as file:
        writer = None
        for shard, table in enumerate(oof_tables(dataset, predictions)):
            writer = writer or WRITERS[target.suffix](file, table.schema)
            writer.write_table(table)
            progress("table", layout.shard_range(shard)[1], layout.rows, "rows")
        if writer:
            writer.close()
    return layout.rows


def oof_tables(dataset: Dataset, predictions: StoredArrays) -> Iterator[pa.Table]:
    """The merged predictions of a dataset's rows as a table for each shard, see `table_of`."""
    names = [spec.name for spec in dataset.manifest.arrays if spec.name != "x"]
    for shard in range(dataset.layout.shards):
        blocks = dataset.layout.blocks_of(shard)
        truth = BlockReader(dataset, names).read(blocks)
        yield table_of(dataset.schema, truth, BlockReader(predictions, ("prediction", "count")).read(blocks))


def name_of_rows(schema: Schema) -> str:
    """The heading of the rows' identifiers: that of the user's key, or what they are."""
    return schema.key or ("path" if schema.image else "row")


def side_values(column: SideColumn, stored: np.ndarray) -> pa.Array:
    """The values of a column beside the rows, in the types of a table."""
    if column.kind == "text":
        return pa.array([text or None for text in keys_of(stored)], pa.string())
    if unit := {"days": "D", "seconds": "s", "microseconds": "us", "nanoseconds": "ns"}.get(column.kind):
        return pa.array(stored.view(f"datetime64[{unit}]"))
    return pa.array(stored, from_pandas=True)


def table_of(schema: Schema, truth: dict[str, np.ndarray], merged: dict[str, np.ndarray]) -> pa.Table:
    """A table of some rows: their name (the user's key, or the position in the source), labels, the number of models,
    and the prediction, which is empty if no model predicted the row."""
    prediction, count = merged["prediction"], merged["count"]
    columns: dict[str, Any] = {name_of_rows(schema): keys_of(truth["key"]) if "key" in truth else truth["id"]}
    columns |= {column.name: side_values(column, truth[column.array]) for column in schema.beside}
    missing = count == 0
    if schema.classes:
        classes = np.array(schema.classes)
        columns[schema.labels[0]] = classes[truth["y"].astype(int)]
        columns["models"] = count
        chosen = classes[np.nan_to_num(prediction).argmax(axis=1)]
        columns["predicted"] = pa.array(chosen.tolist(), mask=missing)
        outputs = [f"probability_{name}" for name in schema.classes]
    else:
        truths = truth["y"].reshape(len(count), -1)
        columns |= {label: truths[:, i] for i, label in enumerate(schema.labels)}
        columns["models"] = count
        kind = "probability" if schema.probabilities else "predicted"
        outputs = [f"{kind}_{label}" for label in schema.labels]
    columns |= {output: pa.array(prediction[:, i], mask=missing) for i, output in enumerate(outputs)}
    return pa.table(columns)
