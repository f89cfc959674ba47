"""The command line on a small cluster of real Ray nodes: python tests/chaos/node_cluster.py NODES CORES LOST ARGUMENTS.

The cluster has a head without cores and NODES nodes of CORES cores each, on loopback. LOST is `replaced` if a lost node
is replaced, or `away` if it is not.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from foldstream import cli
from foldstream.training.ray.internals import cluster_of_this_node, start_node
from ray.cluster_utils import Cluster

LOOPBACK = "127.0.0.1"
OBJECT_STORE = 100 << 20
POLL_SECONDS = 1.0
QUICK = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "500"}
"""A node is considered dead after five failed health checks: by default after 15 s, here after 2.5 s."""


def connect() -> Cluster:
    """Start a head without cores and connect to it."""
    os.environ.update(QUICK)
    # With a dashboard, which Ray Train asks whether a controller is alive before it gives back what that reserved.
    start_node(
        LOOPBACK,
        num_cpus=0,
        include_dashboard=True,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    return cluster_of_this_node()


def fill(cluster: Cluster, count: int, cores: int) -> None:
    """Start the nodes that are missing."""
    for node in list(cluster.worker_nodes):
        if not node.remaining_processes_alive():
            cluster.remove_node(node)
    while len(cluster.worker_nodes) < count:
        cluster.add_node(num_cpus=cores, node_ip_address=LOOPBACK, object_store_memory=OBJECT_STORE)


@contextmanager
def ray_nodes(count: int, cores: int, replaced: bool) -> Iterator[None]:
    """Start a head and `count` nodes, and connect to them. On exit, all are stopped."""
    cluster, ended = connect(), threading.Event()

    def keep() -> None:
        while replaced and not ended.wait(POLL_SECONDS):
            fill(cluster, count, cores)

    keeper = threading.Thread(target=keep, name="foldstream-nodes")
    try:
        fill(cluster, count, cores)
        keeper.start()
        yield
    finally:
        ended.set()
        if keeper.is_alive():
            keeper.join()
        for node in list(cluster.worker_nodes):
            cluster.remove_node(node)
        ray.shutdown()


if __name__ == "__main__":
    nodes, cores, lost = sys.argv[1:4]
    del sys.argv[1:4]
    with ray_nodes(int(nodes), int(cores), lost == "replaced"):
        cli.main()
