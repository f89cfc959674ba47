"""The form of predictions of new rows: as a table, or as arrays."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from ...storage.dataset import Dataset
from ...storage.format.arrays import ArraySpec, SideColumn, keys_of
from ...storage.format.schema import Schema
from .columns import names_of_rows, predicted_columns, side_values
from .merge import prediction_arrays

ROW = "row"  # the array of the rows' numbers


@dataclass(frozen=True)
class PredictedForm:
    """How the rows of a `dataset`, predicted by a run with this `schema`, are written: with the value of the column
    `id`, or by default their key or number; and in a table with these `names` of the columns before those of the
    probabilities of `every` class."""

    schema: Schema
    dataset: Dataset
    names: tuple[str, ...]
    id: str | None = None
    every: bool = False

    @cached_property
    def _named(self) -> SideColumn | None:
        return next((column for column in self.dataset.schema.beside if column.name == self.id), None)

    def table(self, arrays: dict[str, np.ndarray], predictions: np.ndarray) -> pa.Table:
        """Rows, with their arrays in the dataset and their predictions, as a table."""
        rows = self._identifiers(arrays)
        columns = predicted_columns(self.schema, predictions, self.every)
        headings = [*self.names, *[*columns][len(self.names) - len(rows) :]]
        return pa.Table.from_arrays([*rows, *columns.values()], headings)

    def _identifiers(self, arrays: dict[str, np.ndarray]) -> list[pa.Array]:
        """The columns that identify rows; see `names_of_rows`."""
        if self._named:
            return [side_values(self._named, arrays[self._named.array])]
        if not self.dataset.schema.windows:
            return [self._row_names(arrays)]
        beside = {column.name: column for column in self.dataset.schema.beside}
        columns = [beside[name] for name in names_of_rows(self.dataset.schema)]
        return [side_values(column, arrays[column.array]) for column in columns]

    def _row_names(self, arrays: dict[str, np.ndarray]) -> pa.Array:
        """The user's keys, or the rows' numbers in the source from 1."""
        return pa.array(keys_of(arrays["key"]) if "key" in arrays else self.numbers(arrays))

    def numbers(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """The rows' numbers in the source from 1, (rows,) int64."""
        return self.dataset.source_rows(arrays["id"]) + 1

    @cached_property
    def specs(self) -> tuple[ArraySpec, ...]:
        """The arrays: the predictions of all outputs, and what identifies the rows."""
        stored = {spec.name: spec for spec in self.dataset.manifest.arrays}
        name = self._named.array if self._named else "key"
        return prediction_arrays(self.schema)[0], stored.get(name, ArraySpec(ROW, "int64"))

    def arrays(self, arrays: dict[str, np.ndarray], predictions: np.ndarray) -> dict[str, np.ndarray]:
        """Rows as the arrays of `specs`."""
        prediction, rows = self.specs
        named = self.numbers(arrays) if rows.name == ROW else arrays[rows.name]
        return {prediction.name: predictions, rows.name: named}
