"""Samples that are windows over the rows of time series: what they consist of, and where they begin among the rows.

Everything here is a plain value. The rows lie in a dataset of their own, sorted by series and time, below the dataset
of the samples; `storage/blocks/windows.py` reads the samples from them.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

ROWS = "rows"
"""The folder of the dataset of rows in that of the samples."""
RUNS = "windows.npy"
WINDOWED = frozenset({"x", "y"})
"""The arrays of samples that are computed from the rows."""


@dataclass(frozen=True)
class WindowForm:
    """How the rows of series become samples: the features are the values of `length` consecutive rows of a series, and
    the targets those of the column `label` in the `horizon` rows after them.

    The rows with the same values in the columns `groups` are a series, all rows if there are none, and `time` is the
    column that orders them.
    """

    length: int
    horizon: int
    label: str
    time: str
    groups: tuple[str, ...] = ()

    @property
    def span(self) -> int:
        """The number of rows that a sample consists of: those of its features and of its targets."""
        return self.length + self.horizon

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the targets: `load+1`, `load+2`, …"""
        return tuple(f"{self.label}+{step}" for step in range(1, self.horizon + 1))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "groups": tuple(value["groups"])})


class Run(NamedTuple):
    """Consecutive samples whose windows begin at consecutive rows: their slice among the wanted samples, the first row
    of the first window, and the row after the last one of their series."""

    samples: slice
    first_row: int
    series_end: int


@dataclass(frozen=True, eq=False)
class Windows:
    """Where the windows of all samples are.

    `runs` (runs, 3) int64 has, for each run of consecutive samples, the first sample, the first row of its window, and
    the row after the last one of its series. `label` is the position of the label among the features of the rows, and
    `rows` is the identity of the dataset of rows.
    """

    form: WindowForm
    label: int
    rows: str
    runs: np.ndarray

    def runs_of(self, start: int, stop: int) -> Iterator[Run]:
        """The runs of the samples `start` to `stop`."""
        samples = self.runs[:, 0]
        number = int(np.searchsorted(samples, start, side="right")) - 1
        at = start
        while at < stop:
            first, row, end = self.runs[number].tolist()
            number += 1
            until = min(stop, int(samples[number])) if number < len(samples) else stop
            yield Run(slice(at - start, until - start), row + at - first, end)
            at = until

    def first_rows(self, start: int, stop: int) -> np.ndarray:
        """The first row of the window of each sample from `start` to `stop`, (samples,) int64."""
        return np.concatenate(
            [
                np.arange(first, first + samples.stop - samples.start, dtype=np.int64)
                for samples, first, _ in self.runs_of(start, stop)
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """All but the form, which is in the schema, and the runs."""
        return {"label": self.label, "rows": self.rows}

    def to_bytes(self) -> bytes:
        """The runs as the file `RUNS`."""
        data = io.BytesIO()
        np.save(data, self.runs, allow_pickle=False)
        return data.getvalue()

    @classmethod
    def of(cls, form: WindowForm, described: Mapping[str, Any], data: bytes) -> Self:
        """What `to_json` and `to_bytes` describe. Raises ValueError for a file of something else."""
        runs = np.load(io.BytesIO(data), allow_pickle=False)
        return cls(form, described["label"], described["rows"], runs)
