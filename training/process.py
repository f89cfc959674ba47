"""One rank of a training group: its number, its device, and what it exchanges with the others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Process:
    """A rank. With a world size of 1 nothing is exchanged and torch.distributed is not needed."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as it is trained: gradients are averaged over the ranks.

        Buffers are not exchanged at each step, which would be a second wait for the slowest rank.
        """
        return DistributedDataParallel(model, broadcast_buffers=False) if self.world_size > 1 else model

    def seed(self, seed: int) -> None:
        """Seed what the model draws, as `torch.manual_seed` does, on a GPU only where this rank uses one.

        Without one torch would queue the seed for a GPU that is never started: half a millisecond at each step, and
        a queue that grows.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def average_buffers(self, model: nn.Module) -> None:
        """Give every rank the mean of all ranks' buffers: batch norm's running statistics, over all rows."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.all_reduce(buffer)
                buffer.div_(self.world_size) if buffer.is_floating_point() else buffer.floor_divide_(self.world_size)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def collect(self, values: Sequence[float]) -> list[list[float]]:
        """Every rank's values, in the order of the ranks: an exchange in which all take part."""
        if self.world_size == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        everyone = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(everyone, own)
        return [of_rank.tolist() for of_rank in everyone]

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def local_group(rank: int, world_size: int, rendezvous: str) -> Iterator[Process]:
    """A group of processes on this machine without Ray, meeting at a file: `rendezvous` is its absolute path."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    try:
        yield Process(rank, world_size)
    finally:
        dist.destroy_process_group()
