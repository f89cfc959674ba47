"""A bounded on-disk cache for blocks of a dataset in an object store, in their stored form.

The order of an epoch is known in advance, so the cache evicts the block that will be needed furthest in the future
(Belady, "A study of replacement algorithms for a virtual-storage computer", 1966). All ranks of a machine read each
other's blocks; each evicts only its own.
"""

import heapq
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

Key = tuple[str, int]
"""The name of an array and the index of a block."""

FOLDER = "FOLDSTREAM_CACHE"  # environment variable for a folder other than ~/.cache/foldstream
SHARE = 10  # the cache uses a tenth of the free disk space
_log = logging.getLogger("foldstream.storage.places.block_cache")


def cache_folder() -> Path:
    """The cache folder, created if necessary."""
    folder = Path(os.environ.get(FOLDER, "~/.cache/foldstream")).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def default_limit() -> int:
    """The default limit in bytes, for all processes of this machine together."""
    return shutil.disk_usage(cache_folder()).free // SHARE


class BlockCache:
    """The blocks that this process keeps, at most `limit` bytes. `share`, (rank, ranks), divides the blocks left by
    earlier processes among the ranks.

    `needed` returns when a block will be needed again after its current use, in any increasing unit.
    """

    def __init__(self, limit: int, identity: str, blocks: int, share: tuple[int, int] = (0, 1)) -> None:
        self.folder, self.limit = cache_folder() / identity[:32], limit
        self.needed = np.zeros(blocks, np.int64)
        self.bytes = 0
        self._sizes: dict[Key, int] = {}
        self._when: dict[Key, int] = {}
        self._latest: list[tuple[int, Key]] = []
        self._lock = threading.Lock()
        self.folder.mkdir(exist_ok=True)
        self._adopt(*share)

    def read(self, key: Key, load: Callable[[], bytes]) -> bytes:
        """Return a stored block, from disk if possible, otherwise from `load`. The copy on disk may be damaged."""
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            data = load()
            self._keep(key, data)
        else:
            self._expect(key)
        return data

    def drop(self, key: Key) -> None:
        """Remove a block whose file is damaged."""
        with self._lock:
            self._remove(key)

    def _path(self, key: Key) -> Path:
        return self.folder / f"{key[0]}-{key[1]}"

    def _adopt(self, rank: int, ranks: int) -> None:
        """Take over this process's share of the existing blocks, up to the limit, and remove the rest of its share."""
        for path in self.folder.iterdir():
            name, _, block = path.name.rpartition("-")
            if int(block) % ranks == rank:
                size = path.stat().st_size
                self._sizes[name, int(block)] = size
                self.bytes += size
                self._expect((name, int(block)))
        with self._lock:
            self._make_room(0, when=-1)

    def _keep(self, key: Key, data: bytes) -> None:
        """Write a block if it will be needed sooner than the blocks it would evict."""
        with self._lock:
            if key in self._sizes or not self._make_room(len(data), int(self.needed[key[1]])):
                return
            self.bytes += len(data)
            self._sizes[key] = len(data)
        try:
            self._path(key).write_bytes(data)  # not atomic: readers verify the checksum
        except OSError as error:
            _log.warning("%s: the cache stores no more blocks (%s); training continues", self.folder, error)
            with self._lock:
                self._remove(key)
                self.limit = self.bytes
        else:
            self._expect(key)

    def _make_room(self, size: int, when: int) -> bool:
        """Remove blocks that are needed after `when` until `size` more bytes fit. Return whether they do."""
        while self.bytes + size > self.limit:
            while self._latest and self._when.get(self._latest[0][1]) != -self._latest[0][0]:
                heapq.heappop(self._latest)  # removed, or needed at another time by now
            if not self._latest or -self._latest[0][0] <= when:
                return False
            self._remove(self._latest[0][1])
        return True

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
        self.bytes -= self._sizes.pop(key, 0)
        self._when.pop(key, None)
        self._path(key).unlink(missing_ok=True)
