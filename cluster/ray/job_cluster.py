"""The Ray cluster of a job: one on this machine for as long as the job takes, or one that is there already.

All servers that are started here listen on loopback only.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from urllib.parse import urlsplit

import psutil
import ray
import torch
from ray._private import ray_constants

from ...storage.errors import UsageError
from ...storage.machine import this_machine
from ..loopback import ALONE, LOOPBACK, free_port, on_loopback
from .auth import MODE, TOKEN_PATH, asks_for_token, make_token
from .processes import end_processes

RAY_DASHBOARD = 8265
RAY_OBJECT_STORE = 100 << 20  # our arrays pass through storage, not through Ray


def usual_workers() -> int:
    """How many workers train unless it is said: two, or one on a machine with one GPU, which each takes."""
    return min(2, torch.cuda.device_count() or 2)


@contextmanager
def ray_cluster(workers: int, memory: int = 0) -> Iterator[str]:
    """A Ray node for `workers` training workers, each with `memory` bytes, or the cluster that is connected already.

    Yields the dashboard's address. A node that was started here ends here. Raises UsageError where this machine has not
    so much.
    """
    if ray.is_initialized():
        yield _dashboard(ray.worker.get_dashboard_url())
        return
    machine, gpus = this_machine(), torch.cuda.device_count()  # those that torch can use
    if 0 < gpus < workers:
        raise UsageError(
            f"--workers {workers}: each takes a GPU, and this machine has {gpus}; use --workers {gpus}, or train on "
            'the CPU with CUDA_VISIBLE_DEVICES=""'
        )
    if workers * memory > machine.memory:
        raise UsageError(
            f"--memory {memory / 1e9:,.1f}GB for each of {workers} workers: this machine has "
            f"{machine.memory / 1e9:,.1f} GB; use less --memory or fewer --workers"
        )
    before = psutil.Process().children(recursive=True)
    make_token()
    with loopback_alone():
        context = ray.init(
            address="local",
            num_cpus=max(workers, machine.cores),
            num_gpus=gpus,
            _memory=machine.memory,
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
def connect_ray(address: str) -> Iterator[None]:
    """Connect to the Ray cluster at an address (`auto`: the one of which this machine is a node).

    Raises UsageError where none answers, and where one off loopback lets in everybody.
    """
    host = urlsplit(f"//{address}").hostname or ""
    try:
        with loopback_alone() if on_loopback(host) else nullcontext():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except RuntimeError as error:  # of versions that differ
        raise UsageError(f"Ray cluster {address}: {error}; have the same Python and Ray here as there") from None
    except (ConnectionError, ValueError) as error:
        if "InvalidAuthToken" in str(error.__cause__):
            told = f"it asks for a token, and {TOKEN_PATH} does not name a file with that; copy it from the cluster"
        else:
            told = f"nothing answers there ({error}); look at the address, HOST:6379 or auto"
        raise UsageError(f"Ray cluster {address}: {told}") from None
    try:
        if not on_loopback(ray.util.get_node_ip_address()) and not asks_for_token():
            raise UsageError(
                f"Ray cluster {address}: whoever reaches it may run code on it; start all its nodes with "
                f"{MODE}=token and the same token file, which {TOKEN_PATH} names"
            )
        yield
    finally:
        ray.shutdown()


@contextmanager
def loopback_alone() -> Iterator[None]:
    """Have a node that is started or connected meanwhile keep to the loopback address: by default Ray takes the
    machine's own in its place, and listens on all interfaces. Its processes are told too: the dashboard's connect to
    it."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    told, os.environ[ALONE] = os.environ.get(ALONE), "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ALONE]
        if told is not None:
            os.environ[ALONE] = told


def _dashboard(url: str | None) -> str:
    return f"http://{url}" if url else "not running"
