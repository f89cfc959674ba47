"""Reusable memory for groups of batches: allocating new pages would cost more than copying rows into them."""

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from ...storage.blocks.reader import as_bytes
from ...storage.compiled import compiled, copy_past_caches, copy_words, finish_copies, prefetch
from ...storage.format.arrays import ArraySpec

CACHE_LINE = 64  # bytes
AHEAD, FETCHED = 4, 4096  # rows ahead that are fetched, and at most so many bytes of each

kept: "deque[GroupMemory]" = deque(maxlen=1)
"""The memory of the last stream that has ended, for the next one: a loop may open a stream for each epoch."""


def group_memory(specs: Sequence[ArraySpec], slots: int, rows: int) -> "GroupMemory":
    """Memory for `slots` slots of `rows` rows, `kept` or new."""
    with suppress(IndexError):  # none is kept
        memory = kept.pop()
        if memory.shape == (tuple(specs), slots, rows):
            return memory
    return GroupMemory(specs, slots, rows)


class GroupMemory:
    """`slots` slots of `rows` rows each. A lent slot becomes free when no tensor refers to it anymore."""

    def __init__(self, specs: Sequence[ArraySpec], slots: int, rows: int) -> None:
        self.shape = tuple(specs), slots, rows
        self.rows, self._slots = rows, range(slots)
        self._columns = {spec.name: spec.empty(slots * rows) for spec in specs}
        self._bytes = tuple(map(as_bytes, self._columns.values()))
        self.free = deque(self._slots)
        self.lent: set[int] = set()

    def reclaim(self) -> None:
        """Free the slots whose groups were abandoned before they were full."""
        self.free.extend(slot for slot in self._slots if slot not in self.lent and slot not in self.free)

    def put(self, arrays: Mapping[str, np.ndarray], rows: np.ndarray, places: np.ndarray, first: int = 0) -> None:
        """Copy row rows[i] of every array, (rows, *row_shape), to row places[i] of the memory. The arrays' rows are
        numbered from `first`."""
        scatter(tuple(as_bytes(arrays[name]) for name in self._columns), rows, first, places, self._bytes)

    def lend(self, slot: int) -> dict[str, np.ndarray]:
        """The columns of a full slot. Columns other than `x` are small and often kept for a long time, so they are
        copied."""
        part = slice(slot * self.rows, (slot + 1) * self.rows)
        columns = {name: column[part] for name, column in self._columns.items()}
        self.lent.add(slot)
        weakref.finalize(columns["x"], self._take_back, slot).atexit = False
        return {name: column if name == "x" else column.copy() for name, column in columns.items()}

    def _take_back(self, slot: int) -> None:
        self.free.append(slot)  # first, so that `reclaim`, in another thread, always finds it in one of the two
        self.lent.discard(slot)


@compiled
def scatter(
    columns: tuple[np.ndarray, ...], rows: np.ndarray, first: int, places: np.ndarray, out: tuple[np.ndarray, ...]
) -> None:
    """Copy row rows[i] - first of each column to row places[i] of the same column in `out`.

    Rows are bytes: every column is (rows, bytes of a row) uint8. Long rows are copied past the caches, which have no
    room for all groups in memory, and a few rows ahead are fetched: if a filter leaves gaps between the rows, the
    processor does not foresee them. Together, this takes half the time.
    """
    for column in range(len(columns)):
        source, target = columns[column], out[column]
        width, start, to = source.shape[1], source.ctypes.data, target.ctypes.data
        if width >= CACHE_LINE and width % 16 == 0 and to % 16 == 0:
            for i in range(len(places)):
                if i + AHEAD < len(places):
                    ahead = start + (rows[i + AHEAD] - first) * width
                    for line in range(0, min(width, FETCHED), CACHE_LINE):
                        prefetch(ahead + line)
                copy_past_caches(to + places[i] * width, start + (rows[i] - first) * width, width // 16)
        else:
            for i in range(len(places)):
                row, place = rows[i] - first, places[i]
                copy_words(to + place * width, start + row * width, width // 8)
                for j in range(width // 8 * 8, width):
                    target[place, j] = source[row, j]
    finish_copies()
