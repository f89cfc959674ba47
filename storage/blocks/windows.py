"""Read samples that are windows over rows: the blocks of rows are decoded once, and windows are copied from them.

NumPy copies without the interpreter's lock, so several threads read at once.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..foreign.cache import DecodedChunks
from ..format.layout import Layout
from ..format.windows import Windows

Decode = Callable[[int], np.ndarray]
"""Decodes a block of rows: (rows, columns)."""


class WindowReader:
    """Reads `x`, (samples, channels, length), and `y`, (samples, horizon), of samples, given a function that decodes a
    block of rows with this `layout`, and the stored length of each block, (blocks,). The label is the first channel.
    May be used by several threads."""

    def __init__(self, windows: Windows, layout: Layout, decode: Decode, lengths: np.ndarray) -> None:
        self.windows, self.layout = windows, layout
        self._decode, self._lengths, self._cache = decode, lengths, DecodedChunks()

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> int:
        """Read `x` or `y` of the samples `start` to `stop` into `out`. Targets after the end of a series are NaN.
        Returns the number of stored bytes read."""
        form, decoded = self.windows.form, set[int]()
        for samples, first, end in self.windows.runs_of(start, stop):
            count = samples.stop - samples.start
            if name == "x":
                columns = self._columns(first, first + count + form.length - 1, decoded)
                out[samples] = sliding_window_view(columns, form.length, axis=1).swapaxes(0, 1)
                continue
            target = out[samples].reshape(count, form.horizon)
            after = first + form.length
            known = self._columns(after, min(end, after + count + form.horizon - 1), decoded, label_only=True)[0]
            values = np.full(count + form.horizon - 1, np.nan)
            values[: len(known)] = known
            target[...] = sliding_window_view(values, form.horizon)
        return int(self._lengths[list(decoded)].sum())

    def _columns(self, start: int, stop: int, decoded: set[int], label_only: bool = False) -> np.ndarray:
        """The rows `start` to `stop` by column, the label first, (columns, rows). Adds the blocks that are decoded."""
        if stop <= start:
            return np.empty((1, 0))
        label, parts = self.windows.label, []
        first, last = self.layout.blocks_at(np.array([start, stop - 1]))[0].tolist()
        for block in range(first, last + 1):
            begin, _ = self.layout.block_range(block)
            rows = self._cache.get(block, partial(self._decode_noted, block, decoded))
            part = rows[max(0, start - begin) : stop - begin].T
            parts.append(part[label : label + 1] if label_only else part)
        joined = np.concatenate(parts, axis=1)
        if label and not label_only:
            joined = np.concatenate([joined[label : label + 1], np.delete(joined, label, axis=0)])
        return np.ascontiguousarray(joined)

    def _decode_noted(self, block: int, decoded: set[int]) -> np.ndarray:
        decoded.add(block)
        return self._decode(block)
