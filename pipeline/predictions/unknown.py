"""Categories of new rows that do not occur in the training data: they are coded as unknown, and counted."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from ...storage.format.arrays import TABLE
from ...storage.format.schema import Schema


def unknown_in(x: np.ndarray, columns: Schema) -> Iterator[tuple[str, np.ndarray]]:
    """Which rows of `x`, (rows, columns, …), have an unknown category, for each column its name and (rows,) bool: the
    code is the one after all others."""
    for place, name in enumerate(columns.features):
        if name in columns.categories:
            found = x[:, place] == len(columns.categories[name])
            yield name, found.any(axis=tuple(range(1, found.ndim)))


class UnknownCategories:
    """Counts the rows that have an unknown category, by column."""

    def __init__(self, schema: Schema) -> None:
        self.columns, self.array = schema.tabular, TABLE if schema.table else "x"
        self.rows = Counter[str]()

    def count(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Count those in some rows, given the arrays of a dataset."""
        for name, found in unknown_in(arrays[self.array], self.columns):
            self.rows[name] += int(found.sum())

    def describe(self) -> str:
        """How many rows of which columns, in words; empty if there are none."""
        found = [f"{rows:,} in {name}" for name, rows in self.rows.items() if rows]
        if not found:
            return ""
        return f"values that do not occur in the training data are treated as unknown: {', '.join(found)}"
