"""The process of a local cluster: python -m foldstream.cluster.ray.local_nodes NODES CORES MEMORY FILE.

Its environment keeps Ray on loopback. Once all nodes are running, it writes their addresses to FILE; on SIGTERM it
stops them and exits.
"""

import logging
import signal
import sys
from pathlib import Path
from time import sleep

import psutil
import ray

from ...storage.places.json_files import write_json
from ...storage.places.locate import locate
from ...training.ray.internals import cluster_of_this_node, start_node
from ..loopback import LOOPBACK, free_port
from .auth import make_token
from .job_cluster import RAY_DASHBOARD, RAY_OBJECT_STORE


def main(nodes: int, cores: int, memory: int, file: Path) -> None:
    make_token()
    room = {"num_cpus": cores, "object_store_memory": RAY_OBJECT_STORE}
    context = start_node(
        LOOPBACK,
        memory,
        **room,
        include_dashboard=True,
        dashboard_host=LOOPBACK,
        dashboard_port=free_port(RAY_DASHBOARD),
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    cluster = cluster_of_this_node()
    for _ in range(nodes - 1):
        cluster.add_node(**room, memory=memory, node_ip_address=LOOPBACK)
    while sum(node["Alive"] for node in ray.nodes()) < nodes:
        sleep(0.1)
    own = psutil.Process()
    address = ray.get_runtime_context().gcs_address
    where = {"address": address, "dashboard": f"http://{context.dashboard_url}", "nodes": nodes}
    write_json(locate(file), {**where, "pid": own.pid, "started": own.create_time()})
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    nodes, cores, memory, file = sys.argv[1:]
    main(int(nodes), int(cores), int(memory), Path(file))
