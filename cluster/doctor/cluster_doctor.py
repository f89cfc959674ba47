"""Are the nodes of a Ray cluster fit to work together? Each is asked the same, and the answers are compared."""

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
from ...storage.places.locate import locate
from .doctor import PACKAGES, Finding

MOST_SKEW = 1.0  # seconds
LEAST_SHARED, LEAST_DISK = 1 << 30, 5 << 30
ASK_SECONDS = 120
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself. Bytes; `clock` in seconds since 1970; `storage`: why it fails, if it does."""

    address: str
    versions: dict[str, str]
    clock: float
    gpus: tuple[str, ...]
    nccl: str
    shared_memory: int
    disk: int
    storage: str
    asked: tuple[float, float] = (0.0, 0.0)
    """When it was asked and when it had answered, by the clock of who asks."""
    unreachable: tuple[str, ...] = ()
    """Addresses of nodes to which it could not connect."""


class Examiner:
    """On each node, one of these answers. It listens at a port, for the others to try."""

    def __init__(self) -> None:
        self.address = ray.util.get_node_ip_address()
        self.listener = socket.create_server((self.address, 0))

    def port(self) -> tuple[str, int]:
        return self.address, self.listener.getsockname()[1]

    def reach(self, ports: Sequence[tuple[str, int]]) -> tuple[str, ...]:
        """The addresses of those that cannot be connected to."""
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
    """Write, read and remove an object or a file there; why that fails, or nothing."""
    probe = locate(f"{place.rstrip('/')}/.foldstream-{uuid.uuid4().hex}")
    try:
        probe.write(b"probe")
        whole = probe.read_bytes() == b"probe"
        probe.remove()
    except (DatasetError, OSError) as error:
        return str(error)
    return "" if whole else "what was written is not what is read"


def examine_cluster(storage: str | None = None) -> list[Finding]:
    """What is well and what is not on the nodes of the Ray cluster that is connected, and with `storage`, a folder or a
    URL, whether each node may write and read there."""
    return compare_nodes(ask_nodes(storage), storage)


def ask_nodes(storage: str | None) -> list[NodeFacts]:
    """The facts of every node that is alive. Raises UsageError if there is none, or one does not answer."""
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
            f"a node did not answer within {ASK_SECONDS} s; «ray status» shows those that are alive"
        ) from None
    finally:
        for actor in actors:
            ray.kill(actor)


def _ask(actor: Any, storage: str | None, unreachable: tuple[str, ...]) -> NodeFacts:
    first = ray.get(actor.facts.remote(storage), timeout=ASK_SECONDS)  # loads torch, so its clock tells little
    asked = time.time()
    facts = ray.get(actor.facts.remote(None), timeout=ASK_SECONDS)
    answered = time.time()
    return NodeFacts(**{**facts, "storage": first["storage"]}, asked=(asked, answered), unreachable=unreachable)


def compare_nodes(nodes: Sequence[NodeFacts], storage: str | None) -> list[Finding]:
    """What the nodes' answers say together: a finding for each question, and what to do where it is not well."""
    shared = {node.address: node.shared_memory for node in nodes}
    disk = {node.address: node.disk for node in nodes}
    return [
        Finding("nodes", ", ".join(node.address for node in nodes)),
        *(_same_version(package, nodes) for package in nodes[0].versions),
        _clocks(nodes),
        _network(nodes),
        *_gpus(nodes),
        _room("shared memory", shared, LEAST_SHARED, "mount a larger /dev/shm (docker: --shm-size)"),
        _room("disk", disk, LEAST_DISK, "make room, or move Ray's folder by --temp-dir"),
        *([_storage(nodes, storage)] if storage else []),
    ]


def _same_version(package: str, nodes: Sequence[NodeFacts]) -> Finding:
    versions = {node.address: node.versions[package] for node in nodes}
    same = len(set(versions.values())) == 1 and "missing" not in versions.values()
    told = nodes[0].versions[package] if same else _by_value(versions)
    return Finding(package, told, same, "install the same on all nodes, best from one image")


def _clocks(nodes: Sequence[NodeFacts]) -> Finding:
    worst = max(nodes, key=_skew)
    told = f"off by {_skew(worst):.2f} s at most" + (f", on {worst.address}" if _skew(worst) else "")
    return Finding("clocks", told, _skew(worst) <= MOST_SKEW, "have all nodes keep time by NTP")


def _network(nodes: Sequence[NodeFacts]) -> Finding:
    cut_off = [f"{node.address} does not reach {', '.join(node.unreachable)}" for node in nodes if node.unreachable]
    remedy = "let the nodes of the cluster reach each other on all ports: workers choose theirs freely"
    return Finding("network", "; ".join(cut_off) or "each node reaches each", not cut_off, remedy)


def _gpus(nodes: Sequence[NodeFacts]) -> list[Finding]:
    gpus = {node.address: f"{len(node.gpus)} ({node.gpus[0]})" for node in nodes if node.gpus}
    if not gpus:
        return [Finding("GPUs", "none that torch can use: training runs on the CPU")]
    nccl = {node.address: node.nccl for node in nodes if node.gpus}
    same = len(set(nccl.values())) == 1
    return [Finding("GPUs", _by_value(gpus)), Finding("NCCL", _by_value(nccl), same, "install the same torch on all")]


def _room(name: str, free: Mapping[str, int], least: int, remedy: str) -> Finding:
    scarce = [address for address, of_node in free.items() if of_node < least]
    told = f"{min(free.values()) / 2**30:.1f} GiB free at least"
    return Finding(name, told + (f", too little on {', '.join(scarce)}" if scarce else ""), not scarce, remedy)


def _storage(nodes: Sequence[NodeFacts], place: str) -> Finding:
    failed = {node.address: node.storage for node in nodes if node.storage}
    told = _by_value(failed) if failed else f"{place} can be written and read from each node"
    return Finding("storage", told, not failed, "give every node the credentials and the endpoint, or mount the folder")


def _skew(node: NodeFacts) -> float:
    """Seconds by which a node's clock is certainly off that of who asks."""
    asked, answered = node.asked
    return max(0.0, asked - node.clock, node.clock - answered)


def _by_value(of_node: Mapping[str, str]) -> str:
    """Equal answers with those who gave them."""
    values: dict[str, list[str]] = {}
    for address, value in of_node.items():
        values.setdefault(value, []).append(address)
    return "; ".join(f"{value} on {', '.join(addresses)}" for value, addresses in values.items())
