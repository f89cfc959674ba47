"""Out-of-fold predictions as a table for other tools, shard by shard."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ...storage.blocks.reader import BlockReader
from ...storage.dataset import Dataset, StoredArrays
from ...storage.format.arrays import keys_of
from ...storage.format.schema import Schema
from ...storage.tasks import Progress
from .columns import name_of_rows, predicted_classes, probabilities, side_values, vectors


def oof_tables(dataset: Dataset, predictions: StoredArrays, progress: Progress) -> Iterator[pa.Table]:
    """The merged predictions of a dataset's rows, a table for each shard."""
    layout = dataset.layout
    names = [spec.name for spec in dataset.manifest.arrays if spec.name != "x"]
    for shard in range(layout.shards):
        blocks = layout.blocks_of(shard)
        truth = BlockReader(dataset, names).read(blocks)
        merged = BlockReader(predictions, ("prediction", "count")).read(blocks)
        yield table_of(dataset.schema, truth, merged)
        progress("table", layout.shard_range(shard)[1], layout.rows, "rows")


def table_of(schema: Schema, truth: dict[str, np.ndarray], merged: dict[str, np.ndarray]) -> pa.Table:
    """A table of some rows: their name (the user's key, or the position in the source), labels, the number of models,
    and the prediction, which is empty if no model predicted the row."""
    prediction, count = merged["prediction"], merged["count"]
    columns: dict[str, Any] = {name_of_rows(schema): keys_of(truth["key"]) if "key" in truth else truth["id"]}
    columns |= {column.name: side_values(column, truth[column.array]) for column in schema.beside}
    missing = count == 0
    if schema.classes:
        columns[schema.labels[0]] = np.array(schema.classes)[truth["y"].astype(int)]
        columns |= {"models": count, "predicted": predicted_classes(schema, prediction, missing)}
    elif schema.dense:
        (label,) = schema.labels
        columns |= {label: vectors(truth["y"]), "models": count, f"predicted_{label}": vectors(prediction, missing)}
        return pa.table(columns)
    else:
        truths = truth["y"].reshape(len(count), -1)
        columns |= {label: truths[:, i] for i, label in enumerate(schema.labels)}
        columns["models"] = count
    if schema.probabilities:
        return pa.table(columns | probabilities(schema, prediction, missing))
    values = (pa.array(of_label, mask=missing) for of_label in prediction.T)
    return pa.table(columns | {f"predicted_{label}": one for label, one in zip(schema.labels, values, strict=True)})
