"""A local Ray cluster of several nodes, on loopback, for experiments. It runs until it is stopped."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import psutil

from ...storage.errors import ConflictError, RunError, UsageError
from ...storage.machine import this_machine
from ...storage.places.json_files import read_json
from ..loopback import ALONE
from .auth import MODE
from .processes import await_end, end_processes

START_SECONDS, STOP_SECONDS = 120, 15


@dataclass(frozen=True)
class LocalCluster:
    """The addresses of a local cluster, and its process: id and start time."""

    address: str
    dashboard: str
    nodes: int
    pid: int
    started: float

    def process(self) -> psutil.Process | None:
        """The process of the cluster, if it is running."""
        if psutil.pid_exists(self.pid) and (process := psutil.Process(self.pid)).create_time() == self.started:
            return process
        return None


def state_file() -> Path:
    """Path of the file that describes the running local cluster."""
    return Path(os.environ.get("FOLDSTREAM_HOME") or Path.home() / ".foldstream") / "cluster.json"


def current_cluster() -> LocalCluster | None:
    """The local cluster, if one is running."""
    if not state_file().exists():
        return None
    cluster = LocalCluster(**read_json(state_file()))
    return cluster if cluster.process() else None


def start_cluster(nodes: int = 1, cores: int | None = None) -> LocalCluster:
    """Start `nodes` nodes with `cores` cores each, by default an equal part of this machine's.

    Raises ConflictError if a cluster is already running, and RunError if a node does not start.
    """
    if nodes < 1:
        raise UsageError(f"--nodes {nodes}: must be at least 1; use --nodes 1 or more")
    if running := current_cluster():
        raise ConflictError(
            f"a local cluster is already running at {running.dashboard}; stop it with 'foldstream cluster stop'"
        )
    machine, file = this_machine(), state_file()
    room = [nodes, cores or max(1, machine.cores // nodes), machine.memory * 3 // 4 // nodes]
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "foldstream.cluster.ray.local_nodes", *map(str, room), str(file)]
    # Jobs find their commands beside this process's Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, MODE: "token", "PATH": path, ALONE: "0"}
    log = file.with_name("cluster.log")
    with open(log, "wb") as out:
        started = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    deadline = monotonic() + START_SECONDS
    while not (cluster := current_cluster()):
        if started.poll() is not None or monotonic() > deadline:
            started.kill()
            raise RunError(f"the cluster's nodes did not start; see {log} for the reason")
        sleep(0.1)
    return cluster


def stop_cluster() -> bool:
    """Stop the local cluster and everything that runs on it. Returns whether one was running."""
    cluster = current_cluster()
    if cluster and (process := cluster.process()):
        every = [process, *process.children(recursive=True)]
        process.terminate()
        await_end([process], STOP_SECONDS)
        end_processes(every)
    state_file().unlink(missing_ok=True)
    return cluster is not None
