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

    def read(self, start: int, stop: int, out: np.ndarray) -> int:
        """Read the rows `start` to `stop` into `out`, (rows, width). Returns the number of stored bytes read.

        Raises DamagedError for pointers and indices that are not those of a matrix of this shape.
        """
        from .scatter import place_values  # loads numba, which few processes need

        counts = [0, 0, 0]
        pointers, counts[0] = self._read("pointers", start, stop + 1, np.int64)
        first, last = int(pointers[0]), int(pointers[-1])
        if (np.diff(pointers) < 0).any() or not 0 <= first <= last <= self.array.values.rows:
            raise self._damaged(start, stop, "pointers")
        indices = np.dtype(self.array.indices.dtype).newbyteorder("=")
        columns, counts[1] = self._read("indices", first, last, indices)
        values, counts[2] = self._read("values", first, last, out.dtype)
        if not place_values(pointers, columns, values, out):
            raise self._damaged(start, stop, "indices")
        return sum(counts)

    def _read(self, part: str, start: int, stop: int, dtype: np.typing.DTypeLike) -> tuple[np.ndarray, int]:
        found = np.empty(stop - start, dtype)
        return found, self._parts[part].read(start, stop, found) if stop > start else 0

    def _damaged(self, start: int, stop: int, what: str) -> DamagedError:
        return DamagedError(
            f"'{self.name}', rows {start:,} to {stop - 1:,}: its {what} are not those of a sparse matrix of "
            f"{self.array.rows:,} x {self.array.width:,}; write it again, and adopt it again"
        )
