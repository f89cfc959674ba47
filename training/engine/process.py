"""One rank of a training group: its index, its device, and its communication with the other ranks."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...storage.machine import Sharing
from ..stopping import Turns

Work = Any
"""torch's handle for a transfer: `wait()` returns when it is complete."""
STATE_TAG = 0  # of states that are sent from rank to rank; other messages have tags from 1 on


@dataclass(frozen=True)
class Process:
    """A rank. With a world size of 1 there is no communication, and torch.distributed is not needed."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mail: dist.ProcessGroup | None = None
    """The process group for CPU tensors; None for torch's default group."""
    turns: Turns = field(default_factory=Turns, compare=False)
    """Makes all ranks stop together once one of them is asked to stop."""
    abandoned: list[Work] = field(default_factory=list, compare=False)
    """Transfers that nobody waits for."""
    sharing: Sharing | None = None
    """How its machine is shared with the ranks of other runs."""

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes anything that must be written only once."""
        return self.rank == 0

    def seed(self, seed: int) -> None:
        """Seed torch's generators like `torch.manual_seed`, but on a GPU only if this rank uses one.

        Otherwise torch would queue the seed for a GPU that is never initialized, which takes half a millisecond per
        step and makes the queue grow.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def use_deterministic_algorithms(self) -> None:
        """Make torch reject nondeterministic algorithms. cuBLAS reads its setting when it is first used."""
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def average(self, buffer: Tensor) -> None:
        """Give all ranks the mean of a running statistic, or the main rank's values of any other buffer."""
        if is_statistic(buffer):
            self.all_reduce(buffer).div_(self.world_size)
        else:  # of any type, also of those that a backend cannot send
            own = buffer.to(torch.int64)
            buffer.copy_(self.all_reduce(own if self.is_main else torch.zeros_like(own)))

    def all_gather(self, values: Sequence[float]) -> list[list[float]]:
        """Every rank's values, in the order of the ranks. All ranks must call this together."""
        if self.world_size == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        everyone = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(everyone, own)
        return [of_rank.tolist() for of_rank in everyone]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. All ranks must call this together."""
        return any(own for (own,) in self.all_gather([flag]))

    def start_send(self, tensor: Tensor, rank: int, tag: int) -> Work:
        """Start sending a CPU tensor, which must not change until the transfer is complete."""
        return dist.isend(tensor, rank, self.mail, tag)

    def start_receive(self, tensor: Tensor, rank: int, tag: int) -> Work:
        """Start receiving a tensor that another rank sends with this tag."""
        return dist.irecv(tensor, rank, self.mail, tag)

    def abandon(self, transfers: Iterable[Work]) -> None:
        """Leave transfers as they are, because training stops. They are kept: once a message arrives whose buffer is
        gone, gloo reads nothing more from that rank, and the last collective calls would never return."""
        self.abandoned.extend(transfers)

    def start_send_state(self, state: dict[str, Any], rank: int) -> list[Work]:
        """Start sending a state: tensors, numbers, strings, and lists and dicts of these."""
        data = _as_bytes(state)
        return [self.start_send(tensor, rank, STATE_TAG) for tensor in (torch.tensor([len(data)]), data)]

    def receive_state(self, rank: int) -> dict[str, Any]:
        """Receive the state that another rank sends with `start_send_state`."""
        length = torch.zeros(1, dtype=torch.int64)
        dist.recv(length, rank, self.mail, STATE_TAG)
        data = torch.empty(int(length), dtype=torch.uint8)
        dist.recv(data, rank, self.mail, STATE_TAG)
        return _from_bytes(data, self.device)

    def broadcast(self, state: dict[str, Any] | None, rank: int) -> dict[str, Any]:
        """Give every rank the state that `rank` has. All ranks must call this together."""
        data = torch.empty(0, dtype=torch.uint8) if state is None else _as_bytes(state)
        length = torch.tensor([len(data)])
        dist.broadcast(length, rank, self.mail)
        data = data if self.rank == rank else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(data, rank, self.mail)
        return _from_bytes(data, self.device)

    def gather(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Every rank's state, in the order of the ranks, on the main rank; an empty list on the others. All ranks must
        call this together."""
        if not self.is_main:
            for work in self.start_send_state(state, 0):
                work.wait()
            return []
        return [state, *map(self.receive_state, range(1, self.world_size))]

    def barrier(self) -> None:
        """Return when every rank has called this."""
        if self.world_size > 1:
            dist.barrier()


def is_statistic(buffer: Tensor) -> bool:
    """Whether a buffer is floating-point, like running statistics. Other buffers are tables, masks or counters."""
    return buffer.is_floating_point() or buffer.is_complex()


def _as_bytes(state: dict[str, Any]) -> Tensor:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def _from_bytes(data: Tensor, device: torch.device) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(data.numpy().tobytes()), map_location=device, weights_only=True)
    return state


@contextmanager
def local_group(rank: int, world_size: int, rendezvous: str, device: torch.device | None = None) -> Iterator[Process]:
    """A group of processes on this machine without Ray, on the CPU or all on one `device`. They find each other through
    the file `rendezvous`, an absolute path."""
    store = dist.FileStore(rendezvous, world_size)  # type: ignore[attr-defined]
    own = dist.PrefixStore("group", store)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=own, rank=rank, world_size=world_size)
    turns = Turns(dist.FileStore(rendezvous, world_size), rank, world_size)  # type: ignore[attr-defined]
    try:
        yield Process(rank, world_size, device or torch.device("cpu"), turns=turns)
    finally:
        turns.close()
        dist.destroy_process_group()
