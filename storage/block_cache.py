"""Blocks of a dataset in an object store, kept as they are stored on local disk, within a bound.

The order of an epoch is known in advance, so what is removed is what will be needed last (Belady, «A study of
replacement algorithms for a virtual-storage computer», 1966). All ranks of a machine find each other's blocks;
each removes only its own.
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
"""An array's name and the number of a block."""

FOLDER = "FOLDSTREAM_CACHE"  # the environment's variable for another folder than ~/.cache/foldstream
SHARE = 10  # the cache takes a tenth of the disk that is free
_log = logging.getLogger("foldstream.storage.block_cache")


def cache_folder() -> Path:
    """Where blocks are kept."""
    folder = Path(os.environ.get(FOLDER, "~/.cache/foldstream")).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def default_limit() -> int:
    """Bytes that the processes of this machine may keep if nobody says how many."""
    return shutil.disk_usage(cache_folder()).free // SHARE


class BlockCache:
    """The blocks that this process keeps, at most `limit` bytes. What earlier ones left is shared out by `share`.

    `needed` says for each block, as any rising measure, when it will be needed once it has been used now.
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
        """A stored block: from disk, or by `load` if it is not there. What is on disk may be damaged."""
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            data = load()
            self._keep(key, data)
        else:
            self._expect(key)
        return data

    def drop(self, key: Key) -> None:
        """Forget a block whose file is damaged."""
        with self._lock:
            self._remove(key)

    def _path(self, key: Key) -> Path:
        return self.folder / f"{key[0]}-{key[1]}"

    def _adopt(self, rank: int, ranks: int) -> None:
        """Take over this process's share of what is there, as far as the limit goes; the rest of it is removed."""
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
        """Write a block if it will be needed sooner than those that have to go for it."""
        with self._lock:
            if key in self._sizes or not self._make_room(len(data), int(self.needed[key[1]])):
                return
            self.bytes += len(data)
            self._sizes[key] = len(data)
        try:
            self._path(key).write_bytes(data)  # not atomic: its readers check the block's checksum
        except OSError as error:
            _log.warning("%s: no more blocks are kept there (%s); the training goes on", self.folder, error)
            with self._lock:
                self._remove(key)
                self.limit = self.bytes
        else:
            self._expect(key)

    def _make_room(self, size: int, when: int) -> bool:
        """Remove blocks that are needed after `when` until `size` bytes more may be kept; say whether they may."""
        while self.bytes + size > self.limit:
            while self._latest and self._when.get(self._latest[0][1]) != -self._latest[0][0]:
                heapq.heappop(self._latest)  # it is gone, or is needed at another time by now
            if not self._latest or -self._latest[0][0] <= when:
                return False
            self._remove(self._latest[0][1])
        return True

    def _expect(self, key: Key) -> None:
        """Note when a block of ours will be needed again."""
        with self._lock:
            if key in self._sizes:
                self._when[key] = when = int(self.needed[key[1]])
                heapq.heappush(self._latest, (-when, key))
            if len(self._latest) > 2 * len(self._when) + 100:  # mostly entries that hold no more
                self._latest = [(-when, key) for key, when in self._when.items()]
                heapq.heapify(self._latest)

    def _remove(self, key: Key) -> None:
        self.bytes -= self._sizes.pop(key, 0)
        self._when.pop(key, None)
        self._path(key).unlink(missing_ok=True)
