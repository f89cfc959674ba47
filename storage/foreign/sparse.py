"""Rows of a sparse matrix, which become dense when they are read."""

import numpy as np

from ..errors import DamagedError
from .cache import DecodedChunks
from .chunks import ChunkReader
from .files import ForeignFiles
from .format import Sparse


class SparseReader:
    """Reads rows of a matrix in compressed sparse rows."""

    def __init__(self, name: str, array: Sparse, files: ForeignFiles, cache: DecodedChunks) -> None:
        self.name, self.array = name, array
        self._parts = {part: ChunkReader(f"{name}/{part}", one, files, cache) for part, one in array.parts.items()}

    @property
    def bytes_read(self) -> int:
        """Number of stored bytes read."""
        return sum(part.bytes_read for part in self._parts.values())

    def read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Read the rows `start` to `stop` into `out`, (rows, width).

        Raises DamagedError for pointers and indices that are not those of a matrix of this shape.
        """
        pointers = self._read("pointers", start, stop + 1, np.int64)
        first, last = int(pointers[0]), int(pointers[-1])
        if (np.diff(pointers) < 0).any() or not 0 <= first <= last <= self.array.values.rows:
            raise self._damaged(start, stop, "pointers")
        columns = self._read("indices", first, last, np.int64)
        values = self._read("values", first, last, out.dtype)
        if len(columns) and not (columns.min() >= 0 and columns.max() < self.array.width):
            raise self._damaged(start, stop, "indices")
        rows = np.repeat(np.arange(stop - start), np.diff(pointers))
        out[...] = 0
        np.add.at(out, (rows, columns), values)  # values of one place add up, as in SciPy

    def _read(self, part: str, start: int, stop: int, dtype: np.typing.DTypeLike) -> np.ndarray:
        found = np.empty(stop - start, dtype)
        if stop > start:
            self._parts[part].read(start, stop, found)
        return found

    def _damaged(self, start: int, stop: int, what: str) -> DamagedError:
        return DamagedError(
            f"'{self.name}', rows {start:,} to {stop - 1:,}: its {what} are not those of a sparse matrix of "
            f"{self.array.rows:,} x {self.array.width:,}; write it again, and adopt it again"
        )
