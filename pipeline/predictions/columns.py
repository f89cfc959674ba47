"""The columns of predictions in a table, for new rows and for held-out ones."""

from typing import Any

import numpy as np
import pyarrow as pa

from ...storage.format.arrays import SideColumn, keys_of
from ...storage.format.schema import Schema


def name_of_rows(schema: Schema) -> str:
    """The heading of the rows' identifiers: that of the user's key, or what they are."""
    return schema.key or ("path" if schema.image else "row")


def names_of_rows(schema: Schema, id: str | None = None) -> tuple[str, ...]:
    """The headings of what identifies predicted rows: the column `id` if it is given, of a window its time and series,
    otherwise the name of the rows' identifiers."""
    if id:
        return (id,)
    return (schema.windows.time, *schema.windows.groups) if schema.windows else (name_of_rows(schema),)


def side_values(column: SideColumn, stored: np.ndarray) -> pa.Array:
    """The values of a column beside the rows, in the types of a table."""
    if column.kind == "text":
        return pa.array([text or None for text in keys_of(stored)], pa.string())
    if unit := {"days": "D", "seconds": "s", "microseconds": "us", "nanoseconds": "ns"}.get(column.kind):
        return pa.array(stored.view(f"datetime64[{unit}]"))
    return pa.array(stored, from_pandas=True)


def predicted_classes(schema: Schema, prediction: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """The names of the most probable classes, null where a prediction is `missing`."""
    chosen = np.array(schema.classes)[np.nan_to_num(prediction).argmax(axis=1)]
    return pa.array(chosen.tolist(), pa.string(), mask=missing)


def probabilities(schema: Schema, prediction: np.ndarray, missing: np.ndarray | None = None) -> dict[str, pa.Array]:
    """A column for each class or label: `probability_NAME`."""
    names = (f"probability_{name}" for name in schema.classes or schema.labels)
    return {name: pa.array(values, mask=missing) for name, values in zip(names, prediction.T, strict=True)}


def vectors(values: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Vectors, (rows, n), as a column of lists, which a CSV file has as n columns."""
    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=None if missing is None else pa.array(missing))


def predicted_columns(schema: Schema, prediction: np.ndarray, every: bool) -> dict[str, Any]:
    """The columns of predictions of new rows: for classification the most probable class, for images with its
    probability; for multi-label data the probability of each label; for regression the values.

    With `every` probability, a class is followed by `probability_CLASS` for each class instead.
    """
    if schema.dense:
        (label,) = schema.labels
        return {label: vectors(prediction)}
    if not schema.classes:
        return {label: pa.array(values) for label, values in zip(schema.labels, prediction.T, strict=True)}
    columns = {schema.labels[0]: predicted_classes(schema, prediction)}
    if every:
        return columns | probabilities(schema, prediction)
    return columns | ({"probability": pa.array(prediction.max(axis=1))} if schema.image else {})
