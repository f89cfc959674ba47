"""Transfer of batches to the device that trains on them."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import torch
from torch import Tensor

from .batch import with_tensors

CPU = torch.device("cpu")
AHEAD = 2  # items whose copies are in progress or complete before they are asked for

Item = TypeVar("Item")


def on_device(items: Iterable[Item], device: torch.device) -> Iterable[Item]:
    """Copy the tensors of each item, in tuples, lists and dicts, to a GPU ahead of their use; do nothing on a CPU.

    The copies use a separate CUDA stream, so that they overlap with computation; the GPU waits for them, never this
    thread. Tensors in pinned memory may be released immediately: torch keeps them until they are copied.
    """
    return _copied_ahead(items, device) if device.type == "cuda" else items


def _copied_ahead(items: Iterable[Item], device: torch.device) -> Iterator[Item]:
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready = deque[tuple[Item, torch.cuda.Event]]()
    for item in items:
        with torch.cuda.stream(copies):
            moved = to_device(item, device)
        ready.append((moved, copies.record_event()))
        if len(ready) > AHEAD:
            yield _take(*ready.popleft(), device)
    while ready:
        yield _take(*ready.popleft(), device)


def _take(item: Item, copied: torch.cuda.Event, device: torch.device) -> Item:
    """Hand an item over to the current stream, which waits for its copies and owns their memory from now on."""
    computing = torch.cuda.current_stream(device)
    computing.wait_event(copied)

    def keep(tensor: Tensor) -> Tensor:
        tensor.record_stream(computing)
        return tensor

    with_tensors(item, keep)
    return item


def to_device(item: Item, device: torch.device) -> Item:
    """An item with its tensors on a device; copies from pinned memory are not waited for."""
    return cast(Item, with_tensors(item, lambda tensor: tensor.to(device, non_blocking=True)))
