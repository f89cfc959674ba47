"""Categories of new rows that do not occur in the training data: they are coded as unknown, and counted."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from ...storage.format import TABLE, Schema


class UnknownCategories:
    """Counts the rows that have an unknown category, by column."""

    def __init__(self, schema: Schema) -> None:
        columns, self.array = schema.tabular, TABLE if schema.table else "x"
        self.last = {name: len(values) for name, values in columns.categories.items()}
        self.places = {name: place for place, name in enumerate(columns.features) if name in self.last}
        self.rows = Counter[str]()

    def count(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Count those in some rows, given the arrays of a dataset."""
        for name, place in self.places.items():
            self.rows[name] += int((arrays[self.array][:, place] == self.last[name]).sum())

    def describe(self) -> str:
        """How many rows of which columns, in words; empty if there are none."""
        found = [f"{rows:,} in {name}" for name, rows in self.rows.items() if rows]
        if not found:
            return ""
        return f"values that do not occur in the training data are treated as unknown: {', '.join(found)}"
