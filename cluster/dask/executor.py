"""The executor of a job: Dask, or this process if there is little work."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from distributed import Client, performance_report

from ...pipeline.dask_executor import DaskExecutor
from ...storage.errors import UsageError
from ...storage.tasks import Executor, SerialExecutor
from ..listener import Listener
from .local import connect, dask_cluster


@contextmanager
def dask_executor(
    listener: Listener,
    client: Client | SerialExecutor | None,
    address: str | None = None,
    report: Path | None = None,
) -> Iterator[Executor]:
    """An executor on the given Dask client, on the scheduler at an address, or on its own cluster; or the given
    executor, which works in this process.

    Dask's performance report is written to the HTML file `report`.
    """
    if isinstance(client, SerialExecutor):
        yield client
        return
    if report and not report.parent.is_dir():
        raise UsageError(f"--report {report}: the folder {report.parent} does not exist")
    with nullcontext(client) if client else connect(address) if address else dask_cluster() as connected:
        assert connected is not None
        if client is None:
            listener.announce("Dask dashboard", connected.dashboard_link)
        with performance_report(filename=str(report)) if report else nullcontext():
            yield DaskExecutor(connected)


SMALL_WORK = 10_000_000  # values that this process handles itself, in about a second


@contextmanager
def task_executor(size: int, listener: Listener, client: Client | None) -> Iterator[Executor]:
    """Dask, or this process if there is little work (`size` values, about a second): a cluster takes seconds to
    start."""
    if client is None and size <= SMALL_WORK:
        yield SerialExecutor()
    else:
        with dask_executor(listener, client) as executor:
            yield executor
