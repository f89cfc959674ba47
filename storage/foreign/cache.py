"""Decoded chunks in memory, for chunks of which several blocks take a part."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

import numpy as np

CACHE_BYTES = 256 << 20


class DecodedChunks:
    """The chunks that were used last, up to `limit` bytes, but at least one. A chunk is decoded once for all threads
    that need it."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._chunks: OrderedDict[Hashable, Future[np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The chunk of that key, which `decode` returns."""
        with self._lock:
            known = self._chunks.get(key)
            mine = known is None
            future: Future[np.ndarray] = Future() if known is None else known
            self._chunks[key] = future
            self._chunks.move_to_end(key)
        if not mine:
            return future.result()
        try:
            chunk = decode()
        except BaseException as error:
            with self._lock:
                self._chunks.pop(key, None)
            future.set_exception(error)
            raise
        future.set_result(chunk)
        self._evict()
        return chunk

    def _evict(self) -> None:
        with self._lock:
            done = {key: one.result().nbytes for key, one in self._chunks.items() if one.done()}
            held = sum(done.values())
            for key, size in list(done.items())[:-1]:
                if held <= self.limit:
                    break
                del self._chunks[key]
                held -= size
