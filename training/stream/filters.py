"""Selections of a dataset's rows: counts per block for the order, masks per window for the stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np

from ...storage.errors import UsageError
from ...storage.fold_plan import MOST_CODES, FoldPlan, among
from ...storage.format.layout import Layout
from .decoded import DecodedBlocks

CODES_BYTES = 32 << 20  # of the codes in an array of a fold plan that stay decoded


class RowFilter(Protocol):
    """A selection of rows, made block by block. A row may be used several times, and the selection may vary by
    epoch."""

    def kept(self, epoch: int = 0) -> np.ndarray:
        """Number of rows used from every block, where a row that is used twice counts twice, (blocks,) int64."""
        ...

    def mask(self, blocks: Sequence[int], epoch: int = 0) -> np.ndarray:
        """Which rows of `blocks` are used, one block after another, (rows,) bool; or how many times, (rows,) int64."""
        ...


@dataclass(frozen=True)
class EveryRow:
    """All rows."""

    layout: Layout

    def kept(self, epoch: int = 0) -> np.ndarray:
        return self.layout.block_sizes()

    def mask(self, blocks: Sequence[int], epoch: int = 0) -> np.ndarray:
        return np.ones(sum(stop - start for start, stop in map(self.layout.block_range, blocks)), bool)


_DECODED: "WeakValueDictionary[tuple[str, str, str], DecodedBlocks]" = WeakValueDictionary()


def _decoded_codes(plan: FoldPlan, array: str) -> DecodedBlocks:
    """The decoded codes of an array, which the filters of all models share. With all rows of a dataset in memory, a
    stream would otherwise spend most of its time on them."""
    key = str(plan.place), plan.identity, array
    shared = _DECODED.get(key) or DecodedBlocks(plan, (plan.spec(array),), CODES_BYTES, None)
    _DECODED[key] = shared
    return shared


class CodeFilter:
    """The rows whose code in an array of a fold plan is one of `codes`."""

    def __init__(self, plan: FoldPlan, array: str, codes: tuple[int, ...]) -> None:
        self.plan, self.array, self.codes = plan, array, codes
        self._chosen = among(np.arange(MOST_CODES), codes)
        self._decoded = _decoded_codes(plan, array)

    def kept(self, epoch: int = 0) -> np.ndarray:
        return self.plan.counts(self.array, self.codes)

    def mask(self, blocks: Sequence[int], epoch: int = 0) -> np.ndarray:
        mask: np.ndarray = self._chosen[self._decoded.column(self.array, blocks)]
        return mask


def training_rows(plan: FoldPlan, model: int) -> CodeFilter:
    """The rows that a model of a plan trains on."""
    rows = plan.model(model)
    return CodeFilter(plan, rows.array, rows.train)


def held_out_rows(plan: FoldPlan, model: int) -> CodeFilter:
    """The rows that are held out from a model of a plan."""
    rows = plan.model(model)
    return CodeFilter(plan, rows.array, rows.held_out)


class SubsetFilter:
    """The rows given by a boolean array over all rows, or by an array of row indices, possibly with repetitions. Takes
    one byte of memory per row of the dataset, or eight if any index is repeated."""

    def __init__(self, layout: Layout, rows: np.ndarray) -> None:
        self.layout = layout
        given = np.asarray(rows)
        if given.dtype != bool:
            if given.dtype.kind not in "iu" or (given.size and not 0 <= given.min() <= given.max() < layout.rows):
                raise UsageError(
                    f"rows: invalid selection; use row indices from 0 to {layout.rows - 1:,}, or one boolean per row"
                )
            counts = np.bincount(given.astype(np.int64).reshape(-1), minlength=layout.rows)
            self.chosen = counts if (counts > 1).any() else counts > 0
        elif given.shape == (layout.rows,):
            self.chosen = given
        else:
            raise UsageError(
                f"rows: the mask has shape {given.shape}, but there are {layout.rows:,} rows; use one boolean per row"
            )

    def kept(self, epoch: int = 0) -> np.ndarray:
        return np.add.reduceat(self.chosen, self.layout.block_starts(), dtype=np.int64)

    def mask(self, blocks: Sequence[int], epoch: int = 0) -> np.ndarray:
        return np.concatenate([self.chosen[slice(*self.layout.block_range(block))] for block in blocks])


@dataclass(frozen=True)
class Both:
    """The rows that both filters select, with their counts multiplied. Counting them reads both once."""

    layout: Layout
    one: RowFilter
    other: RowFilter

    def kept(self, epoch: int = 0) -> np.ndarray:
        one, other = self.one.kept(epoch), self.other.kept(epoch)
        undecided = np.flatnonzero((one > 0) & (other > 0))
        counts = np.zeros(self.layout.blocks, np.int64)
        counts[undecided] = [self.mask([block], epoch).sum() for block in undecided.tolist()]
        return counts

    def mask(self, blocks: Sequence[int], epoch: int = 0) -> np.ndarray:
        mask: np.ndarray = self.one.mask(blocks, epoch) * self.other.mask(blocks, epoch)
        return mask
