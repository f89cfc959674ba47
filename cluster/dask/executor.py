"""The executor of a job: this thread, Dask in this process once there is much to do, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ...storage.errors import UsageError
from ...storage.machine import freed_memory_kept
from ...storage.tasks import Executor, Result, Task
from ..listener import Listener

if TYPE_CHECKING:
    from distributed import Client

    from ...pipeline.dask_executor import DaskExecutor

PATIENCE_SECONDS = 0.3  # of work in this thread, after which Dask starts for the rest; its start takes as long


class LocalExecutor:
    """Runs tasks in this thread, and as soon as they have taken PATIENCE_SECONDS, on Dask's threads in this process.

    Small jobs end before Dask, with its dashboard, is even imported. Call `close` at the end.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener, self.spent = listener, 0.0
        self._open = ExitStack()
        self._open.enter_context(freed_memory_kept())
        self._dask: DaskExecutor | None = None
        self._published: dict[str, dict[str, Any]] = {}

    def dask(self) -> DaskExecutor:
        """Dask in this process; it starts at the first call."""
        if self._dask is None:
            from ...pipeline.dask_executor import DaskExecutor
            from .local import dask_cluster

            client = self._open.enter_context(dask_cluster())
            self.listener.announce("Dask dashboard", client.dashboard_link)
            self._dask = DaskExecutor(client)
            for page, facts in self._published.items():
                self._dask.publish(page, facts)
        return self._dask

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        numbered = enumerate(tasks)
        for position, task in numbered:
            if self._dask or self.spent >= PATIENCE_SECONDS:
                left = chain([task], (other for _, other in numbered))
                for after, result in self.dask().map(function, left):
                    yield position + after, result
                return
            started = perf_counter()
            result = function(task)
            if position:  # the first one of a stage loads compiled code
                self.spent += perf_counter() - started
            yield position, result

    def prepare(self, function: Callable[[], None]) -> None:
        function()

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
    """The executor that is given, or one on the given Dask client, or on the scheduler at an address; by default one in
    this process.

    Dask's performance report is written to the HTML file `report`.
    """
    if isinstance(given, Executor):
        yield given
        return
    if report and not report.parent.is_dir():
        raise UsageError(f"--report {report}: the folder {report.parent} does not exist")
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
    """Write Dask's performance report of what happens in this context."""
    if not report:
        yield
        return
    from distributed import performance_report

    with client.as_current() if client else nullcontext(), performance_report(filename=str(report)):
        yield
