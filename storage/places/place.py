"""The class `Place`: the operations on a file, a folder or an object, wherever it is stored."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from io import BufferedReader
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, NamedTuple, Protocol, Self, TypeVar

if TYPE_CHECKING:
    import numpy as np


Item = TypeVar("Item")
THREADS = 16  # to write files and to sync folders, each of which waits for the disk or a server


def in_threads(function: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Call a function with each item, several at a time. Raises the first error."""
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(function, items):
            pass


class Status(NamedTuple):
    """The size of a file in bytes, and the time of its last change in nanoseconds since 1970."""

    size: int
    mtime_ns: int


class Entry(NamedTuple):
    """A file below a folder: its name relative to the folder, its size in bytes, and the time of its last change.

    `mtime_ns` is 0 for objects: they are replaced, never changed in place.
    """

    name: str
    size: int
    mtime_ns: int


class RangeReader(Protocol):
    """A file that stays open as long as a reference to this reader exists."""

    @property
    def descriptor(self) -> int | None:
        """The file descriptor, if the operating system has one for it."""
        ...

    def read(self, offset: int, memory: np.ndarray) -> bytes | np.ndarray:
        """Return `len(memory)` bytes from `offset`, or fewer at the end of the file; may be a view of `memory`."""
        ...


class Place(os.PathLike[str]):
    """A location on a local disk or in an object store.

    Places are immutable, hashable, ordered and picklable. `str` gives the absolute path or the URL, from which `locate`
    creates an equal place. A location in an object store denotes the object of that name and, as a folder, all objects
    whose names begin with its name and a slash. There are no empty folders in an object store.
    """

    waits_for_network: ClassVar[bool]
    """Whether each request waits for a server, so that more threads, a local cache and fewer requests pay off."""

    @property
    def latency(self) -> float:
        """The shortest time in which a request has been answered so far, in seconds; 0 if there was none."""
        return 0.0

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def __fspath__(self) -> str:
        """The path, for `open`, `pathlib.Path` and other libraries. Raises UsageError in an object store."""

    @abstractmethod
    def __truediv__(self, name: str) -> Self:
        """The place `name`, which may contain slashes, below this one."""

    @abstractmethod
    def __lt__(self, other: Self) -> bool:
        """Whether this place comes before another of its kind: paths in the order of their parts, URLs as text."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the path or key."""

    @property
    @abstractmethod
    def parent(self) -> Self:
        """The folder of this place."""

    @property
    def suffix(self) -> str:
        """The last suffix of the name, with its dot; empty if it has none."""
        return os.path.splitext(self.name)[1]

    # Questions

    @abstractmethod
    def is_file(self) -> bool:
        """Whether a file or an object of this name exists."""

    @abstractmethod
    def is_dir(self) -> bool:
        """Whether a folder of this name exists. In an object store it does if it contains an object."""

    def exists(self) -> bool:
        """Whether a file or an object of this name exists; on a local disk also a folder. One request at most."""
        return self.is_file()

    @abstractmethod
    def describe(self) -> Status:
        """Size and time of the last change. Raises FileNotFoundError."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names directly in this folder, sorted; none if it does not exist."""

    @abstractmethod
    def subfolders(self) -> list[str]:
        """The names of the folders directly in this one, sorted, by a single request. Some object stores also report
        folders that have become empty."""

    @abstractmethod
    def walk(self, follow_links: bool = False) -> Iterator[Entry]:
        """All files below this folder, in a deterministic order. With `follow_links` also those in linked folders,
        except links to a folder that contains them.

        A local disk yields a folder's own files before those of its subfolders, each sorted; an object store yields
        objects sorted by their names.
        """

    # Reading

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    @abstractmethod
    def read_range(self, start: int, length: int) -> bytes:
        """`length` bytes starting at `start`; fewer, or none, at the end of the file. Raises FileNotFoundError."""

    def request_range(self, start: int, length: int) -> Future[np.ndarray]:
        """Like `read_range`, but where each request waits for a server, this does not. The answer, uint8, raises
        FileNotFoundError, or DatasetError if the store refuses or is away for minutes."""
        answer: Future[np.ndarray] = Future()
        answer.set_result(np.frombuffer(self.read_range(start, length), np.uint8))
        return answer

    @abstractmethod
    def read_into(self, start: int, out: np.ndarray) -> int:
        """Fill `out`, (length,) uint8, with the bytes starting at `start`. Returns the number of bytes read."""

    @abstractmethod
    def open_stream(self) -> BufferedReader:
        """Open the file for sequential reading; the stream can also seek. Raises FileNotFoundError."""

    @abstractmethod
    def open_ranges(self, size: int) -> RangeReader:
        """Open a file of `size` bytes to read ranges from several threads.

        Raises FileNotFoundError, possibly only on the first read, and DamagedError if a local file has another size.
        """

    @abstractmethod
    def file_argument(self) -> str | BinaryIO:
        """This file as libraries such as pyarrow accept it: a path, or a stream that can seek."""

    @abstractmethod
    def zarr_store(self) -> Any:
        """This folder as zarr accepts it: a path, or a store."""

    # Writing

    @abstractmethod
    def write(self, data: bytes | memoryview, durable: bool = True) -> None:
        """Write `data` atomically; see `whole_file`."""

    @abstractmethod
    def write_parts(self, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
        """Write bytes in parts, atomically. Returns their total length and their SHA-256. They are durable, but the
        name only after `sync_folders`.

        A local disk holds one part at a time; an object is sent as a whole.
        """

    @abstractmethod
    def whole_file(self, durable: bool = True) -> AbstractContextManager[Any]:
        """Open a file for writing that appears under its name only when the `with` block ends without an error.

        A crash at any time leaves the old file or the new one, never a partial one. If several writers write the same
        file, the last one wins. With `durable=False` nothing waits for the disk: a crash of the machine (but not of the
        process) may leave the file empty.
        """

    @abstractmethod
    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write files below this folder, given by their names, each atomically, and several at a time. Their names are
        durable only after `sync_folders`."""

    @abstractmethod
    def sync_folders(self) -> None:
        """Make the names of all files and folders below this folder durable, and its own name in its parents.

        Write a file that commits others after this: a file survives a power failure only if the names of all folders
        that contain it do, and other processes may have created these. Objects are durable without it.
        """

    @abstractmethod
    def create(self, data: bytes) -> bool:
        """Create a file. Returns False if it already exists: only one of several writers succeeds."""

    @abstractmethod
    def append_line(self, line: bytes) -> None:
        """Append a line, which must end with a newline, durably. Replaces a last line that was truncated by a crash.

        Only one writer is allowed at a time: an object is read and rewritten.
        """

    @abstractmethod
    def remove(self) -> None:
        """Remove the file or object, if it exists. The removal is durable before anything that follows."""

    @abstractmethod
    def remove_tree(self) -> None:
        """Remove the folder and everything below it, if it exists, as durably as `remove`."""

    @abstractmethod
    def remove_contents(self, keep: str) -> None:
        """Remove everything below this folder except the subfolder `keep`, as durably as `remove`."""

    @abstractmethod
    def remove_if_empty(self) -> None:
        """Remove the folder if it exists and contains nothing."""

    @abstractmethod
    def clean_temporaries(self) -> None:
        """Remove the temporary files that killed writers left below this folder. An object store has none."""

    @abstractmethod
    def new_folder_beside(self) -> Self:
        """A new folder with a unique name in the parent of this place, for temporary files."""

    @abstractmethod
    def lock(self, busy: str) -> AbstractContextManager[None]:
        """Lock this folder exclusively for the duration of a `with` block; the folder is created if necessary.

        The system releases the lock when its holder dies. It also holds between machines, on a shared file system such
        as NFS. Its file does not count as part of the folder's contents. Object stores have no such locks, so the block
        runs without one. Raises ConflictError for a file, and with the message `busy` if another process holds the
        lock.
        """
