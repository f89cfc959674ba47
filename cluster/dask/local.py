"""Dask on this machine for the duration of a job. All servers listen on loopback only."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client
from distributed.deploy.subprocess import SubprocessCluster

from ...storage.errors import UsageError
from ...storage.machine import this_machine
from ..loopback import LOOPBACK, free_port

DASK_DASHBOARD = 8787
START_SECONDS = 120
CONNECT_SECONDS = 20
SCHEDULER_PRELOADS = [
    "foldstream.pipeline.tables.convert",
    "foldstream.pipeline.images.convert",
    "foldstream.cluster.views.dask_page",
]
"""Modules that the scheduler imports while the workers start: those of the tasks, which it deserializes, and our page
in its dashboard."""


@contextmanager
def dask_cluster(workers: int | None = None) -> Iterator[Client]:
    """Dask workers in their own processes, with one thread each. Together they use three quarters of the memory.

    They are started by a command, not by fork or spawn, so that a plain script may call this without a main guard.
    """
    machine = this_machine()
    count = workers or machine.cores
    options = {
        "nthreads": 1,
        "memory_limit": machine.memory * 3 // 4 // count,
        "env": {"CUDA_VISIBLE_DEVICES": ""},
        "dashboard": False,
        "preload": ["foldstream.pipeline.worker_setup"],
    }
    cluster = SubprocessCluster(
        host=LOOPBACK,
        n_workers=count,
        threads_per_worker=1,
        worker_kwargs=options,
        scheduler_kwargs={"preload": SCHEDULER_PRELOADS},
        dashboard_address=f"{LOOPBACK}:{free_port(DASK_DASHBOARD)}",
        silence_logs=logging.ERROR,
    )
    with cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=START_SECONDS)
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
