"""The series that rows belong to: whether the rows are sorted by series and time, how to sort them, and where windows
begin. The rows' keys are read shard by shard; all else are pure functions of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ...storage.blocks.reader import BlockReader, block_runs
from ...storage.dataset import Dataset
from ...storage.errors import SourceError, UsageError
from ...storage.format.arrays import SideColumn
from ...storage.format.windows import WindowForm
from ..predictions.columns import side_values


@dataclass(frozen=True, eq=False)
class RowKeys:
    """What orders rows: the number of the series of each row, (rows,) int64, in the order of the values of its group
    columns, and its time, (rows,) int64 or float64."""

    series: np.ndarray
    times: np.ndarray

    @property
    def sorted(self) -> bool:
        """Whether the rows of each series follow one another, from earlier to later."""
        new = self.series[1:] != self.series[:-1]
        later = self.times[1:] > self.times[:-1]
        together = 1 + int(new.sum()) == len(np.unique(self.series))
        return together and bool((new | later).all())

    def order(self) -> np.ndarray:
        """The rows sorted by series and time, (rows,) int64. Rows with equal keys stay in their order."""
        return np.lexsort((self.times, self.series))

    def repeated(self, order: np.ndarray) -> tuple[int, int] | None:
        """The first two rows, in this order, of the same series and time."""
        series, times = self.series[order], self.times[order]
        same = (series[1:] == series[:-1]) & (times[1:] == times[:-1])
        if not same.any():
            return None
        place = int(same.argmax())
        first, second = sorted(order[place : place + 2].tolist())
        return first, second

    def other_steps(self) -> int:
        """The number of steps in time from a sorted row to the next one of its series that differ from most steps."""
        steps = np.diff(self.times)[self.series[1:] == self.series[:-1]]
        _, counts = np.unique(steps, return_counts=True)
        return int(counts.sum() - counts.max(initial=0))


@dataclass(frozen=True, eq=False)
class Series:
    """The series of sorted rows: the first row of each, and the number of rows, (series + 1,) int64."""

    starts: np.ndarray

    @classmethod
    def of(cls, keys: RowKeys) -> Self:
        """The series of sorted rows."""
        new = np.flatnonzero(keys.series[1:] != keys.series[:-1]) + 1
        return cls(np.concatenate([[0], new, [len(keys.series)]]).astype(np.int64))

    def runs(self, form: WindowForm, known: np.ndarray | None) -> tuple[np.ndarray, int]:
        """The runs of windows, see `Windows`, and the number of samples. `known`, (rows,) bool, says which rows have
        the label, and a sample needs all of its targets; if it is None, it needs none."""
        rows, lengths = int(self.starts[-1]), np.diff(self.starts)
        ends = np.repeat(self.starts[1:], lengths)
        begins = np.arange(rows, dtype=np.int64) + (form.length if known is None else form.span) <= ends
        if known is not None:
            missing = np.concatenate([[0], np.cumsum(~known)])
            first = np.minimum(np.arange(rows) + form.length, rows)
            begins &= missing[np.minimum(first + form.horizon, rows)] == missing[first]
        follows = np.concatenate([[False], begins[:-1]])
        follows[self.starts[:-1]] = False
        firsts = np.flatnonzero(begins & ~follows)
        samples = np.cumsum(begins) - 1
        return np.stack([samples[firsts], firsts, ends[firsts]], axis=1).astype(np.int64), int(begins.sum())

    def short(self, form: WindowForm) -> int:
        """The number of series that are too short for a sample."""
        return int((np.diff(self.starts) < form.span).sum())


def read_keys(rows: Dataset, form: WindowForm) -> RowKeys:
    """Read the keys of all rows: 16 bytes a row of memory, and 8 more for each group column. Raises UsageError for
    columns that cannot order rows."""
    time = column_of(rows, form.time)
    if time.kind == "text":
        raise UsageError(
            f"--time {form.time}: the column is text, which has no order in time; use a column of numbers or dates, or "
            f"say how its dates are written with --date-format {form.time}=FORMAT"
        )
    times = read_column(rows, time)
    series = np.zeros(len(rows), np.int64)
    for name in form.groups:
        codes, count = read_codes(rows, column_of(rows, name))
        series = series * count + codes
    return RowKeys(series, times)


def column_of(rows: Dataset, name: str) -> SideColumn:
    """A column beside the rows. Raises UsageError if there is none of that name."""
    found = next((column for column in rows.schema.beside if column.name == name), None)
    if found is None:
        raise UsageError(f"{source_of(rows)} has no column '{name}', which says what the rows of a series are; add it")
    return found


def read_column(rows: Dataset, column: SideColumn) -> np.ndarray:
    """All values of a column of numbers or dates, (rows,)."""
    reader, layout = BlockReader(rows, (column.array,)), rows.layout
    shards = (reader.read(layout.blocks_of(shard))[column.array] for shard in range(layout.shards))
    return np.concatenate(list(shards))


def read_codes(rows: Dataset, column: SideColumn) -> tuple[np.ndarray, int]:
    """The position of each row's value among the sorted values of a column, (rows,) int64, and their number."""
    reader, layout = BlockReader(rows, (column.array,)), rows.layout
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for shard in range(layout.shards):
        stored = reader.read(layout.blocks_of(shard))[column.array]
        values = np.ascontiguousarray(stored).view(f"S{stored.shape[1]}")[:, 0] if stored.ndim == 2 else stored
        parts.append(np.unique(values, return_inverse=True))
    every = np.unique(np.concatenate([values for values, _ in parts]))
    codes = [np.searchsorted(every, values)[inverse.reshape(-1)] for values, inverse in parts]
    return np.concatenate(codes).astype(np.int64), len(every)


