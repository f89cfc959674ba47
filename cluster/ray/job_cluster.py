"""The Ray cluster of a job: one on this machine that ends with the job, or an existing one.

All servers that are started here listen on loopback only.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from urllib.parse import urlsplit

import ray
import torch

from ...storage.errors import UsageError
from ...storage.machine import size_text, this_machine
from ...training.ray.internals import dashboard_of_connected_cluster, loopback_address_kept, node_processes, start_node
from ...training.stopping import started_here, with_children
from ..loopback import ALONE, LOOPBACK, free_port, on_loopback
from .auth import MODE, TOKEN_PATH, asks_for_token, make_token
from .processes import end_processes

RAY_DASHBOARD = 8265
RAY_OBJECT_STORE = 100 << 20  # our arrays pass through storage, not through Ray


@contextmanager
def ray_cluster(workers: int, memory: int = 0) -> Iterator[str]:
    """A Ray node for `workers` training workers with `memory` bytes each, or the cluster that is already connected.

    Yields the address of the dashboard. A node that was started here is stopped on exit. Raises UsageError if this
    machine has too few GPUs or too little memory.
    """
    if ray.is_initialized():
        yield _dashboard(dashboard_of_connected_cluster())
        return
    machine, gpus = this_machine(), torch.cuda.device_count()  # those that torch can use
    if 0 < gpus < workers:
        raise UsageError(
            f"--workers {workers}: each worker needs a GPU, but this machine has {gpus}; use --workers {gpus}, or "
            'train on the CPU with CUDA_VISIBLE_DEVICES=""'
        )
    if workers * memory > machine.memory:
        raise UsageError(
            f"--memory {size_text(memory)} for each of {workers} workers: this machine only has "
            f"{size_text(machine.memory)}; use less --memory or fewer --workers"
        )
    make_token()
    with loopback_only():
        context = start_node(
            LOOPBACK,
            machine.memory,
            num_cpus=max(workers, machine.cores),
            num_gpus=gpus,
            include_dashboard=True,
            dashboard_host=LOOPBACK,
            dashboard_port=free_port(RAY_DASHBOARD),
            object_store_memory=RAY_OBJECT_STORE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    started = [started_here(pid) for pid in node_processes()]
    try:
        yield _dashboard(context.dashboard_url)
    finally:
        every = with_children(started)
        ray.shutdown()
        end_processes(every)


@contextmanager
def connect_ray(address: str) -> Iterator[None]:
    """Connect to the Ray cluster at an address (`auto`: the cluster that this machine belongs to).

    Raises UsageError if no cluster responds, or if it is reachable from other machines without a token.
    """
    host = urlsplit(f"//{address}").hostname or ""
    try:
        with loopback_only() if on_loopback(host) else nullcontext():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except RuntimeError as error:  # the versions differ
        raise UsageError(
            f"Ray cluster {address}: {error}; use the same versions of Python and Ray as the cluster"
        ) from None
    except (ConnectionError, ValueError) as error:
        if "InvalidAuthToken" in str(error.__cause__):
            reason = f"it requires a token; copy the token file from the cluster and set {TOKEN_PATH} to its path"
        else:
            reason = f"no cluster responds at this address ({error}); check it, e.g. HOST:6379 or auto"
        raise UsageError(f"Ray cluster {address}: {reason}") from None
    try:
        if not on_loopback(ray.util.get_node_ip_address()) and not asks_for_token():
            raise UsageError(
                f"Ray cluster {address}: anyone who can reach it can run code on it; start all of its nodes "
                f"with {MODE}=token and {TOKEN_PATH} set to the same token file"
            )
        yield
    finally:
        ray.shutdown()


@contextmanager
def loopback_only() -> Iterator[None]:
    """Keep a node that is started or connected in this context on loopback. An environment variable does the same for
    its child processes, such as the dashboard, which connect to the node."""
    before, os.environ[ALONE] = os.environ.get(ALONE), "0"
    try:
        with loopback_address_kept():
            yield
    finally:
        del os.environ[ALONE]
        if before is not None:
            os.environ[ALONE] = before


def _dashboard(url: str | None) -> str:
    return f"http://{url}" if url else "not running"
