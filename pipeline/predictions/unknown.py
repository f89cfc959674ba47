"""Categories of new rows that do not occur in the training data: they are coded as unknown, and counted."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from ...storage.format import TABLE, Schema


def unknown_in(x: np.ndarray, columns: Schema) -> dict[str, np.ndarray]:
    """Which rows of `x`, (rows, columns), have an unknown category, (rows,) bool by column: its code is the one after
    all others."""
    places = ((name, columns.features.index(name), len(values)) for name, values in columns.categories.items())
    return {name: x[:, place] == code for name, place, code in places}


class UnknownCategories:
    """Counts the rows that have an unknown category, by column."""

    def __init__(self, schema: Schema) -> None:
        self.columns, self.array = schema.tabular, TABLE if schema.table else "x"
        self.rows = Counter[str]()

    def count(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Count those in some rows, given the arrays of a dataset."""
        for name, found in unknown_in(arrays[self.array], self.columns).items():
            self.rows[name] += int(found.sum())

    def describe(self) -> str:
        """How many rows of which columns, in words; empty if there are none."""
        found = [f"{rows:,} in {name}" for name, rows in self.rows.items() if rows]
        if not found:
            return ""
        return f"values that do not occur in the training data are treated as unknown: {', '.join(found)}"
