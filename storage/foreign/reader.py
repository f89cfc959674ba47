"""Read rows of the foreign arrays of a dataset, whatever format they are in."""

from threading import Lock
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np

from .cache import DecodedChunks
from .chunks import ChunkReader
from .files import ForeignFiles
from .format import Chunked, Description, Foreign, Groups
from .groups import GroupReader
from .sparse import SparseReader


class RowReader(Protocol):
    """Reads rows of a foreign array."""

    def read(self, start: int, stop: int, out: np.ndarray) -> int:
        """Read the rows `start` to `stop` into `out`, (rows, *row_shape). Returns the number of stored bytes read."""
        ...


class ForeignReader:
    """Reads the foreign arrays of a dataset; may be used by several threads. Raises DamagedError for files that have
    changed since they were adopted, and for bytes that cannot be decoded."""

    def __init__(self, foreign: Foreign) -> None:
        files, cache = ForeignFiles(foreign), DecodedChunks()
        self._arrays = foreign.arrays
        self._readers = {name: _reader(name, one, files, cache) for name, one in foreign.arrays.items()}

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> int:
        """Read the rows `start` to `stop` of an array into `out`, (rows, …) with as many values in a row. Returns the
        number of stored bytes read."""
        shape = self._arrays[name].row_shape
        target = out if out.shape[1:] == shape else out.reshape(len(out), *shape)
        return self._readers[name].read(start, stop, target)


def shared_reader(identity: str, foreign: Foreign) -> ForeignReader:
    """The reader of a dataset's foreign arrays, one for all its users in this process, so that their decoded chunks
    take memory once."""
    with _lock:
        reader = _shared.get(identity)
        if reader is None:
            _shared[identity] = reader = ForeignReader(foreign)
    return reader


_shared: WeakValueDictionary[str, ForeignReader] = WeakValueDictionary()
_lock = Lock()


def _reader(name: str, array: Description, files: ForeignFiles, cache: DecodedChunks) -> RowReader:
    if isinstance(array, Chunked):
        return ChunkReader(name, array, files, cache)
    return (GroupReader if isinstance(array, Groups) else SparseReader)(name, array, files, cache)  # type: ignore[arg-type]
