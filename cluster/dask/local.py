"""Dask in this process for the duration of a job. Its dashboard listens on loopback only."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from time import sleep
from typing import Any

import dask
from distributed import Client, LocalCluster, Scheduler
from tornado import web
from tornado.httputil import HTTPServerRequest

from ...storage.errors import UsageError
from ..loopback import LOOPBACK, free_port

DASK_DASHBOARD = 8787
CONNECT_SECONDS = 20
LAST_LOOK_SECONDS = 1.0
"""How long an open dashboard stays after the last task, so that its pages show the end."""
PREPARATION = "foldstream.pipeline.worker_setup"
PAGE = "foldstream.cluster.views.dask_page"
"""The module that adds Foldstream's pages to the dashboard."""


class DashboardOnDemand(web.Application):
    """Stands in for the dashboard of a scheduler in this process and loads it on the first request: it takes 50 MB, and
    most jobs are never watched."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self.scheduler, self.opened = scheduler, False

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        from distributed.dashboard.scheduler import connect

        self.opened = True
        every, server = self.scheduler.http_application, self.scheduler.http_server
        every.applications.remove(self)
        connect(every, server, self.scheduler)
        import_module(PAGE).dask_setup(self.scheduler)
        return every.find_handler(request, **options)


@contextmanager
def dask_cluster(threads: int, pool: ThreadPoolExecutor | None = None) -> Iterator[Client]:
    """A scheduler and a worker with `threads` threads in this process: compiled code does the work without holding the
    GIL.

    The threads are those of `pool`, if given, because they keep memory that they have freed; it is shut down at the
    end. The worker has no memory limit, since this process may hold other data; memory is bounded by the size and the
    number of tasks.
    """
    # By default, the link has the machine's address, but nobody listens there.
    link = f"http://{LOOPBACK}:{{port}}/status"
    with (
        dask.config.set({"distributed.dashboard.link": link}),
        LocalCluster(
            processes=False,
            n_workers=1,
            threads_per_worker=threads,
            executor=pool,
            memory_limit=0,
            dashboard_address=f"{LOOPBACK}:{free_port(DASK_DASHBOARD)}",
            worker_dashboard_address=None,
            scheduler_kwargs={"dashboard": False},
            preload=[PREPARATION],
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        dashboard = DashboardOnDemand(cluster.scheduler)
        cluster.scheduler.http_application.add_application(dashboard)
        yield client
        if dashboard.opened:
            sleep(LAST_LOOK_SECONDS)


def page_address(client: Client, page: str) -> str:
    """The address of one of Foldstream's pages in a dashboard that has them."""
    return str(client.dashboard_link).removesuffix("/status") + f"/{page}"


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """A client of the scheduler at an address. Raises UsageError if it does not respond or has no workers."""
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--dask {address}: no scheduler responds at this address ({error}); start one with 'dask scheduler', and "
            f"workers with 'dask worker {address}'"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise UsageError(
                f"--dask {address}: the scheduler has no workers; start some with 'dask worker {address}'"
            ) from None
        yield client
