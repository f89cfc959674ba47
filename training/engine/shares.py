"""The shares of a global batch that one rank computes, each as if it had its own rank.

A run splits every batch into as many shares as it had workers at its start. Everything that usually depends on the
rank depends on the share: the rows, the random numbers, batch norm statistics, and the gradient that is averaged. One
rank that computes two shares therefore gets bit-identical weights to two ranks with one share each.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..stream.batch import Batch, with_tensors
from .process import is_statistic

Rows = tuple[Any, ...]
"""x, y and, if any, the sample weights: tensors, but x may be a dict of them."""


class Shares:
    """The shares `numbers` out of `count` of a model's batches, each with its own buffers and gradients."""

    def __init__(self, model: nn.Module, numbers: Sequence[int], count: int) -> None:
        self.numbers, self.count = tuple(numbers), count
        self.places = [(module, name) for module in model.modules() for name in module._buffers]
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        own = [module._buffers[name] for module, name in self.places]
        copies = [[buffer if buffer is None else buffer.clone() for buffer in own] for _ in self.numbers[1:]]
        self._buffers = [own, *copies]
        self.drop_gradients()

    @property
    def buffers(self) -> list[list[Tensor | None]]:
        """The current buffers of each share, because a module may replace its buffers."""
        if len(self.numbers) == 1:
            return [[module._buffers[name] for module, name in self.places]]
        return self._buffers

    def set_buffers(self, values: Sequence[Sequence[Tensor | None]]) -> None:
        """Set the values of each share's buffers."""
        for buffers, given in zip(self.buffers, values, strict=True):
            for buffer, value in zip(buffers, given, strict=True):
                if buffer is not None and value is not None:
                    buffer.copy_(value)

    def drop_gradients(self) -> None:
        self.gradients: list[list[Tensor | None]] = [[None] * len(self.parameters) for _ in self.numbers]

    @contextmanager
    def share(self, position: int) -> Iterator[None]:
        """In this context, the model has the buffers and gradients of one share."""
        if len(self.numbers) == 1:
            yield
            return
        self._use_buffers(position)
        for parameter, gradient in zip(self.parameters, self.gradients[position], strict=True):
            parameter.grad = gradient
        yield
        self.gradients[position] = [parameter.grad for parameter in self.parameters]
        self._buffers[position] = [module._buffers[name] for module, name in self.places]

    def _use_buffers(self, position: int) -> None:
        for (module, name), buffer in zip(self.places, self._buffers[position], strict=True):
            module._buffers[name] = buffer

    def merge_gradients(self) -> None:
        """Set the model's gradients to the mean of the shares' gradients, summed in the same order as between ranks. A
        share that does not use a parameter adds zeros; a parameter that no share uses gets no gradient."""
        if len(self.numbers) == 1:
            return
        for parameter, of_shares in zip(self.parameters, zip(*self.gradients, strict=True), strict=True):
            if all(gradient is None for gradient in of_shares):
                parameter.grad = None
                continue
            scaled = [torch.zeros_like(parameter) if one is None else one.mul_(1 / self.count) for one in of_shares]
            parameter.grad = reduce(Tensor.add_, scaled)
        self.drop_gradients()

    def average_buffers(self) -> None:
        """Set the floating-point buffers of all shares, which are running statistics such as those of batch norm, to
        their mean, and other buffers, such as tables, masks and counters, to those of the first share."""
        if len(self.numbers) == 1:
            return
        for of_shares in zip(*self.buffers, strict=True):
            buffers = [buffer for buffer in of_shares if buffer is not None]
            if buffers:
                first = buffers[0]
                value = torch.stack(buffers).sum(dim=0) / self.count if is_statistic(first) else first.clone()
                for buffer in buffers:
                    buffer.copy_(value)
        self._use_buffers(0)


class EpochPass:
    """The state of each of this rank's shares in an epoch: buffers, the sum of its losses, and seconds."""

    def __init__(self, shares: Shares, device: torch.device) -> None:
        self.shares = shares
        self.losses = torch.zeros(len(shares.numbers), dtype=torch.float64, device=device)
        self.rows = 0
        """Rows whose losses were added since this part of the epoch began."""
        self.began, self.earlier = perf_counter(), 0.0
        """When this part of the epoch began, and the seconds that earlier parts took before a restart."""
        self.kept: dict[str, Any] | None = None

    def add_loss(self, position: int, loss: Tensor, rows: int) -> None:
        """Add the mean loss of some rows of a share."""
        self.losses[position] += loss.detach() * rows
        self.rows += rows

    def keep(self) -> None:
        """Keep the state after the last step, so that an interrupted evaluation can be repeated; the shares' states are
        averaged next."""
        state = self.state()
        buffers = [[None if one is None else one.clone() for one in of_share] for of_share in state["buffers"]]
        self.kept = {**state, "buffers": buffers}

    def state(self) -> dict[str, Any]:
        """The state that the rest of the epoch depends on, in addition to the weights."""
        if self.kept is not None:
            return self.kept
        seconds = self.earlier + perf_counter() - self.began
        return {"buffers": self.shares.buffers, "losses": self.losses, "seconds": seconds}

    def set_state(self, state: dict[str, Any]) -> None:
        """Set the state of the same shares on another rank."""
        self.losses.copy_(state["losses"])
        self.shares.set_buffers(state["buffers"])

    def resume(self, state: dict[str, Any]) -> None:
        """Resume from the state of all shares. If their number has changed, some may start from the same buffers, and
        the losses are divided evenly."""
        count = len(state["buffers"])
        chosen = [number % count for number in self.shares.numbers]
        self.shares.set_buffers([state["buffers"][share] for share in chosen])
        losses: Tensor = state["losses"]
        evenly = losses.sum() / self.shares.count
        self.losses.copy_(losses[chosen] if count == self.shares.count else evenly.expand(len(chosen)))
        self.earlier = state["seconds"]


def join_states(of_ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The state of all shares, from the states of each rank's shares in rank order."""
    buffers = [buffers for state in of_ranks for buffers in state["buffers"]]
    return {**of_ranks[0], "buffers": buffers, "losses": torch.cat([state["losses"] for state in of_ranks])}


def rows_of(batch: Batch) -> Rows:
    """What a model is trained on."""
    weight: list[Tensor]
    x, y, _, *weight = batch
    return (x, y, *weight)


def deal_rows(rows: Rows, first: int, count: int) -> list[Rows]:
    """The shares of some batches, whose rows start with row `first` of an epoch: share s of `count` has every count-th
    row of the epoch, starting with row s."""
    if count == 1:
        return [rows]
    begins = [(share - first) % count for share in range(count)]
    return [with_tensors(rows, partial(_every, begin=begin, count=count)) for begin in begins]


def _every(tensor: Tensor, begin: int, count: int) -> Tensor:
    return tensor[begin::count].contiguous()
