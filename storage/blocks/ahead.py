"""Blocks of an object store that are requested before they are needed, in the order of their use.

A thread that waits for an answer fills a link only as far as there are threads. Requests need none: as many are on
their way as the link carries, and as many have arrived as have room in a number of bytes.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from time import monotonic, sleep

import numpy as np

Key = tuple[str, int]
"""The array whose shard has the bytes, and the index of the block."""
Part = slice
"""The bytes of a block in an answer."""
Request = Callable[[Sequence[Key]], tuple[list[Part], "Future[np.ndarray]"]]
"""Sends one request for neighboring blocks of a shard. Returns the part of each in the answer, and the answer."""

LEAST_DEPTH = 12 << 20  # bytes on their way at least
LEAST_RATE = 125e6  # bytes per second that a link is expected to carry at least: 1 Gbit/s
AHEAD_BYTES = 32 << 20  # 250 ms at 1 Gbit/s; what is requested of an epoch that never comes is not more either
BURST = 4 << 20  # bytes that are requested at once
PAUSE = 0.004  # seconds until more may be requested
GAIN = 2  # times what the link holds and carries: less would not show that it could carry more
MEMORY = 10.0  # seconds for which a measurement counts


@dataclass(frozen=True)
class Sent:
    """The moment of a request in seconds, and the bytes that had arrived by then."""

    when: float
    arrived: int


class Depth:
    """How many bytes to have on their way, twice the product of the link's rate and its latency, and how fast to
    request them.

    The rate is the highest at which bytes arrived while a request was on its way, the latency the shortest time of an
    answer, as in Cardwell et al., "BBR: congestion-based congestion control" (2016). More would only wait in queues,
    and delay what is needed first.
    """

    def __init__(self, latency: float = 0.0) -> None:
        """`latency` in seconds, if other requests have shown it already, otherwise 0."""
        self.arrived = 0
        """Bytes that have arrived so far."""
        self._least = max(LEAST_DEPTH, int(GAIN * LEAST_RATE * latency))
        self._rates, self._latencies = _Best(), _Best()

    def answered(self, size: int, sent: Sent, now: float) -> None:
        """Note that `size` bytes have arrived for a request."""
        self.arrived += size
        seconds = max(now - sent.when, 1e-6)
        self._rates.add((self.arrived - sent.arrived) / seconds, now)
        self._latencies.add(-seconds, now)

    @property
    def bytes(self) -> int:
        """The bytes that should be on their way."""
        return max(self._least, int(GAIN * self._rates.best * -self._latencies.best))

    @property
    def pace(self) -> float:
        """The bytes per second that may be requested."""
        return max(LEAST_RATE, GAIN * self._rates.best)


class Pace:
    """Whether bytes may be requested: `BURST` of them at once, then so many per second.

    Requests that are sent at once share the link, and arrive at once; then nothing is on its way until the next answer.
    Whatever keeps a process busy for a moment has this effect, and without a pace it would stay.
    """

    def __init__(self) -> None:
        self._left, self._when = float(BURST), 0.0

    def allows(self, pace: float, now: float) -> bool:
        """Whether bytes may be requested now, at `pace` bytes per second."""
        self._left = min(float(BURST), self._left + pace * (now - self._when))
        self._when = now
        return self._left > 0

    def spend(self, size: int) -> None:
        """Note that `size` bytes have been requested."""
        self._left -= size


class _Best:
    """The highest of the values of the last seconds, 0 before the first one."""

    def __init__(self) -> None:
        self._falling: deque[tuple[float, float]] = deque()  # times and values; each value is below the one before

    def add(self, value: float, now: float) -> None:
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((now, value))
        while self._falling[0][0] < now - MEMORY:
            self._falling.popleft()

    @property
    def best(self) -> float:
        return self._falling[0][1] if self._falling else 0.0


class BlocksAhead:
    """Requests what a plan says, at most `limit` bytes that have not been taken yet. For several threads."""

    def __init__(self, request: Request, limit: int, latency: float = 0.0) -> None:
        self.limit = limit
        self._request = request
        self._plan: Iterator[Sequence[Key]] = iter(())
        self._coming: dict[Key, tuple[int, Future[np.ndarray]]] = {}
        self._early = set[Key]()
        """What was taken before the plan came to it."""
        self._held = self._under_way = 0  # bytes that are requested and not taken, and of these not arrived
        self._depth, self._pace = Depth(latency), Pace()
        self._pauses = False
        """Whether the planner waits until more may be requested."""
        self._lock = threading.Lock()
        # The thread that receives answers must never wait, neither for the lock nor for what the plan reads itself.
        self._planner = ThreadPoolExecutor(1, "foldstream-ahead")

    def follow(self, plan: Iterator[Sequence[Key]]) -> None:
        """Request these from now on: of each block the keys that have to be read. What was requested before and is not
        soon needed is dropped."""
        with self._lock:
            soon = [*islice(plan, len(self._coming))]
            sent = self._coming.keys() & {key for keys in soon for key in keys}
            dropped = [self._coming.pop(key) for key in self._coming.keys() - sent]
            self._plan, self._early = iter(()), set()  # an answer that is dropped makes room, but not for the old plan
            for size, answer in dropped:
                self._held -= size
                answer.cancel()
            soon = [[key for key in keys if key not in sent] for keys in soon]  # they may be taken before their turn
            self._plan = chain(soon, plan)
            self._request_more()

    def take(self, key: Key) -> np.ndarray:
        """The bytes of a block, (length,) uint8, once they have arrived. Raises the error of its request."""
        with self._lock:
            if key not in self._coming:  # it is needed before its turn
                self._early.add(key)
                self._send([key])
            size, answer = self._coming.pop(key)
        try:
            return answer.result()
        finally:
            with self._lock:
                self._held -= size
                self._request_more()

    def forget(self, key: Key) -> None:
        """Drop the request for a block that has been found elsewhere."""
        with self._lock:
            if found := self._coming.pop(key, None):
                size, answer = found
                self._held -= size
                answer.cancel()
                self._request_more()

    def _request_more(self) -> None:
        """Send requests as far as there is room, at the pace of the link: the planner goes on after a pause."""
        while self._held < self.limit and self._under_way < self._depth.bytes and not self._pauses:
            if not self._pace.allows(self._depth.pace, monotonic()):
                self._pauses = True
                self._plan_soon(self._go_on)
                return
            if (keys := next(self._plan, None)) is None:
                return
            left = [key for key in keys if key not in self._coming and key not in self._early]
            self._early.difference_update(keys)
            for run in neighbors(left):
                self._send(run)

    def _go_on(self) -> None:
        """Send more requests after a pause."""
        sleep(PAUSE)
        with self._lock:
            self._pauses = False
            self._request_more()

    def _send(self, keys: Sequence[Key]) -> None:
        """Send one request for neighboring blocks."""
        sent = Sent(monotonic(), self._depth.arrived)
        parts, answer = self._request(keys)
        size = sum(part.stop - part.start for part in parts)
        self._held += size
        self._under_way += size
        self._pace.spend(size)
        for key, part, of_key in zip(keys, parts, parts_of(answer, parts), strict=True):
            self._coming[key] = part.stop - part.start, of_key
        answer.add_done_callback(partial(self._answered, size, sent))

    def _answered(self, size: int, sent: Sent, answer: "Future[np.ndarray]") -> None:
        arrived = size if not answer.cancelled() and answer.exception() is None else 0
        self._plan_soon(self._note, size, arrived, sent, monotonic())

    def _plan_soon(self, work: Callable[..., None], *given: object) -> None:
        """Let the planner do some work."""
        with suppress(RuntimeError):  # the process ends
            self._planner.submit(work, *given)

    def _note(self, size: int, arrived: int, sent: Sent, now: float) -> None:
        """Note that a request is no longer under way, and send the next ones."""
        with self._lock:
            self._under_way -= size
            if arrived:
                self._depth.answered(arrived, sent, now)
            self._request_more()


def neighbors(keys: Sequence[Key]) -> Iterator[list[Key]]:
    """Runs of keys of the same array whose blocks follow one another."""
    for _, run in groupby(enumerate(keys), lambda one: (one[1][0], one[1][1] - one[0])):
        yield [key for _, key in run]


def parts_of(answer: "Future[np.ndarray]", parts: Sequence[Part]) -> list["Future[np.ndarray]"]:
    """The parts of an answer, as answers that can be taken and dropped one by one."""
    if len(parts) == 1:
        return [answer]
    found: list[Future[np.ndarray]] = [Future() for _ in parts]

    def split(whole: "Future[np.ndarray]") -> None:
        for of_part, part in zip(found, parts, strict=True):
            if not of_part.set_running_or_notify_cancel():
                continue
            if error := whole.exception():
                of_part.set_exception(error)
            else:
                of_part.set_result(whole.result()[part])

    answer.add_done_callback(split)
    return found
