"""Dask in this process for the duration of a job. Its dashboard listens on loopback only."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster

from ...storage.errors import UsageError
from ..loopback import LOOPBACK, free_port

DASK_DASHBOARD = 8787
CONNECT_SECONDS = 20
PREPARATION = "foldstream.pipeline.worker_setup"
SCHEDULER_PRELOADS = [
    "foldstream.pipeline.tables.convert",
    "foldstream.pipeline.images.convert",
    "foldstream.cluster.views.dask_page",
]
"""Modules that the scheduler imports while the workers start: those of the tasks, which it deserializes, and our page
in its dashboard."""


@contextmanager
def dask_cluster(threads: int) -> Iterator[Client]:
    """A scheduler and a worker with so many threads in this process: compiled code does the work, and leaves the
    interpreter to the other threads.

    The worker has no memory limit of its own, since this process may hold other data: tasks are bounded by their size
    and their number.
    """
    # By default, the link has the machine's address, but nobody listens there.
    link = f"http://{LOOPBACK}:{{port}}/status"
    with (
        dask.config.set({"distributed.dashboard.link": link}),
        LocalCluster(
            processes=False,
            n_workers=1,
            threads_per_worker=threads,
            memory_limit=0,
            dashboard_address=f"{LOOPBACK}:{free_port(DASK_DASHBOARD)}",
            worker_dashboard_address=None,
            scheduler_kwargs={"preload": SCHEDULER_PRELOADS},
            preload=[PREPARATION],
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """A client of the scheduler at an address. Raises UsageError if none answers, or if it has no workers."""
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--dask {address}: no scheduler answers there ({error}); start one with 'dask scheduler', and workers "
            f"with 'dask worker {address}'"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise UsageError(
                f"--dask {address}: the scheduler there has no workers; start some with 'dask worker {address}'"
            ) from None
        yield client
