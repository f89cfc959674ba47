"""Weighted sampling: how many times each row is used in an epoch, as a pure function of (seed, epoch, block).

Rows are drawn by systematic sampling (Madow and Madow, 1944), from each class or from all rows. The rows are laid out
on a line, each as long as its weight: block by block in the order of the epoch, and shuffled within each block. Draws
are evenly spaced, starting at a random phase. Each row is therefore drawn in proportion to its weight, rounded up or
down, each class exactly as many times as it should be, and the draws from a block follow from the weights of the
preceding blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...storage.blocks.reader import BlockReader, block_runs
from ...storage.compiled import compiled
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.machine import size_text
from ...storage.random import GOLDEN, hash64
from ..seeding import key_of, mixed, shuffled
from .decoded import DecodedBlocks
from .filters import RowFilter
from .order import EPOCHS, mixed_blocks

SAMPLE, PHASE = 6, 7  # keep the uses of the generator apart
VALUES_BYTES = 64 << 20  # of the array by which rows are drawn that stay decoded
TABLE_BYTES = 1 << 30  # of a model's weights by block and line


@dataclass(frozen=True)
class Sampling:
    """How rows are drawn. Either there is a line for each class in the array `y`, with draws in proportion to its rows
    times its factor or, without `factors`, the same number for each class. Or there is one line of all rows, whose
    weights are in another `array`."""

    array: str
    lines: int = 1
    factors: tuple[float, ...] = ()

    def weigh(self, values: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The line, (rows,) integers, and the weight, (rows,) numbers, of rows with these values of the array. `used`
        is whether, or how many times, each row is used."""
        if self.array == "y":
            return values, used.view(np.uint8) if used.dtype == bool else used
        return np.zeros(len(values), np.uint8), values * used

    def draws(self, rows: int, totals: np.ndarray) -> np.ndarray:
        """Divide `rows` draws among the lines, (lines,) int64, by their total weights in `totals`, (lines,), with the
        largest remainder method."""
        shares = totals * self.factors if self.factors else (totals > 0).astype(float)
        if not shares.any():
            raise UsageError("--sample: all rows of a fold have weight 0, so none can be drawn; fix the weights")
        exact = rows * shares / shares.sum()
        whole: np.ndarray = np.floor(exact).astype(np.int64)
        whole[np.argsort(whole - exact, kind="stable")[: rows - int(whole.sum())]] += 1
        return whole


