"""Ray on this machine for the time of a job. All servers listen on loopback only."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep

import psutil
import ray
from ray._private import ray_constants

from ..storage.machine import this_machine
from .local import LOOPBACK, free_port

RAY_DASHBOARD = 8265
END_SECONDS = 10
RAY_OBJECT_STORE = 100 << 20  # our arrays pass through storage, not through Ray


@contextmanager
def ray_cluster(workers: int) -> Iterator[str]:
    """A Ray node for `workers` training workers, or the cluster that is connected already.

    Yields the dashboard's address. A node that was started here ends here.
    """
    if ray.is_initialized():
        yield _dashboard(ray.worker.get_dashboard_url())
        return
    before = psutil.Process().children(recursive=True)
    with loopback_alone():
        context = ray.init(
            address="local",
            num_cpus=max(workers, this_machine().cores),
            include_dashboard=True,
            dashboard_host=LOOPBACK,
            dashboard_port=free_port(RAY_DASHBOARD),
            object_store_memory=RAY_OBJECT_STORE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _node_ip_address=LOOPBACK,
        )
    try:
        yield _dashboard(context.dashboard_url)
    finally:
        started = set(psutil.Process().children(recursive=True)) - set(before)
        ray.shutdown()
        end_processes(started)


@contextmanager
def loopback_alone() -> Iterator[None]:
    """Have a node that is started meanwhile take the loopback address: by default Ray takes the machine's own in its
    place, and listens on all interfaces."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def end_processes(processes: Iterable[psutil.Process]) -> None:
    """End processes that Ray has told to end: its dashboard takes seconds, and an actor whose owner was killed may hang
    in its exit.

    Those whose parent has ended too wait for the machine's first process to take note of it, which may be slow.
    """
    left = list(processes)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = monotonic() + END_SECONDS
    while (left := [process for process in left if _runs(process)]) and monotonic() < deadline:
        sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _dashboard(url: str | None) -> str:
    return f"http://{url}" if url else "not running"
