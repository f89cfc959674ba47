"""The padding of sequences in batches: each batch is as wide as its longest row."""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Rows = TypeVar("Rows", bound=tuple[Any, ...])

SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def as_signed(tensor: Tensor) -> Tensor:
    """The same bytes as signed integers: torch can do little with unsigned ones of more than 8 bits."""
    return tensor.view(SIGNED.get(tensor.dtype, tensor.dtype))


def widths_of(batches: Sequence[Tensor]) -> list[int]:
    """The number of ids in the longest row of each batch, (rows, length), at least 1. A GPU is waited for once."""
    if not batches:
        return []
    places = torch.arange(1, batches[0].shape[1] + 1, device=batches[0].device)
    used = [(as_signed(x).ne(0).any(dim=0) * places).max() for x in batches]
    return [max(1, width) for width in torch.stack(used).tolist()]


def trim_batches(batches: Sequence[Rows]) -> list[Rows]:
    """Batches, tuples of `x` and other tensors, whose sequences are as wide as the longest row."""
    widths = widths_of([x for x, *_ in batches])
    return [_trimmed(batch, width) for batch, width in zip(batches, widths, strict=True)]


def _trimmed(batch: Rows, width: int) -> Rows:
    x = batch[0][:, :width]
    if x.is_pinned():  # otherwise the copy to a GPU would be waited for
        x = x.contiguous().pin_memory()
    kind: Any = type(batch)
    return cast(Rows, kind._make((x, *batch[1:])) if hasattr(kind, "_make") else (x, *batch[1:]))
