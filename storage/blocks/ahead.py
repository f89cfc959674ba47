"""Blocks of an object store that are requested before they are needed, in the order of their use.

A thread that waits for an answer fills a link only as far as there are threads. Requests need none: as many are on
their way as have room in a number of bytes.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain, islice

from ..errors import DatasetError

Key = tuple[str, int]
"""The array whose shard has the bytes, and the index of the block."""
Request = Callable[[Key], tuple[int, "Future[bytes]"]]
"""Sends a request, and returns the bytes that it asks for and the answer."""


class BlocksAhead:
    """Requests what a plan says, at most `limit` bytes that have not been taken yet. For several threads."""

    def __init__(self, request: Request, limit: int) -> None:
        self.limit = limit
        self._request = request
        self._plan: Iterator[Sequence[Key]] = iter(())
        self._coming: dict[Key, tuple[int, Future[bytes]]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def follow(self, plan: Iterator[Sequence[Key]]) -> None:
        """Request these from now on: of each block the keys that have to be read. What was requested before and is not
        soon needed is dropped."""
        with self._lock:
            soon = [*islice(plan, len(self._coming))]
            for key in self._coming.keys() - {key for keys in soon for key in keys}:
                size, answer = self._coming.pop(key)
                self._bytes -= size
                answer.cancel()
            self._plan = chain(soon, plan)
            self._request_more()

    def take(self, key: Key) -> bytes | None:
        """The bytes of a block, once they have arrived. None if they were not requested, or if the request failed: the
        caller reads them itself."""
        with self._lock:
            size, answer = self._coming.pop(key, (0, None))
        try:
            return answer.result() if answer else None
        except (OSError, DatasetError):
            return None
        finally:
            with self._lock:
                self._bytes -= size
                self._request_more()

    def _request_more(self) -> None:
        while self._bytes < self.limit and (keys := next(self._plan, None)) is not None:
            for key in keys:
                if key not in self._coming:
                    self._coming[key] = size, _ = self._request(key)
                    self._bytes += size
