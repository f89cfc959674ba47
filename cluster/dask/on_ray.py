"""Dask on Ray: the workers are Ray actors, so that Ray accounts for their cores and memory and can autoscale.

The scheduler and its dashboard run in the process that creates the cluster. Connections between machines use TLS, with
certificates that live as long as the cluster. The dashboard listens on loopback only, since it has no authentication.
"""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dask
import ray
from distributed import Client, Scheduler
from distributed.deploy.spec import ProcessInterface, SpecCluster
from distributed.security import Security
from ray.exceptions import RayActorError

from ...storage.errors import UsageError
from ...storage.machine import end_with_parent
from ...training.ray.internals import most_cores
from ...training.ray.sharing import worker_memory
from ..loopback import LOOPBACK, free_port, on_loopback
from .local import DASK_DASHBOARD, PAGE, PREPARATION

STOP_SECONDS = 5.0
NODE_SECONDS = 1800  # in which a cloud provides a node
UNSEEN_MEMORY = 2 << 30  # per core, while the cluster has no node yet
SCHEDULER_PRELOADS = [
    "foldstream.pipeline.tables.convert",
    "foldstream.pipeline.images.convert",
    PAGE,
]
"""Modules that the scheduler imports while the workers start: the modules of the tasks, which it deserializes, and
of Foldstream's pages."""


class DaskWorkerActor:
    """A Dask worker and its nanny, in a child process that ends with this actor. If the child process exits, so does
    the actor, and Ray starts another one, on another node if necessary."""

    def __init__(self, scheduler: str, name: str, threads: int, memory: int, encryption: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--name", name]
        command += ["--nthreads", str(threads), "--memory-limit", str(memory)]
        command += ["--host", ray.util.get_node_ip_address(), "--no-dashboard", "--preload", PREPARATION]
        given = {"CUDA_VISIBLE_DEVICES": "", "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(encryption)}
        self.stopping = False
        self.process = subprocess.Popen(command, env=os.environ | given, preexec_fn=end_with_parent)
        threading.Thread(target=self._watch, name="foldstream-nanny-watch", daemon=True).start()

    def _watch(self) -> None:
        self.process.wait()
        if not self.stopping:
            os._exit(1)

    def stop(self) -> None:
        """Stop the worker gracefully: it removes its spilled data."""
        self.stopping = True
        self.process.terminate()
        self.process.wait()


class RayDaskWorker(ProcessInterface):  # type: ignore[misc]
    """A worker of the cluster, as Dask sees it. It may have to wait for a node with free resources."""

    def __init__(self, scheduler: str, *, name: object, threads: int, memory: int, encryption: dict[str, Any]) -> None:
        super().__init__(scheduler=scheduler, name=name)
        self.arguments = scheduler, str(name), threads, memory, encryption
        self.actor: Any = None

    async def start(self) -> None:
        _, _, threads, memory, _ = self.arguments
        # Ray counts what is free when a node starts: one that replaces a lost one may have less than the others.
        room = {"num_cpus": threads, "memory": memory // 2, "max_restarts": -1, "scheduling_strategy": "SPREAD"}
        self.actor = ray.remote(DaskWorkerActor).options(**room).remote(*self.arguments)
        await super().start()

    async def close(self) -> None:
        if self.actor is not None:
            actor, self.actor = self.actor, None
            with suppress(RayActorError, TimeoutError):  # it may have died, or not have started
                await asyncio.wait_for(actor.stop.remote(), STOP_SECONDS)
            ray.kill(actor)
        await super().close()


class RayDaskCluster(SpecCluster):  # type: ignore[misc]
    """A Dask cluster on the connected Ray cluster, with `n_workers` workers of `threads` threads (Ray's CPUs) and
    `memory` bytes each, and up to `maximum` workers if there is work for them. It supports `scale` and `adapt`.

    Workers that do not fit wait for additional nodes.
    """

    def __init__(self, n_workers: int, *, memory: int, threads: int = 1, maximum: int = 0, **kwargs: Any) -> None:
        host = ray.util.get_node_ip_address()
        security = Security() if on_loopback(host) else Security.temporary()
        options = {"threads": threads, "memory": memory, "encryption": _encryption(security)}
        worker = {"cls": RayDaskWorker, "options": options}
        listening = {
            "host": host,
            "protocol": "tls" if security.require_encryption else "tcp",
            "security": security,
            "dashboard_address": f"{LOOPBACK}:{free_port(DASK_DASHBOARD)}",
            "preload": SCHEDULER_PRELOADS,
        }
        # A worker whose node was lost restarts by itself once resources are free, however late.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "7 days"})
        super().__init__(
            workers=dict.fromkeys(range(n_workers), worker),
            scheduler={"cls": Scheduler, "options": listening},
            worker=worker,
            security=security,
            name="foldstream-ray",
            silence_logs=logging.ERROR,
            **kwargs,
        )
        self.bounds = n_workers, max(n_workers, maximum)
        self.adaptive = self.adapt(*self.bounds) if maximum > n_workers else None

    def release(self) -> None:
        """Return all cores to Ray. The scheduler and its dashboard keep running."""
        if self.adaptive:
            self.adaptive.stop()
        self.scale(0)

    def restore(self) -> None:
        """Start the initial number of workers again, and more if there is work for them."""
        self.scale(self.bounds[0])
        if self.adaptive:
            self.adaptive = self.adapt(*self.bounds)


def _encryption(security: Security) -> dict[str, Any]:
    """The Dask configuration of a worker that uses the certificates of `security`."""
    if not security.require_encryption:
        return {}
    tls = {"ca-file": security.tls_ca_file}
    for role in ("worker", "client", "scheduler"):
        tls[role] = {"cert": getattr(security, f"tls_{role}_cert"), "key": getattr(security, f"tls_{role}_key")}
    return {"distributed": {"comm": {"require-encryption": True, "tls": tls}}}


@contextmanager
def dask_on_ray() -> Iterator[Client]:
    """A Dask worker for every core of the connected Ray cluster, each with its share of the node's memory. If Ray can
    add nodes, workers are added while there is work for them."""
    nodes = ray.nodes()
    cores = sum(int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"])
    most = most_cores()
    if not cores and not most:
        raise UsageError("the Ray cluster has no CPU cores; add nodes, then run the same command again")
    memory = worker_memory(nodes) or UNSEEN_MEMORY
    with RayDaskCluster(max(1, cores), memory=memory, maximum=most) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=NODE_SECONDS)
        yield client


@contextmanager
def workers_released(client: object) -> Iterator[None]:
    """Stop the workers of our own cluster on Ray in this context, because training needs the cores. The dashboard keeps
    running."""
    cluster = getattr(client, "cluster", None)
    if not isinstance(client, Client) or not isinstance(cluster, RayDaskCluster):
        yield
        return
    cluster.release()
    try:
        yield
    finally:
        cluster.restore()
        client.wait_for_workers(1, timeout=NODE_SECONDS)
