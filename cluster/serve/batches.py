"""Requests that arrive together are predicted together, because a model takes hardly longer for many rows than for
one."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Row = TypeVar("Row")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Limits:
    """`batch_rows`: rows from which on a batch is not made larger; a request is never divided. A batch waits `seconds`
    for more requests. `request_rows` and `body_bytes` bound a request, `waiting_rows` those that wait for a batch, and
    `requests` those that are received or answered at the same time."""

    batch_rows: int = 512
    request_rows: int = 10_000
    waiting_rows: int = 20_000
    requests: int = 128
    seconds: float = 0.002
    body_bytes: int = 16 << 20


class FullError(Exception):
    """Too many rows are waiting."""


@dataclass
class Counts:
    """What has been predicted so far."""

    requests: int = 0
    rows: int = 0
    batches: int = 0


@dataclass
class Batcher(Generic[Row, Answer]):
    """Predicts the rows of requests in one thread. `predict` gets the rows of several requests, and returns an answer
    for each."""

    predict: Callable[[Sequence[Sequence[Row]]], Sequence[Answer]]
    limits: Limits = field(default_factory=Limits)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._waiting: deque[tuple[Sequence[Row], asyncio.Future[Answer]]] = deque()
        self._arrived = asyncio.Event()
        # One thread: the process that decodes images ends with the thread that started it.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="foldstream-predict")

    async def answer(self, rows: Sequence[Row]) -> Answer:
        """The answer to a request. Raises FullError at once if too many are waiting."""
        if self._rows() + len(rows) > self.limits.waiting_rows:
            raise FullError
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, future))
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Predict batches until the task is cancelled."""
        while True:
            await self._arrived.wait()
            if self._rows() < self.limits.batch_rows:
                await asyncio.sleep(self.limits.seconds)
            batch = self._take()
            if not self._waiting:
                self._arrived.clear()
            if batch:
                await self._predict(batch)

    def _rows(self) -> int:
        """The number of rows that are waiting."""
        return sum(len(rows) for rows, _ in self._waiting)

    def _take(self) -> list[tuple[Sequence[Row], "asyncio.Future[Answer]"]]:
        """The next requests, without those whose clients have left."""
        batch, rows = list[tuple[Sequence[Row], asyncio.Future[Answer]]](), 0
        while self._waiting and (not batch or rows + len(self._waiting[0][0]) <= self.limits.batch_rows):
            request = self._waiting.popleft()
            if not request[1].done():
                batch.append(request)
                rows += len(request[0])
        return batch

    async def _predict(self, batch: Sequence[tuple[Sequence[Row], "asyncio.Future[Answer]"]]) -> None:
        requests = [rows for rows, _ in batch]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self.thread, self.predict, requests)
        except Exception as error:  # noqa: BLE001 - each of the requests fails with it
            for _, future in batch:
                with suppress(asyncio.InvalidStateError):
                    future.set_exception(error)
            return
        self.counts.requests += len(batch)
        self.counts.rows += sum(map(len, requests))
        self.counts.batches += 1
        for (_, future), answer in zip(batch, answers, strict=True):
            with suppress(asyncio.InvalidStateError):  # the client has left
                future.set_result(answer)
