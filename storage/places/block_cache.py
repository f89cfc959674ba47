"""A bounded on-disk cache for blocks of datasets in object stores, in their stored form.

The order of an epoch is known in advance, so the cache evicts the block that will be needed furthest in the future
(Belady, "A study of replacement algorithms for a virtual-storage computer", 1966). All processes of a machine read each
other's blocks and share one budget, the bytes in the folder, which they count in a file. They change files and the
count only under its lock, so that a temporary file that is seen under the lock is what a killed process left. A process
evicts its own blocks, and those of datasets that no process uses.
"""

import heapq
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from .locks import lock_file

Key = tuple[str, int]
"""The name of an array and the index of a block."""

FOLDER = "FOLDSTREAM_CACHE"  # environment variable for a folder other than ~/.cache/foldstream
SHARE = 10  # the cache uses a tenth of the disk space that would be free without it
FOLDER_NAME = 32  # digits of a dataset's identity in the name of its folder
COUNT = ".bytes"  # the file with the number of bytes of all blocks
IN_USE = ".in-use"  # a file in a dataset's folder that each process locks while it uses the folder
_log = logging.getLogger("foldstream.storage.places.block_cache")


def cache_folder() -> Path:
    """The cache folder, created if necessary."""
    folder = _cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cache_folder() -> Path:
    return Path(os.environ.get(FOLDER, "~/.cache/foldstream")).expanduser()


def default_budget() -> int:
    """The default budget in bytes, for all processes of this machine together."""
    folder = cache_folder()
    with Budget(folder, 0) as used:
        return (shutil.disk_usage(folder).free + used.bytes) // SHARE


class Budget:
    """The bytes of all blocks in the cache folder, which only change in the context of this object: under a lock."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._idle: list[Path] | None = None

    def __enter__(self) -> "Budget":
        self._descriptor = lock_file(self.folder / COUNT)
        count = os.pread(self._descriptor, 20, 0)
        self.bytes = int(count) if count.isdigit() else self._counted()
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def add(self, size: int) -> None:
        """Count a block before it is written or after it is removed: if the process is killed in between, the count
        is too high until a process counts again."""
        self.bytes = max(0, self.bytes + size)
        os.pwrite(self._descriptor, b"%020d" % self.bytes, 0)

    def open(self, folder: Path) -> int:
        """Use a dataset's folder as long as the returned descriptor is open."""
        folder.mkdir(exist_ok=True)
        with suppress(BlockingIOError):  # other processes use it
            os.close(lock_file(folder / IN_USE, wait=False))
            remove_temporaries(folder)
            self.add(self._counted() - self.bytes)
        os.utime(folder / IN_USE)
        return lock_file(folder / IN_USE, shared=True)

    def exceeded(self, size: int) -> bool:
        """Whether another `size` bytes do not fit, even without the blocks of datasets that no process uses."""
        while self.bytes + size > self.limit and self._remove_idle():
            pass
        return self.bytes + size > self.limit

    def remove(self, path: Path) -> None:
        """Remove a block, unless another process has done so."""
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self.add(-size)

    def _counted(self) -> int:
        return sum(size for folder in self._folders() for _, _, size in stored_blocks(folder))

    def _folders(self) -> list[Path]:
        """The folders of datasets, the one that was opened first before the others."""
        found = [path.parent for path in self.folder.glob(f"*/{IN_USE}")]
        return sorted(found, key=lambda folder: (folder / IN_USE).stat().st_mtime_ns)

    def _remove_idle(self) -> bool:
        """Remove the blocks of the next dataset that no process uses. Returns whether there was one."""
        if self._idle is None:  # a dataset in use is not asked about again
            self._idle = self._folders()
        while self._idle:
            folder = self._idle.pop(0)
            try:
                os.close(lock_file(folder / IN_USE, wait=False))
            except (BlockingIOError, FileNotFoundError):
                continue
            remove_temporaries(folder)
            for path, _, _ in list(stored_blocks(folder)):
                self.remove(path)
            (folder / IN_USE).unlink()
            with suppress(OSError):  # it contains files of others
                folder.rmdir()
            return True
        return False


def stored_blocks(folder: Path) -> Iterator[tuple[Path, Key, int]]:
    """The path, key and size of every block in a dataset's folder. Files with other names are ignored."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name, _, block = entry.name.rpartition("-")
            if name and not name.startswith(".") and block.isascii() and block.isdigit():
                with suppress(FileNotFoundError):  # removed meanwhile
                    if entry.is_file():
                        yield Path(entry.path), (name, int(block)), entry.stat().st_size


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left of blocks. Call it only under the lock, where no process is writing."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


class CachedBlocks:
    """The blocks of a dataset in a `folder` of the cache, whoever keeps them. They are read, and none is added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: Key, load: Callable[[], bytes]) -> bytes:
        """Return a stored block, from disk if possible, otherwise from `load`. The copy on disk may be damaged."""
        try:
            return self._path(key).read_bytes()
        except OSError:  # not stored, removed by another process, or not ours to read
            return load()

    def has(self, key: Key) -> bool:
        """Whether a block is on disk at the moment."""
        return self._path(key).exists()

    def drop(self, key: Key) -> None:
        """Remove a block whose file is damaged."""
        with Budget(self.folder.parent, 0) as machine:
            machine.remove(self._path(key))

    def _path(self, key: Key) -> Path:
        return self.folder / f"{key[0]}-{key[1]}"