@dataclass(frozen=True, eq=False)
class Lines:
    """The lines of an epoch: where each block begins and ends on each line, in the order of the epoch, `ends`
    (blocks + 1, lines); the place of each block in that order, (blocks,); each line's phase and its total number of
    draws, both (lines,); and the key of the order inside the blocks."""

    ends: np.ndarray
    places: np.ndarray
    phases: np.ndarray
    limits: np.ndarray
    key: np.uint64

    def of_blocks(self) -> np.ndarray:
        """The draws from every block, (blocks,) int64."""
        draws: np.ndarray = count_draws(self.ends, self.phases, self.limits)[self.places]
        return draws

    def of_rows(self, blocks: np.ndarray, stops: np.ndarray, line: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The draws of the rows of some blocks, (rows,) int64; see `draw_rows`."""
        places, keys = self.places[blocks], self.key + blocks.astype(np.uint64) + GOLDEN
        draws: np.ndarray = draw_rows(places, keys, stops, line, weights, self.ends, self.phases, self.limits)
        return draws


class Sampler:
    """The rows of a filter, drawn with replacement by weight: each epoch has as many draws as rows.

    `totals` are the weights of the filter's rows in every block, (blocks, lines) float64, from `total_weights`.
    """

    def __init__(self, dataset: Dataset, rows: RowFilter, sampling: Sampling, totals: np.ndarray, seed: int) -> None:
        self.layout, self.rows, self.sampling, self.totals, self.seed = dataset.layout, rows, sampling, totals, seed
        self.limits = sampling.draws(int(rows.kept().sum()), totals.sum(axis=0))
        self._values = DecodedBlocks(dataset, (dataset.spec(sampling.array),), VALUES_BYTES, None)
        self._lines = lru_cache(EPOCHS)(self._lay_out)

    def _lay_out(self, epoch: int) -> tuple[Lines, np.ndarray]:
        """The lines of an epoch, and the draws from every block."""
        blocks, count = mixed_blocks(len(self.totals), self.seed, epoch), self.sampling.lines
        ends, places = np.zeros((len(blocks) + 1, count)), np.empty(len(blocks), np.int64)
        np.cumsum(self.totals[blocks], axis=0, out=ends[1:])
        places[blocks] = np.arange(len(blocks))
        phases = (hash64(self.seed, epoch, PHASE, np.arange(count)) >> np.uint64(11)) * 2.0**-53
        lines = Lines(ends, places, phases, self.limits, key_of(self.seed, epoch, SAMPLE))
        return lines, lines.of_blocks()

    def kept(self, epoch: int = 0) -> np.ndarray:
        """Draws from every block, (blocks,) int64."""
        return self._lines(epoch)[1]

    def mask(self, blocks: Sequence[int], epoch: int = 0) -> np.ndarray:
        """How many times each row of `blocks` is drawn, one block after another, (rows,) int64."""
        lines, _ = self._lines(epoch)
        values = self._values.column(self.sampling.array, blocks)
        line, weights = self.sampling.weigh(values, self.rows.mask(blocks, epoch))
        stops = np.array([part.stop for part in self.layout.joined(blocks)])
        return lines.of_rows(np.asarray(blocks), stops, line, weights)


@compiled
def drawn_before(reached: float, total: float, phase: float, limit: int) -> int:
    """Number of draws from the first `reached` of a line of length `total`, from which `limit` are drawn."""
    if reached >= total:
        return limit
    return min(limit, int(np.ceil(reached * (limit / total) - phase)))


@compiled
def count_draws(ends: np.ndarray, phases: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The draws from each block in the order of the epoch, (blocks,) int64; see `Lines`."""
    draws = np.zeros(len(ends) - 1, np.int64)
    for line in range(ends.shape[1]):
        total, before = ends[-1, line], 0
        for block in range(len(draws)):
            if ends[block + 1, line] > ends[block, line]:
                up_to = drawn_before(ends[block + 1, line], total, phases[line], limits[line])
                draws[block] += up_to - before
                before = up_to
    return draws


@compiled
def draw_rows(
    places: np.ndarray,
    keys: np.ndarray,
    stops: np.ndarray,
    line: np.ndarray,
    weights: np.ndarray,
    ends: np.ndarray,
    phases: np.ndarray,
    limits: np.ndarray,
) -> np.ndarray:
    """The draws of the rows of some blocks, (rows,) int64: each row lies on its `line`, in a random order within its
    block that is given by the block's key; see `Lines`. The last row of a block on a line has the draws up to where the
    block ends, so that rounding loses none."""
    draws, lines, start = np.zeros(len(line), np.int64), ends.shape[1], 0
    left, before, after = np.empty(lines, np.int64), np.empty(lines, np.int64), np.empty(lines, np.int64)
    density = limits / ends[-1]
    for block in range(len(places)):
        place, stop = places[block], stops[block]
        order = start + shuffled(stop - start, mixed(keys[block]))
        reached = ends[place].copy()
        left[:] = 0
        for row in range(start, stop):
            left[line[row]] += weights[row] > 0
        for on in range(lines):
            if left[on]:
                before[on] = drawn_before(reached[on], ends[-1, on], phases[on], limits[on])
                after[on] = drawn_before(ends[place + 1, on], ends[-1, on], phases[on], limits[on])
        for row in order:
            if weights[row] > 0:
                on = line[row]
                left[on] -= 1
                reached[on] += weights[row]
                up_to = after[on]
                if left[on]:
                    up_to = min(up_to, int(np.ceil(reached[on] * density[on] - phases[on])))
                draws[row] = up_to - before[on]
                before[on] = up_to
        start = stop
    return draws


def total_weights(dataset: Dataset, rows: Mapping[int, RowFilter], sampling: Sampling) -> dict[int, np.ndarray]:
    """The weights of each filter's rows by block and line, (blocks, lines) float64, in one pass over an array.

    Raises UsageError for a negative or missing weight, and for too many blocks and classes.
    """
    blocks, lines = dataset.layout.blocks, sampling.lines
    if blocks * lines * 8 > TABLE_BYTES:
        raise UsageError(
            f"--sample: counting the rows of {lines:,} classes in {blocks:,} blocks needs more than "
            f"{size_text(TABLE_BYTES)} of memory; convert with larger blocks, or use --class-weight instead"
        )
    totals = {number: np.zeros((blocks, lines)) for number in rows}
    reader = BlockReader(dataset, (sampling.array,))
    for run in block_runs(dataset, range(blocks)):
        values = reader.read(run)[sampling.array]
        for number, chosen in rows.items():
            line, weights = sampling.weigh(values, chosen.mask(run))
            if not (weights >= 0).all():
                wrong = weights[~(weights >= 0)][0]
                raise UsageError(
                    f"--sample weight: a row has the weight {wrong:g}; weights must be 0 or more, fix the source"
                )
            for block, part in zip(run, dataset.layout.joined(run), strict=True):
                totals[number][block] = np.bincount(line[part], weights[part], minlength=lines)
    return totals


def draw(dataset: Dataset, rows: Mapping[int, RowFilter], sampling: Sampling | None, seed: int) -> dict[int, RowFilter]:
    """The rows of each filter, drawn if `sampling` is given. Raises UsageError for invalid weights."""
    if sampling is None:
        return dict(rows)
    totals = total_weights(dataset, rows, sampling)
    return {number: Sampler(dataset, one, sampling, totals[number], seed) for number, one in rows.items()}
