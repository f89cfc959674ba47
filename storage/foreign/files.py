"""Files of others, read in ranges: each is compared with what it was when it was adopted, so that a file that has
changed since never gives rows of two versions."""

import os
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..errors import DamagedError, FoldstreamError
from ..places.locate import locate
from ..places.place import RangeReader
from .format import Foreign

OPEN_FILES = 128
REMEDY = "adopt it again with 'foldstream adopt … --overwrite', or restore the file as it was"


class _Opened(NamedTuple):
    path: str
    size: int
    mtime_ns: int
    reader: RangeReader


class ForeignFiles:
    """The files of foreign arrays, of which the last used ones stay open."""

    def __init__(self, foreign: Foreign) -> None:
        self.paths, self.known = foreign.files, foreign.known
        self._opened = lru_cache(OPEN_FILES)(_Opener(foreign))

    def read(self, file: int, offset: int, memory: np.ndarray) -> bytes | np.ndarray:
        """Return `len(memory)` bytes of a file from `offset`; may be a view of `memory`, (bytes,) uint8.

        Raises DamagedError if the file has changed since it was adopted, or is missing.
        """
        opened = self._opened(file)
        found = opened.reader.read(offset, memory)
        self.check_opened(file)
        if len(found) != len(memory):
            raise changed(opened.path)
        return found

    def descriptor(self, file: int) -> int | None:
        """The descriptor of a local file, for code that reads it by itself, after which `check_opened` must be called.
        Raises DamagedError as `read` does."""
        return self._opened(file).reader.descriptor

    def check_opened(self, file: int) -> None:
        """Raise DamagedError if an open local file has changed since it was adopted."""
        opened = self._opened(file)
        if (descriptor := opened.reader.descriptor) is not None:
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != (opened.size, opened.mtime_ns):
                raise changed(opened.path)

    def check(self, file: int) -> str:
        """The path of a file that is as it was. Raises DamagedError for others."""
        path, size, mtime_ns = self.known(file)
        check_unchanged(path, size, mtime_ns)
        return path


class _Opener:
    """Opens files, without a reference to who keeps them open."""

    def __init__(self, foreign: Foreign) -> None:
        self.known = foreign.known

    def __call__(self, file: int) -> _Opened:
        path, size, mtime_ns = self.known(file)
        check_unchanged(path, size, mtime_ns)
        return _Opened(path, size, mtime_ns, locate(path).open_ranges(size))


def check_unchanged(path: str, size: int, mtime_ns: int) -> None:
    """Raise DamagedError if a file is missing, or does not have this size and time of its last change."""
    try:
        found = locate(path).describe()
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"{path}: the file is missing; restore it, or adopt what is there now") from None
    if found.size != size:
        raise changed(path, f"it has {found.size:,} bytes, and had {size:,}")
    if mtime_ns and found.mtime_ns != mtime_ns:  # objects that were listed have none
        raise changed(path)


def changed(path: str, what: str = "") -> FoldstreamError:
    """The error for a file that is not as it was."""
    return DamagedError(f"{path} has changed since it was adopted{f' ({what})' if what else ''}; {REMEDY}")
