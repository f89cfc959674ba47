"""One column of a dataset, wherever it lies: among the features, the labels, or as the key."""

from dataclasses import dataclass

import numpy as np

from ...storage.dataset import Dataset
from ...storage.errors import UsageError, did_you_mean
from ...storage.format import Schema
from ...storage.reader import BlockReader


@dataclass(frozen=True)
class Column:
    """A column's name, and the array and the place in its rows where it lies."""

    name: str
    array: str
    index: int


def find_column(schema: Schema, name: str) -> Column:
    """Where a column lies. Raises UsageError where there is none of that name."""
    if name == schema.key:
        return Column(name, "key", 0)
    for array, names in (("y", schema.labels), ("x", schema.features)):
        if name in names:
            return Column(name, array, names.index(name))
    there = [*filter(None, [schema.key]), *schema.labels, *schema.features]
    raise UsageError(
        f"the dataset has no column «{name}»; {did_you_mean(name, there)}it has {', '.join(there[:8])}"
        f"{', …' if len(there) > 8 else ''}, and a column that is no feature is kept by «convert csv --id COLUMN»"
    )


def read_column(dataset: Dataset, column: Column, shard: int) -> np.ndarray:
    """A shard's values of a column, (rows,): numbers as they are stored, text of a key as bytes («S» dtype).

    Raises UsageError if a value is missing.
    """
    stored = BlockReader(dataset, (column.array,)).read(dataset.layout.blocks_of(shard))[column.array]
    if column.array == "key" and stored.ndim == 2:
        values: np.ndarray = np.ascontiguousarray(stored).view(f"S{stored.shape[1]}")[:, 0]
        return values
    values = stored.reshape(len(stored), -1)[:, column.index]
    if values.dtype.kind == "f" and np.isnan(values).any():
        row = dataset.layout.shard_range(shard)[0] + int(np.isnan(values).argmax())
        raise UsageError(f"column «{column.name}» has no value in row {row:,}; fill it, or split by another column")
    return values
