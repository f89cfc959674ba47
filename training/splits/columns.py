"""One column of a dataset, whether it is a feature, a label or the key."""

from dataclasses import dataclass

import numpy as np

from ...storage.blocks.reader import BlockReader
from ...storage.dataset import Dataset
from ...storage.errors import UsageError, did_you_mean
from ...storage.format.arrays import NO_DATE, TABLE
from ...storage.format.schema import Schema


@dataclass(frozen=True)
class Column:
    """A column's name, the array that stores it, and its index within a row of that array."""

    name: str
    array: str
    index: int


def find_column(schema: Schema, name: str) -> Column:
    """Find a column by name. Raises UsageError if the dataset has no such column."""
    for column in schema.named:
        if column.name == name:
            return Column(name, column.array, 0)
    labels = () if schema.dense else schema.labels  # neither a vector nor a sequence is a value to split by
    features = () if schema.tokens else schema.features
    for array, names in (("y", labels), ("x", features), (TABLE, schema.tabular.features)):
        if name in names:
            return Column(name, array, names.index(name))
    known = [*(column.name for column in schema.named), *schema.labels, *schema.tabular.features]
    raise UsageError(
        f"the dataset has no column '{name}': {did_you_mean(name, known)}its columns are {', '.join(known[:8])}"
        f"{', …' if len(known) > 8 else ''}; to store a column that is not a feature, convert with --keep COLUMN"
    )


def read_column(dataset: Dataset, column: Column, shard: int) -> np.ndarray:
    """A shard's values of a column, (rows,): numbers as stored, and text as bytes (`S` dtype).

    Raises UsageError if a value is missing.
    """
    stored = BlockReader(dataset, (column.array,)).read(dataset.layout.blocks_of(shard))[column.array]
    if column.array not in ("x", "y", TABLE) and stored.ndim == 2:
        values: np.ndarray = np.ascontiguousarray(stored).view(f"S{stored.shape[1]}")[:, 0]
        missing = values == b""
    else:
        values = stored.reshape(len(stored), -1)[:, column.index]
        missing = np.isnan(values) if values.dtype.kind == "f" else values == NO_DATE
    if missing.any():
        row = dataset.layout.shard_range(shard)[0] + int(missing.argmax())
        raise UsageError(
            f"column '{column.name}' has a missing value in row {row:,}; fill it in, or split by another column"
        )
    return values
