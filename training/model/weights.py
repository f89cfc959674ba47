"""The parameters and buffers of a trained model, stored as safetensors."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...storage.errors import DamagedError, UsageError
from ...storage.places.place import Place


def contiguous_copy(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, in row-major order and without sharing memory with any other tensor."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def save_weights(path: Place, weights: Mapping[str, Tensor]) -> str:
    """Store a model's parameters and buffers as safetensors, atomically.

    Returns the hash of the file. Equal weights give equal bytes.
    """
    head, order = safetensors_head(weights)
    return path.write_parts(file_parts(head, (weights[name] for name in order)))[1]


def file_parts(head: bytes, tensors: Iterable[Tensor]) -> Iterator[bytes | memoryview]:
    """The parts of a safetensors file."""
    yield head
    for tensor in tensors:
        yield tensor_bytes(tensor)


def safetensors_head(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, list[str]]:
    """The bytes of a safetensors file before its tensors, and the names of the tensors in the order in which their
    bytes follow: of large elements first, so that all are aligned. Only dtypes and shapes are looked at."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in order:
        tensor = tensors[name]
        stop = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


@cache
def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in safetensors files. Raises UsageError if they cannot store it."""
    try:
        data = safetensors.torch.save({"": torch.empty(0, dtype=dtype)})
    except KeyError:
        raise UsageError(f"checkpoints cannot store tensors of {dtype}; use another dtype in the model") from None
    name: str = json.loads(data[8:].rstrip(b"\0"))[""]["dtype"]
    return name


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in row-major order, without a copy if it is on the CPU and contiguous."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def load_weights(path: Place) -> dict[str, Tensor]:
    """Load a model's parameters and buffers. Raises DamagedError if the file is missing or truncated."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (FileNotFoundError, safetensors.SafetensorError) as error:
        raise DamagedError(
            f"{path} cannot be read ({error}); remove the fold's folder, then run the same command again to retrain it"
        ) from None
