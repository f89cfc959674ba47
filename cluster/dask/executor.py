"""The executor of a job: threads of this process, Dask in this process for longer jobs, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain, count, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ...storage.errors import UsageError
from ...storage.format.layout import SHARD_BYTES
from ...storage.machine import freed_memory_kept, this_machine
from ...storage.tasks import CONVERSION, Executor, Result, Task
from ..listener import Listener

if TYPE_CHECKING:
    from distributed import Client

    from ...pipeline.dask_executor import DaskExecutor

PATIENCE_SECONDS = 2.0
"""Dask starts after this much work: it takes almost a second to import, and a shorter job needs no dashboard."""
WINDOW = 2  # tasks in flight per thread
TASK_BYTES = 6 * SHARD_BYTES
"""Peak memory of a task: a shard, its text and compressed blocks, and memory that the C library keeps from earlier
tasks."""


class LocalExecutor:
    """Runs tasks on threads of this process and, after PATIENCE_SECONDS, on Dask threads in this process.

    Small jobs finish before Dask and its dashboard are even imported. Call `close` at the end.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener, self.threads, self.spent = listener, local_threads(), 0.0
        self._open = ExitStack()
        self._open.enter_context(freed_memory_kept())
        self._pool = self._open.enter_context(ThreadPoolExecutor(self.threads))
        self._dask: DaskExecutor | None = None
        self._published: dict[str, dict[str, Any]] = {}

    def dask(self) -> DaskExecutor:
        """Dask in this process, started on the first call."""
        if self._dask is None:
            from ...pipeline.dask_executor import DaskExecutor
            from .local import dask_cluster, page_address

            client = self._open.enter_context(dask_cluster(self.threads, self._pool))
            page = next(reversed(self._published), CONVERSION)
            self.listener.announce("Dask dashboard", page_address(client, page))
            self._dask = DaskExecutor(client)
            for page, facts in self._published.items():
                self._dask.publish(page, facts)
        return self._dask

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        positions, left = count(), iter(tasks)
        if self._dask is None:
            yield from self._map_on_threads(function, zip(positions, left, strict=False))
        for first in left:  # what is left is for Dask
            position = next(positions)
            for after, result in self.dask().map(function, chain([first], left)):
                yield position + after, result

    def _map_on_threads(
        self, function: Callable[[Task], Result], numbered: Iterator[tuple[int, Task]]
    ) -> Iterator[tuple[int, Result]]:
        """Run tasks until none is left, or until PATIENCE_SECONDS have passed."""
        running: dict[Future[Result], int] = {}
        try:
            while True:
                started = perf_counter()
                room = 0 if self.spent > PATIENCE_SECONDS else WINDOW * self.threads - len(running)
                for position, task in islice(numbered, room):
                    running[self._pool.submit(function, task)] = position
                if not running:
                    return
                if not room:
                    self.dask()  # while the last ones run
                done = wait(running, return_when=FIRST_COMPLETED).done
                self.spent += perf_counter() - started
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()
            wait(running)

    def prepare(self, function: Callable[[], None]) -> None:
        self._pool.submit(function)

    def publish(self, page: str, facts: dict[str, Any]) -> None:
        if self._dask:
            self._dask.publish(page, facts)
        else:
            self._published[page] = facts

    def close(self) -> None:
        """Stop Dask, if it has started."""
        self._open.close()


@contextmanager
def job_executor(
    listener: Listener,
    given: Client | Executor | None = None,
    address: str | None = None,
    report: Path | None = None,
) -> Iterator[Executor]:
    """The given executor, or an executor on the given Dask client or on the scheduler at an address; by default an
    executor in this process.

    Dask's performance report is written to the HTML file `report`.
    """
    if isinstance(given, Executor):
        yield given
        return
    if report and not report.parent.is_dir():
        raise UsageError(f"--report {report}: the folder {report.parent} does not exist; create it first")
    if given is None and address is None:
        executor = LocalExecutor(listener)
        try:
            with _reported(executor.dask().client if report else None, report):
                yield executor
        finally:
            executor.close()
        return
    from ...pipeline.dask_executor import DaskExecutor
    from .local import connect

    with nullcontext(given) if given is not None else connect(str(address)) as client:
        if given is None:
            listener.announce("Dask dashboard", client.dashboard_link)
        with _reported(client, report):
            yield DaskExecutor(client)


@contextmanager
def _reported(client: Client | None, report: Path | None) -> Iterator[None]:
    """Write Dask's performance report for this context."""
    if not report:
        yield
        return
    from distributed import performance_report

    with client.as_current() if client else nullcontext(), performance_report(filename=str(report)):
        yield


def local_threads() -> int:
    """One thread per core, but no more than the number of tasks that fit into three quarters of the memory."""
    machine = this_machine()
    return max(1, min(machine.cores, machine.memory * 3 // 4 // TASK_BYTES))
