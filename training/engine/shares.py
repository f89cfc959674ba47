"""The parts of a global batch that one rank computes, each as if it had a rank of its own.

A run deals every batch to as many shares as it began with workers. What depends on a rank depends on the share: the
rows, the random numbers, batch norm's statistics, the gradient that is averaged. So one rank that computes two shares
comes to the weights, to the last bit, to which two ranks with one share each come.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

Rows = tuple[Tensor, Tensor]
"""x and y."""


class Shares:
    """The shares `numbers` of `count` of a model's batches: each has buffers and gradients of its own."""

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
        """Those of each share, as they are now: a module may put others in their place."""
        if len(self.numbers) == 1:
            return [[module._buffers[name] for module, name in self.places]]
        return self._buffers

    def set_buffers(self, values: Sequence[Sequence[Tensor | None]]) -> None:
        """Give each share the values of its buffers."""
        for buffers, given in zip(self.buffers, values, strict=True):
            for buffer, value in zip(buffers, given, strict=True):
                if buffer is not None and value is not None:
                    buffer.copy_(value)

    def drop_gradients(self) -> None:
        self.gradients: list[list[Tensor | None]] = [[None] * len(self.parameters) for _ in self.numbers]

    @contextmanager
    def share(self, position: int) -> Iterator[None]:
        """Inside, the model has the buffers and the gradients of a share."""
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
        """Give the model the mean of the shares' gradients, added up in their order as ranks add theirs."""
        if len(self.numbers) == 1:
            return
        for parameter, of_shares in zip(self.parameters, zip(*self.gradients, strict=True), strict=True):
            given = [gradient.mul_(1 / self.count) for gradient in of_shares if gradient is not None]
            parameter.grad = reduce(Tensor.add_, given) if given else None
        self.drop_gradients()

    def average_buffers(self) -> None:
        """Give all shares the mean of their buffers: batch norm's running statistics, over all rows."""
        if len(self.numbers) == 1:
            return
        for of_shares in zip(*self.buffers, strict=True):
            buffers = [buffer for buffer in of_shares if buffer is not None]
            if buffers:
                total = torch.stack(buffers).sum(dim=0)
                mean = total / self.count if total.is_floating_point() else total // self.count
                for buffer in buffers:
                    buffer.copy_(mean)
        self._use_buffers(0)


def join_states(of_ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all shares have of their own, from what the ranks' shares have, in the order of the ranks."""
    buffers = [buffers for state in of_ranks for buffers in state["buffers"]]
    return {**of_ranks[0], "buffers": buffers, "losses": torch.cat([state["losses"] for state in of_ranks])}


def deal(rows: Rows, lanes: int, count: int, steps: int = 1) -> list[Rows]:
    """The shares of `steps` batches, in which `lanes` lanes follow each other: share s has the lanes s, s + count, …"""
    if count == 1:
        return [rows]
    parts = [tensor.reshape(steps, lanes, -1, *tensor.shape[1:]) for tensor in rows]
    return [
        tuple(part[:, share::count].reshape(-1, *part.shape[3:]) for part in parts)  # type: ignore[misc]
        for share in range(count)
    ]
