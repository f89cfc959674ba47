"""A Ray cluster of several nodes on this machine, on loopback, for trying: it stays until it is stopped."""

import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from ..storage.errors import ConflictError, RunError, UsageError
from ..storage.files import read_json, write_json
from ..storage.machine import this_machine
from .local import LOOPBACK, free_port
from .local_ray import RAY_DASHBOARD, RAY_OBJECT_STORE, await_end, end_processes
from .ray_token import MODE

RAY_PORT, RAY_CLIENT = 6379, 10001
HOST = "127.0.0.{}"  # each node has an address of its own; in the place of .1 Ray would take the machine's
START_SECONDS = 120
STOP_SECONDS = 15


@dataclass(frozen=True)
class LocalCluster:
    """Where its head listens, and the processes that it is, by their ids and when they were started."""

    address: str
    dashboard: str
    nodes: int
    processes: tuple[tuple[int, float], ...]

    def alive(self) -> list[psutil.Process]:
        """Those of its processes that run."""
        found = []
        for pid, started in self.processes:
            if psutil.pid_exists(pid) and psutil.Process(pid).create_time() == started:
                found.append(psutil.Process(pid))
        return found


def state_file() -> Path:
    """Where it is written down that there is a local cluster."""
    return Path(os.environ.get("FOLDSTREAM_HOME") or Path.home() / ".foldstream") / "cluster.json"


def current_cluster() -> LocalCluster | None:
    """The local cluster, if one runs."""
    if not state_file().exists():
        return None
    state = read_json(state_file())
    cluster = LocalCluster(**{**state, "processes": tuple(map(tuple, state["processes"]))})
    return cluster if cluster.alive() else None


def start_cluster(nodes: int = 1, cores: int | None = None) -> LocalCluster:
    """Start `nodes` nodes of `cores` cores each, by default this machine's in equal parts.

    The token must be there. Raises ConflictError where a cluster runs already, RunError if a node does not come up.
    """
    if nodes < 1:
        raise UsageError(f"--nodes {nodes}: it must be at least 1")
    if running := current_cluster():
        raise ConflictError(f"a local cluster runs at {running.dashboard}; end it with «foldstream cluster stop»")
    machine = this_machine()
    room = ["--num-cpus", str(cores or max(1, machine.cores // nodes))]
    room += ["--memory", str(machine.memory * 3 // 4 // nodes), "--object-store-memory", str(RAY_OBJECT_STORE)]
    port, web = free_port(RAY_PORT), free_port(RAY_DASHBOARD)
    address, dashboard = f"{HOST.format(2)}:{port}", f"http://{LOOPBACK}:{web}"
    head = ["--head", "--port", str(port), "--dashboard-host", LOOPBACK, "--dashboard-port", str(web)]
    head += ["--ray-client-server-port", str(free_port(RAY_CLIENT))]
    log = state_file().with_name("cluster.log")
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    started = [_start_node(2, [*head, *room], log)]
    try:
        _wait_for_nodes(dashboard, 1, started, log)
        started += [_start_node(number, ["--address", address, *room], log) for number in range(3, nodes + 2)]
        _wait_for_nodes(dashboard, nodes, started, log)
    except BaseException:
        _end(started)
        raise
    cluster = LocalCluster(address, dashboard, nodes, tuple((one.pid, one.create_time()) for one in started))
    write_json(state_file(), asdict(cluster))
    return cluster


def _start_node(number: int, arguments: list[str], log: Path) -> psutil.Process:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address", HOST.format(number), *arguments]
    environment = {
        **os.environ,
        MODE: "token",
        # Commands of jobs are found where this one's Python is.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    with open(log, "ab") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    return psutil.Process(process.pid)


def _wait_for_nodes(dashboard: str, count: int, started: list[psutil.Process], log: Path) -> None:
    deadline = monotonic() + START_SECONDS
    while len(list_nodes(dashboard)) < count:
        if monotonic() > deadline or any(not one.is_running() or one.status() == "zombie" for one in started):
            raise RunError(f"a node of the cluster did not come up; {log} says why")
        sleep(0.2)


def list_nodes(dashboard: str) -> list[dict[str, Any]]:
    """The nodes of the Ray cluster with this dashboard that are alive; none if it does not answer (yet)."""
    from ray.util.state import list_nodes as of_ray
    from ray.util.state.exception import RayStateApiException

    try:
        return [vars(node) for node in of_ray(address=dashboard, filters=[("state", "=", "ALIVE")], timeout=5)]
    except (RayStateApiException, ConnectionError, RuntimeError):
        return []


def stop_cluster() -> bool:
    """End the local cluster, and all that runs on it. Returns whether there was one."""
    cluster = current_cluster()
    if cluster:
        _end(cluster.alive())
    state_file().unlink(missing_ok=True)
    return cluster is not None


def _end(parents: list[psutil.Process]) -> None:
    """Have each `ray start` end its node, and then whatever is left of it."""
    every = [*parents, *(child for parent in parents for child in parent.children(recursive=True))]
    for parent in parents:
        parent.terminate()
    await_end(parents, STOP_SECONDS)
    end_processes(every)
