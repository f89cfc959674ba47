"""Diagnostics for a Ray cluster: collect the same facts from every node and compare them."""

import os
import platform
import shutil
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...storage.errors import DatasetError, UsageError
from ...storage.machine import size_text
from ...storage.places.locate import locate
from .doctor import PACKAGES
from .finding import Finding

MOST_SKEW = 1.0  # seconds between two clocks
LEAST_SHARED, LEAST_DISK = 1 << 30, 5 << 30
ASK_SECONDS = 120
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class NodeFacts:
    """Facts about a node: sizes in bytes, `clock` in seconds since 1970, `storage` the error of a failed storage
    check."""

    address: str
    versions: dict[str, str]
    clock: float
    gpus: tuple[str, ...]
    nccl: str
    shared_memory: int
    disk: int
    storage: str
    asked: tuple[float, float] = (0.0, 0.0)
    """When the request was sent and when the answer arrived, by the local clock."""
    unreachable: tuple[str, ...] = ()
    """Addresses of the nodes that this node could not connect to."""


class Examiner:
    """An actor that runs on each node and reports its facts. It listens on a port for the other nodes to connect to."""

    def __init__(self) -> None:
        self.address = ray.util.get_node_ip_address()
        self.listener = socket.create_server((self.address, 0))

    def port(self) -> tuple[str, int]:
        return self.address, self.listener.getsockname()[1]

    def reach(self, ports: Sequence[tuple[str, int]]) -> tuple[str, ...]:
        """The addresses that this node cannot connect to."""
        return tuple(address for address, port in ports if not _connects(address, port))

    def facts(self, storage: str | None) -> dict[str, Any]:
        import torch

        gpus = tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        return {
            "address": self.address,
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            "clock": time.time(),
            "gpus": gpus,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if gpus else "",  # type: ignore[no-untyped-call]
            "shared_memory": shutil.disk_usage("/dev/shm").free,
            "disk": shutil.disk_usage(os.getcwd()).free,
            "storage": _try_storage(storage) if storage else "",
        }


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _try_storage(place: str) -> str:
    """Write, read and remove a file or object in a folder or bucket. Returns the error, or an empty string."""
    probe = locate(f"{place.rstrip('/')}/.foldstream-{uuid.uuid4().hex}")
    try:
        probe.write(b"probe")
        intact = probe.read_bytes() == b"probe"
        probe.remove()
    except (DatasetError, OSError) as error:
        return str(error)
    return "" if intact else "the data read back differs from what was written"


def examine_cluster(storage: str | None = None) -> list[Finding]:
    """Diagnose the nodes of the connected Ray cluster. With `storage`, a folder or URL, also check that each node can
    read and write there."""
    return compare_nodes(ask_nodes(storage), storage)


