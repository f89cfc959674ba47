"""The state of a training as tensors and JSON in one safetensors file: data, never code.

Tensors are named by their path in the state, so any safetensors reader finds the weights as `model.NAME`. The rest of
the state (numbers, strings, and the enclosing lists and dicts) is JSON in the metadata, with a hash of the complete
state.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...storage.errors import DamagedError, UsageError
from ...storage.places.json_files import content_hash, to_json
from .weights import contiguous_copy, dtype_name

METADATA = "foldstream"
"""The key of the JSON in the metadata."""
SHARDS = "shards"
"""Where the state of a sharded model says which files have its tensors; also the folder of these files, whose names
begin with that of their checkpoint."""
OTHER_HASH = "its content does not match its hash"


def pack(state: Mapping[str, Any]) -> bytes:
    """Encode a state (tensors, numbers, strings, None; lists, tuples and dicts of these) as a safetensors file. Equal
    states give equal bytes. Raises UsageError, with the path of the value, for any other type of value."""
    found: dict[str, Tensor] = {}
    structure = flatten(state, "", found)
    for tensor in found.values():
        dtype_name(tensor.dtype)
    tensors = {name: contiguous_copy(tensor) for name, tensor in found.items()}
    head = {"sha256": _hash(structure, tensors), "state": structure}
    return safetensors.torch.save(tensors, {METADATA: to_json(head).decode()})


def unpack(data: bytes, where: str) -> dict[str, Any]:
    """Decode the state in the bytes of a checkpoint, bit for bit. Raises DamagedError for any other bytes."""
    with damage_in(where):
        tensors, head = safetensors.torch.load(data), read_head(data, where)
        if head["sha256"] != _hash(head["state"], tensors):
            raise ValueError(OTHER_HASH)
        state: dict[str, Any] = unflatten(head["state"], tensors)
    return state


def read_head(data: bytes, where: str) -> dict[str, Any]:
    """The JSON in the bytes of a checkpoint. Raises DamagedError if there is none.

    A safetensors file has a header of JSON, preceded by its length in 8 bytes.
    """
    with damage_in(where):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        head: dict[str, Any] = json.loads(header["__metadata__"][METADATA])
    return head


@contextmanager
def damage_in(where: str) -> Iterator[None]:
    """Turn the errors of decoding the checkpoint `where` into DamagedError."""
    try:
        yield
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if str(error) == OTHER_HASH else f"{type(error).__name__}: {error}"
        raise DamagedError(f"the checkpoint {where} is damaged ({reason})") from None


def _hash(structure: Any, tensors: Mapping[str, Tensor]) -> str:
    def parts() -> Iterator[bytes | memoryview]:
        yield to_json(structure)
        for name, tensor in sorted(tensors.items()):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
            yield tensor.reshape(-1).view(torch.uint8).numpy().data

    return content_hash(*parts())


def flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Convert a value to JSON, and add its tensors to `tensors` by their path in the state. Raises UsageError for any
    value that a checkpoint cannot store.

    A value that JSON cannot represent becomes an object with a single member, whose name begins with "$".
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case Tensor():
            return _flatten_tensor(value, path, tensors)
        case list() | tuple():
            items = [flatten(item, _inside(path, number), tensors) for number, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        case Mapping() if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: flatten(item, _inside(path, key), tensors) for key, item in value.items()}
        case Mapping() if all(isinstance(key, str | int) for key in value):
            return {"$dict": [[key, flatten(item, _inside(path, key), tensors)] for key, item in value.items()]}
    raise UsageError(
        f"checkpoints cannot store the {type(value).__name__} at '{path}'; use only tensors, numbers, strings, and "
        "lists and dicts of these in the model's state"
    )


def _inside(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _flatten_tensor(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The tensor's name, and its strides if it is not contiguous, because fused optimizers rely on them."""
    if tensor.layout != torch.strided:
        raise UsageError(
            f"checkpoints cannot store the {tensor.layout} tensor at '{path}'; use a dense tensor in the model's state"
        )
    while path in tensors:  # a key with a dot in it can look like two keys
        path += "_"
    tensors[path] = tensor
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    dense = tensor.permute(order).is_contiguous()
    return {"$tensor": path} if tensor.is_contiguous() or not dense else {"$tensor": [path, *tensor.stride()]}


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `flatten`."""
    match value:
        case {"$float": text}:
            return float(text)
        case {"$tensor": [name, *strides]}:
            tensor = tensors[name]
            return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
        case {"$tensor": name}:
            return tensors[name]
        case {"$tuple": items}:
            return tuple(unflatten(item, tensors) for item in items)
        case {"$dict": pairs}:
            return {key: unflatten(item, tensors) for key, item in pairs}
        case list():
            return [unflatten(item, tensors) for item in value]
        case dict():
            return {key: unflatten(item, tensors) for key, item in value.items()}
    return value
