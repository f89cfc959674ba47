"""Memory for chunks of batches, used again and again: fresh pages would cost more than the rows that go into them."""

import weakref
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from ..storage.format import ArraySpec


class ChunkMemory:
    """`slots` slots of `rows` rows each. A slot that is lent comes back when nobody holds a tensor of it."""

    def __init__(self, specs: Sequence[ArraySpec], slots: int, rows: int) -> None:
        self.rows, self._slots = rows, range(slots)
        self._columns = {spec.name: spec.empty(slots * rows + 1) for spec in specs}
        # Whole rows as single items: numpy copies these in one go, without the interpreter's lock.
        self._items = {
            spec.name: column.reshape(len(column), -1).view(f"V{spec.row_bytes}")[:, 0]
            for spec, column in zip(specs, self._columns.values(), strict=True)
        }
        self.free = deque(self._slots)
        self.lent: set[int] = set()

    def reclaim(self) -> None:
        """Free the slots whose chunks were given up before they were full."""
        self.free.extend(slot for slot in self._slots if slot not in self.lent and slot not in self.free)

    def put(self, arrays: Mapping[str, np.ndarray], places: np.ndarray) -> None:
        """Put row i of every array, (rows, *row_shape), at places[i]; of those at one place, any."""
        for name, rows in arrays.items():
            items = self._items[name]
            items[places] = rows.reshape(len(rows), -1).view(items.dtype)[:, 0]

    def lend(self, slot: int) -> dict[str, np.ndarray]:
        """The columns of a full slot. Those beside `x` are small, and often kept for long: they are copies."""
        part = slice(slot * self.rows, (slot + 1) * self.rows)
        columns = {name: column[part] for name, column in self._columns.items()}
        self.lent.add(slot)
        weakref.finalize(columns["x"], self._take_back, slot).atexit = False
        return {name: column if name == "x" else column.copy() for name, column in columns.items()}

    def _take_back(self, slot: int) -> None:
        self.free.append(slot)  # first, so that `reclaim`, in another thread, never sees it in neither
        self.lent.discard(slot)
