"""Memory of the readers: decoded chunks, for those of which several blocks take a part, and stored ones."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

import numpy as np

CACHE_BYTES = 256 << 20
REUSED_BYTES = 32 << 20  # of stored chunks that a thread keeps memory for


class DecodedChunks:
    """The chunks that were used last, up to `limit` bytes, but at least one. A chunk is decoded once for all threads
    that need it."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._chunks: OrderedDict[Hashable, Future[np.ndarray]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}  # of those that are decoded
        self._held = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The chunk of that key, which `decode` returns."""
        with self._lock:
            known = self._chunks.get(key)
            future: Future[np.ndarray] = Future() if known is None else known
            self._chunks[key] = future
            self._chunks.move_to_end(key)
        if known is not None:
            return future.result()
        try:
            chunk = decode()
        except BaseException as error:
            with self._lock:
                del self._chunks[key]
            future.set_exception(error)
            raise
        future.set_result(chunk)
        with self._lock:
            self._sizes[key] = chunk.nbytes
            self._held += chunk.nbytes
            self._evict()
        return chunk

    def _evict(self) -> None:
        """Forget the chunks that were used longest ago, except those that are still being decoded."""
        for key in list(self._chunks)[:-1] if self._held > self.limit else ():
            if self._held <= self.limit:
                break
            if key in self._sizes:
                self._held -= self._sizes.pop(key)
                del self._chunks[key]


class LocalMemory(threading.local):
    """Of each thread: memory for a stored chunk, which is reused up to a size, and the number of stored bytes read so
    far."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self._memory = np.empty(0, np.uint8)

    def memory(self, size: int) -> np.ndarray:
        """Memory of some bytes, (size,) uint8, valid until the thread's next call."""
        if size > REUSED_BYTES:
            return np.empty(size, np.uint8)
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]