def ask_nodes(storage: str | None) -> list[NodeFacts]:
    """Collect the facts of every live node. Raises UsageError if a node does not respond."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    remote = ray.remote(num_cpus=0)(Examiner)
    there = [remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in nodes]
    actors = [one.remote() for one in there]
    try:
        ports = ray.get([actor.port.remote() for actor in actors], timeout=ASK_SECONDS)
        unreachable = ray.get([actor.reach.remote(ports) for actor in actors], timeout=ASK_SECONDS)
        return [_ask(actor, storage, missed) for actor, missed in zip(actors, unreachable, strict=True)]
    except ray.exceptions.GetTimeoutError:
        raise UsageError(
            f"a node did not respond within {ASK_SECONDS} s; check the live nodes with 'ray status'"
        ) from None
    finally:
        for actor in actors:
            ray.kill(actor)


def _ask(actor: Any, storage: str | None, unreachable: tuple[str, ...]) -> NodeFacts:
    first = ray.get(actor.facts.remote(storage), timeout=ASK_SECONDS)  # imports torch, too slow to compare clocks
    asked = time.time()
    facts = ray.get(actor.facts.remote(None), timeout=ASK_SECONDS)
    answered = time.time()
    return NodeFacts(**{**facts, "storage": first["storage"]}, asked=(asked, answered), unreachable=unreachable)


def compare_nodes(nodes: Sequence[NodeFacts], storage: str | None) -> list[Finding]:
    """Compare the facts of all nodes: a finding for each check, with a remedy if it failed."""
    shared = {node.address: node.shared_memory for node in nodes}
    disk = {node.address: node.disk for node in nodes}
    return [
        Finding("nodes", ", ".join(node.address for node in nodes)),
        *(_same_version(package, nodes) for package in nodes[0].versions),
        _clocks(nodes),
        _network(nodes),
        *_gpus(nodes),
        _room("shared memory", shared, LEAST_SHARED, "mount a larger /dev/shm (docker: --shm-size)"),
        _room("disk", disk, LEAST_DISK, "free some space, or move Ray's folder with --temp-dir"),
        *([_storage(nodes, storage)] if storage else []),
    ]


def _same_version(package: str, nodes: Sequence[NodeFacts]) -> Finding:
    versions = {node.address: node.versions[package] for node in nodes}
    same = len(set(versions.values())) == 1 and "missing" not in versions.values()
    value = nodes[0].versions[package] if same else _by_value(versions)
    return Finding(package, value, same, "install the same version on all nodes, ideally from one image")


def _clocks(nodes: Sequence[NodeFacts]) -> Finding:
    worst = max(nodes, key=_skew)
    value = f"off by at most {_skew(worst):.2f} s" + (f", on {worst.address}" if _skew(worst) else "")
    return Finding("clocks", value, _skew(worst) <= MOST_SKEW, "synchronize the clocks of all nodes with NTP")


def _network(nodes: Sequence[NodeFacts]) -> Finding:
    cut_off = [f"{node.address} cannot reach {', '.join(node.unreachable)}" for node in nodes if node.unreachable]
    remedy = "allow all ports between the nodes of the cluster, because workers choose random ports"
    return Finding("network", "; ".join(cut_off) or "all nodes can reach each other", not cut_off, remedy)


def _gpus(nodes: Sequence[NodeFacts]) -> list[Finding]:
    gpus = {node.address: f"{len(node.gpus)} ({node.gpus[0]})" for node in nodes if node.gpus}
    if not gpus:
        return [Finding("GPUs", "none usable by torch; training runs on the CPU")]
    nccl = {node.address: node.nccl for node in nodes if node.gpus}
    same = len(set(nccl.values())) == 1
    remedy = "install the same version of torch on all nodes"
    return [Finding("GPUs", _by_value(gpus)), Finding("NCCL", _by_value(nccl), same, remedy)]


def _room(name: str, free: Mapping[str, int], least: int, remedy: str) -> Finding:
    scarce = [address for address, of_node in free.items() if of_node < least]
    value = f"at least {size_text(min(free.values()))} free"
    return Finding(name, value + (f", too little on {', '.join(scarce)}" if scarce else ""), not scarce, remedy)


def _storage(nodes: Sequence[NodeFacts], place: str) -> Finding:
    failed = {node.address: node.storage for node in nodes if node.storage}
    value = _by_value(failed) if failed else f"every node can read and write {place}"
    return Finding("storage", value, not failed, "give every node the credentials and endpoint, or mount the folder")


def _skew(node: NodeFacts) -> float:
    """Minimum offset of a node's clock from the local clock in seconds."""
    asked, answered = node.asked
    return max(0.0, asked - node.clock, node.clock - answered)


def _by_value(of_node: Mapping[str, str]) -> str:
    """Group equal values: each with the nodes that have it."""
    values: dict[str, list[str]] = {}
    for address, value in of_node.items():
        values.setdefault(value, []).append(address)
    return "; ".join(f"{value} on {', '.join(addresses)}" for value, addresses in values.items())
