"""Batches on their way to the device that trains on them."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

CPU = torch.device("cpu")
AHEAD = 2  # items whose copies are in progress or complete before they are asked for

Item = TypeVar("Item")
Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])


def on_device(
    items: Iterable[tuple[Item, Sequence[Tensors]]], device: torch.device
) -> Iterator[tuple[Item, Sequence[Tensors]]]:
    """Copy the tensors of each item to a GPU ahead of their use; on a CPU they stay where they are.

    The copies have a CUDA stream of their own, so that they overlap with computing; it is the GPU that waits for them,
    never this thread. Tensors in pinned memory may be dropped at once: torch keeps them until they are copied.
    """
    if device.type != "cuda":
        yield from items
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready = deque[tuple[Item, list[Any], torch.cuda.Event]]()
    for item, parts in items:
        with torch.cuda.stream(copies):
            moved = [tuple(tensor.to(device, non_blocking=True) for tensor in tensors) for tensors in parts]
        ready.append((item, moved, copies.record_event()))
        if len(ready) > AHEAD:
            yield _take(*ready.popleft(), device)
    while ready:
        yield _take(*ready.popleft(), device)


def _take(item: Item, parts: list[Any], copied: torch.cuda.Event, device: torch.device) -> tuple[Item, list[Any]]:
    """An item for the current stream, which waits for its copies. Their memory is that stream's from now on."""
    computing = torch.cuda.current_stream(device)
    computing.wait_event(copied)
    for tensors in parts:
        for tensor in tensors:
            tensor.record_stream(computing)
    return item, parts
