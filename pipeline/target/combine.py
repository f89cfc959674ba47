"""The receipts of all shards combined, one after another: memory does not grow with the product of shards and
columns."""

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...storage.format.layout import Layout
from ...storage.format.manifest import ShardEntry
from ...storage.format.schema import Schema
from ...storage.format.statistics import Statistics
from ...storage.moments.moments import Moments
from .receipts import unpack


class Combined:
    """What the receipts of shards say together, added in the order of the shards.

    `blocks` are the lengths as stored and the CRC-32C of all blocks of each array, and `class_counts` the rows of each
    class in every block, (blocks, classes) uint32.
    """

    def __init__(self, layout: Layout, schema: Schema) -> None:
        self.schema = schema
        self.entries: list[ShardEntry] = []
        self.blocks = {spec.name: array("I") for spec in schema.arrays()}
        self.class_counts = np.zeros((layout.blocks if schema.classes else 0, len(schema.classes)), np.uint32)
        self.missing: np.ndarray | int = 0
        self.moments: dict[str, Moments] = {}
        self._blocks = 0

    @classmethod
    def of(cls, layout: Layout, schema: Schema, receipts: Iterable[dict[str, Any]]) -> "Combined":
        combined = cls(layout, schema)
        for receipt in receipts:
            combined.add(receipt)
        return combined

    def add(self, receipt: dict[str, Any]) -> None:
        """Add the receipt of the next shard."""
        self.entries.append(ShardEntry(**receipt["entry"]))
        for name, values in receipt["blocks"].items():
            self.blocks[name].extend(values)
        if self.schema.classes:
            counts = receipt["class_counts"]
            self.class_counts[self._blocks : self._blocks + len(counts)] = counts
            self._blocks += len(counts)
        self.missing = self.missing + unpack(receipt["missing"]).astype(np.int64)
        for name in ("moments", "y_moments", "table_moments"):
            if receipt.get(name):  # not all shards have them, nor receipts of earlier versions
                found = Moments.from_table(unpack(receipt[name]))
                self.moments[name] = self.moments[name].merged(found) if name in self.moments else found

    def statistics(self) -> Statistics:
        """The statistics of all rows."""
        channels, table = self.schema.channels, self.moments.get("table_moments")
        missing = np.asarray(self.missing).reshape(channels, -1).sum(axis=1).tolist()
        of_table = Statistics.of(table, None) if table else None
        return Statistics.of(self.moments["moments"], self.moments.get("y_moments"), missing, table=of_table)
