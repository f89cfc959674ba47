"""What a rank may use of its node, and what it asks Ray for. Nothing here asks Ray: it is arithmetic on its nodes."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...storage.machine import STREAM_PART, Sharing

Node = Mapping[str, Any]
"""A node of a Ray cluster, as `ray.nodes()` describes it."""


def sharing_on(nodes: Sequence[Node], node: str, use_gpu: bool, number: int, own: int, others: int) -> Sharing:
    """How a rank on a node, with a `number` among all ranks of the job, shares its machine: with `own` ranks of its run
    that are there, itself included, and with those of the `others`, of other runs, that may come there.

    Each rank takes a core or a GPU, so no more than these can be on the machine. Nodes with the same address are one
    machine.
    """
    unit, address = "GPU" if use_gpu else "CPU", next(_address(one) for one in nodes if one["NodeID"] == node)
    room = sum(_count(one, unit) for one in nodes if one["Alive"] and _address(one) == address)
    together = max(own, min(own + others, room))
    return Sharing(number % together, together, own)


def worker_memory(nodes: Sequence[Node]) -> int:
    """The memory in bytes that the poorest node has for each of its cores and GPUs. 0 if no node is known."""
    shares = [
        int(one["Resources"].get("memory", 0)) // takers
        for one in nodes
        if one["Alive"] and (takers := _count(one, "CPU") + _count(one, "GPU"))
    ]
    return min(shares, default=0)


def stream_share(nodes: Sequence[Node]) -> int:
    """The memory in bytes that a training worker asks Ray for: the part of `worker_memory` that its stream may hold.

    Memory then never keeps a worker from a core or GPU that is free, not even on a node that replaces a lost one: Ray
    counts what is free when a node starts, which is less each time.
    """
    return worker_memory(nodes) // STREAM_PART


def _address(node: Node) -> str:
    return str(node["NodeManagerAddress"])


def _count(node: Node, resource: str) -> int:
    return int(node["Resources"].get(resource, 0))
