"""Read samples that are windows over rows: the blocks of rows are decoded once, and windows are copied from them.

NumPy copies without the interpreter's lock, so several threads read at once.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..format import Layout
from ..foreign.cache import DecodedChunks
from ..windows import Windows


class RowReader(Protocol):
    """Reads blocks of rows, and of these `x`, (rows, columns)."""

    @property
    def bytes_read(self) -> int: ...
    def read(self, blocks: Sequence[int]) -> dict[str, np.ndarray]: ...


class WindowReader:
    """Reads `x`, (samples, channels, length), and `y`, (samples, horizon), of samples from `rows` with this layout. The
    label is the first channel. May be used by several threads."""

    def __init__(self, windows: Windows, layout: Layout, rows: RowReader) -> None:
        self.windows, self.layout, self.rows = windows, layout, rows
        self._cache = DecodedChunks()

    @property
    def bytes_read(self) -> int:
        """Number of stored bytes read."""
        return self.rows.bytes_read

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        """Read `x` or `y` of the samples `start` to `stop` into `out`. Targets after the end of a series are NaN."""
        form = self.windows.form
        for samples, first, end in self.windows.runs_of(start, stop):
            count = samples.stop - samples.start
            if name == "x":
                columns = self._columns(first, first + count + form.length - 1)
                out[samples] = sliding_window_view(columns, form.length, axis=1).swapaxes(0, 1)
                continue
            target = out[samples].reshape(count, form.horizon)
            after = first + form.length
            known = self._columns(after, min(end, after + count + form.horizon - 1), label_only=True)[0]
            values = np.full(count + form.horizon - 1, np.nan)
            values[: len(known)] = known
            target[...] = sliding_window_view(values, form.horizon)

    def _columns(self, start: int, stop: int, label_only: bool = False) -> np.ndarray:
        """The rows `start` to `stop` by column, the label first, (columns, rows)."""
        if stop <= start:
            return np.empty((1, 0))
        label, parts = self.windows.label, []
        first, last = self.layout.blocks_at(np.array([start, stop - 1]))[0].tolist()
        for block in range(first, last + 1):
            begin, _ = self.layout.block_range(block)
            rows = self._cache.get(block, lambda: self.rows.read([block])["x"])  # noqa: B023 - called at once
            part = rows[max(0, start - begin) : stop - begin].T
            parts.append(part[label : label + 1] if label_only else part)
        joined = np.concatenate(parts, axis=1)
        if label and not label_only:
            joined = np.concatenate([joined[label : label + 1], np.delete(joined, label, axis=0)])
        return np.ascontiguousarray(joined)
