"""Transfer of batches to the device that trains on them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

CPU = torch.device("cpu")
AHEAD = 2  # items whose copies are in progress or complete before they are asked for

Item = TypeVar("Item")


def on_device(items: Iterable[Item], device: torch.device) -> Iterable[Item]:
    """Copy the tensors of each item, in tuples and lists, to a GPU ahead of their use; do nothing on a CPU.

    The copies use a separate CUDA stream, so that they overlap with computation; the GPU waits for them, never this
    thread. Tensors in pinned memory may be released immediately: torch keeps them until they are copied.
    """
    return _copied_ahead(items, device) if device.type == "cuda" else items


def _copied_ahead(items: Iterable[Item], device: torch.device) -> Iterator[Item]:
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready = deque[tuple[Item, torch.cuda.Event]]()
    for item in items:
        with torch.cuda.stream(copies):
            moved = with_tensors(item, lambda tensor: tensor.to(device, non_blocking=True))
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


def with_tensors(item: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to all tensors of an item, in tuples and lists."""
    if isinstance(item, Tensor):
        return change(item)
    if not isinstance(item, tuple | list):
        return item
    values = [with_tensors(value, change) for value in item]
    return type(item)(*values) if hasattr(item, "_fields") else type(item)(values)
