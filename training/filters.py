"""Which rows of a dataset take part: counts a block for the order, masks a window for the stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..storage.dataset import StoredArrays
from ..storage.errors import UsageError
from ..storage.format import Layout
from ..storage.reader import BlockReader


class RowFilter(Protocol):
    """A choice of rows that is made block by block."""

    def kept(self) -> np.ndarray:
        """Chosen rows of every block, (blocks,) int64."""
        ...

    def mask(self, blocks: Sequence[int]) -> np.ndarray:
        """Which rows of `blocks` are chosen, one block after the other, (rows,) bool."""
        ...


@dataclass(frozen=True)
class EveryRow:
    """All rows."""

    layout: Layout

    def kept(self) -> np.ndarray:
        return self.layout.block_sizes()

    def mask(self, blocks: Sequence[int]) -> np.ndarray:
        return np.ones(sum(stop - start for start, stop in map(self.layout.block_range, blocks)), bool)


class FoldFilter:
    """The rows of one fold (`inside`), or all others: those that train its model."""

    def __init__(self, folds: StoredArrays, fold: int, inside: bool = False) -> None:
        self.folds, self.fold, self.inside = folds, fold, inside
        self._reader = BlockReader(folds, ("fold",))

    def kept(self) -> np.ndarray:
        counts = self.folds.block_table("fold_counts").astype(np.int64)
        of_fold: np.ndarray = counts[:, self.fold]
        return of_fold if self.inside else counts.sum(axis=1) - of_fold

    def mask(self, blocks: Sequence[int]) -> np.ndarray:
        mask: np.ndarray = (self._reader.read(blocks)["fold"] == self.fold) == self.inside
        return mask


class SubsetFilter:
    """The rows that a boolean array of all rows, or an array of row numbers, names. Held in memory, a byte a row."""

    def __init__(self, layout: Layout, rows: np.ndarray) -> None:
        self.layout = layout
        given = np.asarray(rows)
        if given.dtype != bool:
            self.chosen = np.zeros(layout.rows, bool)
            if given.dtype.kind not in "iu" or (given.size and not 0 <= given.min() <= given.max() < layout.rows):
                raise UsageError(f"rows: give row numbers from 0 to {layout.rows - 1:,}, or a boolean for every row")
            self.chosen[given] = True
        elif given.shape == (layout.rows,):
            self.chosen = given
        else:
            raise UsageError(f"rows: {given.shape} booleans, but the dataset has {layout.rows:,} rows")

    def kept(self) -> np.ndarray:
        starts = np.arange(0, self.layout.rows, self.layout.block_rows)
        return np.add.reduceat(self.chosen, starts, dtype=np.int64)

    def mask(self, blocks: Sequence[int]) -> np.ndarray:
        return np.concatenate([self.chosen[slice(*self.layout.block_range(block))] for block in blocks])


@dataclass(frozen=True)
class Both:
    """The rows that two filters choose. Counting them reads both once."""

    layout: Layout
    one: RowFilter
    other: RowFilter

    def kept(self) -> np.ndarray:
        one, other = self.one.kept(), self.other.kept()
        undecided = np.flatnonzero((one > 0) & (other > 0))
        counts = np.zeros(self.layout.blocks, np.int64)
        counts[undecided] = [self.mask([block]).sum() for block in undecided.tolist()]
        return counts

    def mask(self, blocks: Sequence[int]) -> np.ndarray:
        mask: np.ndarray = self.one.mask(blocks) & self.other.mask(blocks)
        return mask
