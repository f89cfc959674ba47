"""Requests to an object store that outlast its failures, and are asked twice if an answer is late.

obstore itself repeats what fails, with exponential backoff and jitter: errors of the server, throttling (429 and 503),
connections that are refused or break, also in the middle of an answer. It never repeats what is missing or refused. By
default it gives up after two to eight seconds, which tells a wrong address soon; a store that has answered before is
waited for.

Late answers are hedged (Dean and Barroso, "The tail at scale", 2013): a second request is sent, and the first answer
counts. Hedges are a small share of all requests, so that they cannot overload a store that is slow as a whole.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from datetime import timedelta
from functools import cached_property, lru_cache
from statistics import median
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from obstore.store import ObjectStore, from_url

if TYPE_CHECKING:
    from obstore.store import RetryConfig

MINUTES = 5  # of waiting for a store that is away; longer, and signatures of requests would expire
PATIENCE: "RetryConfig" = {
    "max_retries": 10_000,  # the time is the bound
    "retry_timeout": timedelta(minutes=MINUTES),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 4},
}
AWAY_SECONDS = 10.0  # without any answer, after which a warning is logged
CHECK = 1.0  # seconds between two looks at a request that waits long

RECENT, FEW = 100, 10
"""Answers whose times are remembered, and how many of them are enough to tell what is usual."""
FIRST_LATE, LEAST_LATE, LATE = 1.0, 0.2, 3.0
"""An answer is late after these seconds before enough are known, after these at least, and after this many times the
usual time."""
HEDGED, FIRST_HEDGES, MOST_HEDGES, FEW_WAITING = 0.05, 4.0, 10.0, 4
"""Each request allows this much of a hedge, the first one more, and what is allowed is saved up to this many. As long
as few requests wait, all of them may be hedged."""

Answer = TypeVar("Answer")
_log = logging.getLogger("foldstream.storage.places.requests")


class StoreClient:
    """What a process asks of a bucket. Its coroutines run in one loop, and other threads only tell it that the store
    has answered, so that nothing here needs a lock."""

    reached = False
    """Whether the store has answered this process before, or the one that has started it."""
    latency = 0.0
    """The shortest time in which the store has answered, in seconds; 0 before its first answer."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self._recent = deque[float](maxlen=RECENT)
        self._hedges = FIRST_HEDGES
        self._waiting, self._waits_since, self._away_since = 0, 0.0, 0.0
        _clients.add(self)

    @property
    def silence(self) -> float:
        """Seconds for which requests have waited without any answer."""
        return monotonic() - self._waits_since if self._waiting else 0.0

    @property
    def store(self) -> ObjectStore:
        """The store, which is waited for if it has been reached before."""
        return self.patient if self.reached else self.quick

    @cached_property
    def quick(self) -> ObjectStore:
        """The store that gives up after a few seconds."""
        return from_url(self.bucket)

    @cached_property
    def patient(self) -> ObjectStore:
        """The store that waits for minutes."""
        return from_url(self.bucket, retry_config=PATIENCE)

    async def first_answer(self, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """The answer to a request, or to its hedge if that comes first. Raises the error of the first one to end."""
        started, waiting = monotonic(), {asyncio.create_task(ask())}
        self._waits_since = self._waits_since if self._waiting else started
        self._waiting += 1
        self._hedges = min(MOST_HEDGES, self._hedges + HEDGED)
        try:
            while not (done := await _first(waiting, max(self._late_after(), min(CHECK, monotonic() - started)))):
                if len(waiting) == 1 and self._may_hedge():
                    waiting.add(asyncio.create_task(ask()))
                self._notice_absence()
            answer = min(done, key=lambda one: one.exception() is not None).result()
        finally:
            for one in waiting:
                one.cancel()
            self._waiting, self._waits_since = self._waiting - 1, monotonic()
        self._notice_answer(started)
        return answer

    def _late_after(self) -> float:
        """Seconds after which an answer is late."""
        return max(LEAST_LATE, LATE * median(self._recent)) if len(self._recent) >= FEW else FIRST_LATE

    def _may_hedge(self) -> bool:
        if self._hedges < 1 and self._waiting > FEW_WAITING:
            return False
        self._hedges = max(0.0, self._hedges - 1)
        return True

    def _notice_absence(self) -> None:
        """Log once that the store has been silent for long."""
        if not self._away_since and self.silence > AWAY_SECONDS:
            self._away_since = self._waits_since
            words = "%s: the object store has not answered for %.0f seconds; waiting for up to %d minutes"
            _log.warning(words, self.bucket, self.silence, MINUTES)

    def answered(self, seconds: float) -> None:
        """Note that the store has answered after so many seconds."""
        self.reached, self.latency = True, min(seconds, self.latency or seconds)

    def _notice_answer(self, started: float) -> None:
        now = monotonic()
        self.answered(now - started)
        self._recent.append(now - started)
        if self._away_since:
            words = "%s: the object store answers again, after %.0f seconds"
            _log.warning(words, self.bucket, now - self._away_since)
            self._away_since = 0.0


_clients = WeakSet[StoreClient]()


def expect_stores() -> None:
    """Wait for stores from the first request on: the process that has started this one has reached them."""
    StoreClient.reached = True


def silence() -> float:
    """Seconds for which requests of this process have waited without any answer from their store."""
    return max((client.silence for client in list(_clients)), default=0.0)


async def _first(waiting: set[asyncio.Task[Answer]], timeout: float) -> set[asyncio.Task[Answer]]:
    """Those that are done, as soon as there is one; none after the timeout."""
    done, _ = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return done


def in_background(answer: Coroutine[Any, Any, Answer]) -> Future[Answer]:
    """Wait for an answer in a thread that waits for all of this process."""
    return asyncio.run_coroutine_threadsafe(answer, _loop(os.getpid()))


@lru_cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The loop, in a thread of its own, that waits for the answers of a process's requests."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="foldstream-requests", daemon=True).start()
    return loop


@lru_cache
def open_store(bucket: str) -> StoreClient:
    """This process's client of a bucket (`s3://bucket`), configured by the environment."""
    return StoreClient(bucket)
