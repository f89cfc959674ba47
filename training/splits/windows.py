"""Folds of samples that are windows over time series: no row of a held-out sample is in a training sample.

Each model is evaluated on the samples that begin within an interval of time, and trains on those whose last target is
before it. Samples that reach from before into the interval belong to neither: a model would know targets that it is
evaluated on. Whole series may be held out instead (`group`). Every other kind of split leaks.
"""

from dataclasses import dataclass

import numpy as np

from ...storage.blocks.reader import BlockReader
from ...storage.dataset import Dataset, open_rows
from ...storage.errors import UsageError
from ...storage.fold_plan import ModelRows, code_array
from ...storage.format.windows import WindowForm
from .assignments import HELD_OUT, HOLDOUT, PURGED, PURGED_HELD_OUT, TRAIN, UNUSED, Assignment
from .columns import find_column
from .split import Split


@dataclass(frozen=True)
class ByWindow(Assignment):
    """time, of windows: one array of codes per model.

    `starts` are the times at which the held-out intervals of the models begin, `end` is where that of the last model
    ends and the holdout begins, and `gap` the time before an interval that no training sample reaches into.
    """

    starts: tuple[float, ...]
    end: float
    gap: float

    @property
    def models(self) -> tuple[ModelRows, ...]:
        held_out = (HELD_OUT, PURGED_HELD_OUT) if self.holdout else (HELD_OUT,)
        return tuple(ModelRows(code_array(model), (TRAIN,), held_out) for model in range(len(self.starts)))

    @property
    def holdout(self) -> tuple[int, ...]:
        return (HOLDOUT,) if np.isfinite(self.end) else ()

    @property
    def purged(self) -> tuple[int, ...]:
        return (PURGED, PURGED_HELD_OUT) if self.holdout else ()

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        first, last = (times.astype(np.float64) for times in read_spans(dataset, shard))
        arrays = []
        for start, stop in zip(self.starts, (*self.starts[1:], self.end), strict=True):
            codes = np.full(len(first), UNUSED, np.uint8)
            codes[last < start - self.gap] = TRAIN
            codes[(first >= start) & (first < stop)] = HELD_OUT
            codes[(last >= self.end - self.gap) & (codes == UNUSED)] = PURGED
            codes[(last >= self.end - self.gap) & (codes == HELD_OUT)] = PURGED_HELD_OUT
            codes[first >= self.end] = HOLDOUT
            arrays.append(codes)
        return arrays


def read_spans(dataset: Dataset, shard: int) -> tuple[np.ndarray, np.ndarray]:
    """The times of the first row of each of a shard's windows, and of the last row of its targets, (samples,) each."""
    rows, windows = open_rows(dataset), dataset.windows
    assert windows
    first = windows.first_rows(*dataset.layout.shard_range(shard))
    last = first + windows.form.span - 1
    low, high = int(first.min()), int(last.max())
    blocks = rows.layout.blocks_at(np.array([low, high]))[0].tolist()
    array = find_column(rows.schema, windows.form.time).array
    times = BlockReader(rows, (array,)).read(range(blocks[0], blocks[1] + 1))[array]
    begin = rows.layout.block_range(blocks[0])[0]
    return times[first - begin], times[last - begin]


def rows_apart(dataset: Dataset) -> int:
    """About how many samples reach into an interval of time from before it: those of every series that do. At most half
    of all, since series may follow one another."""
    windows = dataset.windows
    assert windows
    return min(len(np.unique(windows.runs[:, 2])) * (windows.form.span - 1), len(dataset) // 2)


def check_window_split(split: Split, form: WindowForm) -> None:
    """Raise UsageError for a split by which a training sample could have rows of a held-out one."""
    allowed = "--split time" + (" or --split group, which holds out whole series" if form.groups else "")
    if split.kind == "time" and split.group_column:
        raise UsageError(
            "--group-column cannot be used with --split time here: windows never reach across series, and training "
            "samples end before held-out ones begin; remove the option, or use --split group"
        )
    known = {"time": (form.time,), "group": form.groups}.get(split.kind)
    if known is None:
        raise UsageError(
            f"--split {split.kind}: samples are windows that share rows with their neighbors, so models would train on "
            f"targets that they are evaluated on; use {allowed}"
        )
    if split.column not in known:
        one_of = " or ".join(known) or "none, because the dataset has a single series"
        raise UsageError(
            f"--split {split.kind}: the column '{split.column}' does not say which samples share rows; "
            + (f"use {one_of}" if known else f"use {allowed}")
        )