def read_known(rows: Dataset, label: str) -> np.ndarray:
    """Which rows have the label, (rows,) bool."""
    known, layout, place = np.ones(len(rows), bool), rows.layout, rows.schema.features.index(label)
    if np.dtype(rows.schema.x_dtype).kind != "f":
        return known
    reader = BlockReader(rows)
    for blocks in block_runs(rows, range(layout.blocks)):
        first = layout.block_range(blocks[0])[0]
        values = reader.read(blocks)["x"][:, place]
        known[first : first + len(values)] = ~np.isnan(values)
    return known


def repetition(rows: Dataset, form: WindowForm, pair: tuple[int, int]) -> SourceError:
    """The error for two rows of the same series and time."""
    where = [f"{form.time} {shown(rows, form.time, pair[0])}"]
    where += [f"{name} {shown(rows, name, pair[0])}" for name in form.groups]
    first, second = (row_of(rows, row) for row in pair)
    remedy = "remove one of them" + ("" if form.groups else ", or name the column of the series with --group")
    return SourceError(
        f"{source_of(rows)}: rows {first:,} and {second:,} have the same {' and '.join(where)}; {remedy}"
    )


def shown(rows: Dataset, name: str, row: int) -> str:
    """A value of a column, as text."""
    column = column_of(rows, name)
    (block,), (place,) = rows.layout.blocks_at(np.array([row]))
    stored = BlockReader(rows, (column.array,)).read([int(block)])[column.array][place : place + 1]
    return str(side_values(column, stored)[0].as_py())


def row_of(rows: Dataset, row: int) -> int:
    """The number of a row in the sources, from 1."""
    (block,), (place,) = rows.layout.blocks_at(np.array([row]))
    ids = BlockReader(rows, ("id",)).read([int(block)])["id"][place : place + 1]
    return int(rows.source_rows(ids)[0]) + 1


def source_of(rows: Dataset) -> str:
    """The first source of the rows."""
    sources: Sequence[dict[str, str]] = rows.request["sources"]
    return sources[0]["path"]
