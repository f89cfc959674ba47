"""Places on a local disk. Files are written under a temporary name, fsynced and renamed."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConflictError, DamagedError
from .locks import lock_file, remove_lock
from .place import Entry, Place, Status, in_threads

if TYPE_CHECKING:
    import numpy as np

LOCK = ".foldstream-lock"  # the file in a locked folder; it does not count as part of its contents
TEMPORARIES = (".*.tmp", "*.partial")  # ours, and zarr's
_log = logging.getLogger("foldstream.storage.places")


@dataclass(frozen=True)
class LocalPlace(Place):
    """An absolute path. `locate` makes one from a relative path."""

    path: str

    waits_for_network = False

    def __str__(self) -> str:
        return self.path

    def __fspath__(self) -> str:
        return self.path

    def __truediv__(self, name: str) -> LocalPlace:
        return LocalPlace(os.path.join(self.path, name))

    def __lt__(self, other: LocalPlace) -> bool:
        return self.path.split("/") < other.path.split("/")

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def parent(self) -> LocalPlace:
        return LocalPlace(os.path.dirname(self.path))

    def is_file(self) -> bool:
        return os.path.isfile(self.path)

    def is_dir(self) -> bool:
        return os.path.isdir(self.path)

    def exists(self) -> bool:
        return os.path.exists(self.path)

    def describe(self) -> Status:
        status = os.stat(self.path)
        return Status(status.st_size, status.st_mtime_ns)

    def names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.path) if name != LOCK) if self.is_dir() else []

    def subfolders(self) -> list[str]:
        if not self.is_dir():
            return []
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())

    def walk(self, follow_links: bool = False) -> Iterator[Entry]:
        for base, folders, names in os.walk(self.path, followlinks=follow_links):
            folders.sort()
            if follow_links:
                folders[:] = [name for name in folders if not _leads_back(os.path.join(base, name), self.path)]
            inner = os.path.relpath(base, self.path)
            for name in sorted(set(names) - {LOCK}):
                path = os.path.join(base, name)
                try:
                    status = os.stat(path)
                except FileNotFoundError:
                    _log.warning("%s: skipped because it is a link to a file that does not exist", path)
                    continue
                if stat.S_ISREG(status.st_mode):
                    relative = name if inner == "." else f"{inner}/{name}"
                    yield Entry(relative, status.st_size, status.st_mtime_ns)

    def read_bytes(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read()

    def read_range(self, start: int, length: int) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY)  # for a small image, a file object takes longer than its bytes
        try:
            if start:  # a pipe can be read, but only from its beginning
                os.lseek(descriptor, start, os.SEEK_SET)
            data = os.read(descriptor, length)
            while len(data) < length and (more := os.read(descriptor, length - len(data))):
                data += more
            return data
        finally:
            os.close(descriptor)

    def read_into(self, start: int, out: np.ndarray) -> int:
        with open(self.path, "rb", buffering=0) as file:
            file.seek(start)
            done = 0
            while done < len(out) and (count := file.readinto(out[done:].data)):
                done += count
            return done

    def open_stream(self) -> BufferedReader:
        return open(self.path, "rb")

    def open_ranges(self, size: int) -> _OpenFile:
        return _OpenFile(self.path, size)

    def file_argument(self) -> str:
        return self.path

    def zarr_store(self) -> Path:
        return Path(self.path)

    def write(self, data: bytes | memoryview, durable: bool = True) -> None:
        with self.whole_file(durable) as file:
            file.write(data)

    def write_parts(self, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
        digest = hashlib.sha256()
        with self._replacement() as file:
            for part in parts:
                file.write(part)
                digest.update(part)
            length: int = file.tell()
        return length, digest.hexdigest()

    @contextmanager
    def whole_file(self, durable: bool = True) -> Iterator[Any]:
        missing = self._missing_folders()
        with self._replacement(durable) as file:
            yield file
        if durable:
            self._sync_name(missing)

    @contextmanager
    def _replacement(self, durable: bool = True) -> Iterator[Any]:
        """Like `whole_file`, but its name does not become durable."""
        with self._temporary() as (file, temporary):
            yield file
            self._flush(file, durable)
            os.replace(temporary, self.path)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        def write(name: str) -> None:
            with (self / name)._replacement() as file:
                file.write(files[name])

        in_threads(write, files)

    def sync_folders(self) -> None:
        parents = [self.path]
        while not os.path.ismount(parents[-1]):
            parents.append(os.path.dirname(parents[-1]))
        parents = [folder for folder in parents[1:] if os.access(folder, os.R_OK)]  # others were there before us
        in_threads(_sync_folder, [*(base for base, _, _ in os.walk(self.path)), *parents])

    def create(self, data: bytes) -> bool:
        if self.exists():
            return False
        missing = self._missing_folders()
        with self._temporary() as (file, temporary):
            file.write(data)
            self._flush(file, durable=True)
            try:
                os.link(temporary, self.path)  # unlike a rename, it never replaces
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links: there the caller's lock keeps other writers away
                os.replace(temporary, self.path)
        self._sync_name(missing)
        return True

    def _missing_folders(self) -> list[LocalPlace]:
        """The folders of this file that do not exist, the innermost first."""
        folder, missing = self.parent, list[LocalPlace]()
        while not folder.is_dir() and folder.name:
            missing.append(folder)
            folder = folder.parent
        return missing

    def _sync_name(self, created: Iterable[LocalPlace] = ()) -> None:
        """Make the name of this file durable, and those of its folders that have just been created."""
        for place in (self, *created):
            _sync_folder(place.parent.path)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Any, str]]:
        """A new file with a unique name beside this one; removed afterwards unless it was renamed."""
        folder, name = os.path.split(self.path)
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                yield file, temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    @staticmethod
    def _flush(file: Any, durable: bool) -> None:
        file.flush()
        if durable:
            os.fsync(file.fileno())

    def append_line(self, line: bytes) -> None:
        new = not self.exists()
        with open(self.path, "xb" if new else "r+b") as file:
            if not new:
                complete = self.read_bytes().rfind(b"\n") + 1
                file.truncate(complete)
                file.seek(complete)
            file.write(line)
            self._flush(file, durable=True)
        if new:
            self._sync_name()

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path)
            self._sync_name()

    def remove_tree(self) -> None:
        if self.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
            self._sync_name()

    def remove_contents(self, keep: str) -> None:
        for name in self.names():
            path = os.path.join(self.path, name)
            if os.path.isdir(path) and name != keep:
                shutil.rmtree(path)
            elif os.path.isfile(path):
                os.unlink(path)
        if self.is_dir():
            _sync_folder(self.path)

    def remove_if_empty(self) -> None:
        if self.is_dir() and not self.names():
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, LOCK))
            with suppress(OSError):  # another process has written something meanwhile
                os.rmdir(self.path)

    def clean_temporaries(self) -> None:
        for pattern in TEMPORARIES:
            for leftover in Path(self.path).rglob(pattern):
                leftover.unlink(missing_ok=True)

    def new_folder_beside(self) -> LocalPlace:
        os.makedirs(self.parent.path, exist_ok=True)
        return LocalPlace(tempfile.mkdtemp(prefix=f".{self.name}.", dir=self.parent.path))

    @contextmanager
    def lock(self, busy: str) -> Iterator[None]:
        if self.is_file():
            raise ConflictError(f"{self.path} is a file; name a folder")
        descriptor, path = self._take_lock(busy), os.path.join(self.path, LOCK)
        try:
            yield
        finally:
            remove_lock(path, descriptor)

    def _take_lock(self, busy: str) -> int:
        while True:
            os.makedirs(self.path, exist_ok=True)
            try:
                return lock_file(os.path.join(self.path, LOCK), wait=False)
            except BlockingIOError:
                raise ConflictError(busy) from None
            except FileNotFoundError:  # the last holder has just removed the folder
                continue


class _OpenFile:
    """A file that is read in ranges."""

    def __init__(self, path: str, size: int) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        found = os.fstat(self.descriptor).st_size
        if found != size:
            raise DamagedError(f"the file has {found:,} bytes, but {size:,} were written")

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # modules are gone when a program ends
        if hasattr(self, "descriptor"):
            close(self.descriptor)

    def read(self, offset: int, memory: np.ndarray) -> np.ndarray:
        return memory[: os.preadv(self.descriptor, [memory.data], offset)]


def _leads_back(folder: str, root: str) -> bool:
    """Whether a folder below `root` is a link to one that contains it, also through other links."""
    above = folder if os.path.islink(folder) else root
    target = os.path.realpath(folder).rstrip("/")
    while above != root:
        above = os.path.dirname(above)
        if f"{os.path.realpath(above)}/".startswith(f"{target}/"):
            return True
    return False


def _sync_folder(folder: str) -> None:
    """Make the names in a folder durable: only after this does a rename survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
