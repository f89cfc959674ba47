"""Ray on this machine for the time of a job. All servers listen on loopback only."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from ..storage.machine import this_machine
from .local import LOOPBACK, free_port

RAY_DASHBOARD = 8265
RAY_OBJECT_STORE = 100 << 20  # our arrays pass through storage, not through Ray


@contextmanager
def ray_cluster(workers: int) -> Iterator[str]:
    """A Ray node for `workers` training workers, or the cluster that is connected already.

    Yields the dashboard's address. A node that was started here ends here.
    """
    if ray.is_initialized():
        yield _dashboard(ray.worker.get_dashboard_url())
        return
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
        ray.shutdown()


def _dashboard(url: str | None) -> str:
    return f"http://{url}" if url else "not running"