def cached_blocks(identity: str) -> CachedBlocks | None:
    """What processes of this machine have kept of a dataset; None if there is nothing."""
    folder = _cache_folder() / identity[:FOLDER_NAME]
    return CachedBlocks(folder) if folder.is_dir() else None


class BlockCache(CachedBlocks):
    """The blocks of a dataset that this process keeps, within the machine's `budget` in bytes. `share`, (rank, ranks),
    divides the budget, and the blocks left by earlier processes, among the ranks.

    `needed` returns when a block will be needed again after its current use, in any increasing unit.
    """

    def __init__(self, budget: int, identity: str, blocks: int, share: tuple[int, int] = (0, 1)) -> None:
        super().__init__(cache_folder() / identity[:FOLDER_NAME])
        self.limit = budget // share[1]
        self.needed = np.zeros(blocks, np.int64)
        self.bytes = 0
        self._hits = self._misses = 0
        self._sizes: dict[Key, int] = {}
        self._when: dict[Key, int] = {}
        self._latest: list[tuple[int, Key]] = []
        self._lock = threading.Lock()
        self._machine = Budget(cache_folder(), budget)
        with self._machine:
            weakref.finalize(self, os.close, self._machine.open(self.folder))
        self._adopt(*share)

    def read(self, key: Key, load: Callable[[], bytes]) -> bytes:
        """Like `CachedBlocks.read`; what is loaded is kept if it will be needed sooner than other blocks."""
        try:
            data, found = self._path(key).read_bytes(), True
        except OSError:
            data, found = load(), False
            self._keep(key, data)
        else:
            self._expect(key)
        with self._lock:
            self._hits += len(data) * found
            self._misses += len(data) * (not found)
        return data

    def take_counts(self) -> tuple[int, int]:
        """The bytes that were read from disk since the last call, and those that had to be loaded."""
        with self._lock:
            counts, self._hits, self._misses = (self._hits, self._misses), 0, 0
        return counts

    def drop(self, key: Key) -> None:
        """Remove a block whose file is damaged."""
        with self._machine:
            self._remove(key)

    def _adopt(self, rank: int, ranks: int) -> None:
        """Take over this process's share of the existing blocks, up to its limit, and remove the rest of its share.
        What other processes will take over may still exceed the budget."""
        for _, (name, block), size in stored_blocks(self.folder):
            if block < len(self.needed) and block % ranks == rank:
                self._own((name, block), size)
        with self._machine:
            while self.bytes > self.limit and (key := self._latest_after(-1)):
                self._remove(key)

    def _keep(self, key: Key, data: bytes) -> None:
        """Write a block if it will be needed sooner than the blocks it would evict."""
        if len(data) > self.limit:
            return
        path = self._path(key)
        try:
            with self._machine:
                if path.exists():  # by another process or thread
                    return
                self._forget(key)  # removed by another process
                if self._make_room(len(data), int(self.needed[key[1]])):
                    self._write(path, data)
                    self._own(key, len(data))
        except OSError as error:
            _log.warning("%s: the cache stores no more blocks (%s); training continues", self.folder, error)
            self.limit = 0

    def _write(self, path: Path, data: bytes) -> None:
        """Write a block under a temporary name, and rename it: other processes see all of it or nothing."""
        temporary = path.with_name(f".{path.name}.tmp")
        self._machine.add(len(data))
        try:
            temporary.write_bytes(data)
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            self._machine.add(-len(data))
            raise

    def _make_room(self, size: int, when: int) -> bool:
        """Remove blocks that are needed after `when` until `size` more bytes fit. Return whether they do."""
        while self.bytes + size > self.limit or self._machine.exceeded(size):
            key = self._latest_after(when)
            if key is None:
                return False
            self._remove(key)
        return True

    def _latest_after(self, when: int) -> Key | None:
        """This process's block that is needed last, if it is needed after `when`."""
        with self._lock:
            while self._latest and self._when.get(self._latest[0][1]) != -self._latest[0][0]:
                heapq.heappop(self._latest)  # removed, or needed at another time by now
            return self._latest[0][1] if self._latest and -self._latest[0][0] > when else None

    def _own(self, key: Key, size: int) -> None:
        with self._lock:
            self._sizes[key] = size
            self.bytes += size
        self._expect(key)

    def _expect(self, key: Key) -> None:
        """Record when a block of this process will be needed again."""
        with self._lock:
            if key in self._sizes:
                self._when[key] = when = int(self.needed[key[1]])
                heapq.heappush(self._latest, (-when, key))
            if len(self._latest) > 2 * len(self._when) + 100:  # mostly outdated entries
                self._latest = [(-when, key) for key, when in self._when.items()]
                heapq.heapify(self._latest)

    def _remove(self, key: Key) -> None:
        self._machine.remove(self._path(key))
        self._forget(key)

    def _forget(self, key: Key) -> None:
        with self._lock:
            self.bytes -= self._sizes.pop(key, 0)
            self._when.pop(key, None)
