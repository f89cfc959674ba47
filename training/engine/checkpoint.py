"""Checkpoints: the complete state of a fold's training, as tensors and JSON in one safetensors file.

Tensors are named by their path in the state, so any safetensors reader finds the weights as `model.NAME`. The rest of
the state (numbers, strings, and the enclosing lists and dicts) is JSON in the metadata, with a hash of the complete
state. A checkpoint is data, never code.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...storage.errors import DamagedError, UsageError
from ...storage.places.json_files import content_hash, to_json
from ...storage.places.place import Place
from ..model.weights import contiguous_copy

log = logging.getLogger(__name__)

METADATA = "foldstream"


class Checkpoints:
    """The checkpoints in a fold's folder, named by epoch and step; the last `keep` are kept."""

    def __init__(self, folder: Place, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def stored(self) -> list[str]:
        """The names of all checkpoints, newest last."""
        return [name for name in self.folder.names() if fnmatch(name, "epoch-*-step-*.safetensors")]

    def save(self, epoch: int, step: int, state: Mapping[str, Any]) -> None:
        """Save the state after `epoch` epochs and `step` steps of the next one, and remove old checkpoints.

        Later checkpoints, which are left over from before a damaged one, are also removed. Raises the errors of `pack`.
        """
        own = f"epoch-{epoch:05}-step-{step:09}.safetensors"
        (self.folder / own).write(pack(state))
        stored = self.stored()
        kept = [name for name in stored if name <= own][-self.keep :]
        for name in stored:
            if name not in kept:
                (self.folder / name).remove()

    def load(self) -> dict[str, Any] | None:
        """The newest intact state, or None if no checkpoint exists. Raises DamagedError if all are damaged."""
        self.folder.clean_temporaries()
        stored = self.stored()
        for name in reversed(stored):
            try:
                return unpack((self.folder / name).read_bytes(), str(self.folder / name))
            except DamagedError as error:
                log.warning("%s; trying the previous checkpoint", error)
        if stored:
            raise DamagedError(
                f"all checkpoints in {self.folder} are damaged; restore one, or remove the folder to train the fold "
                "from scratch (--keep 2 also keeps the previous checkpoint)"
            )
        return None


def pack(state: Mapping[str, Any]) -> bytes:
    """Encode a state (tensors, numbers, strings, None; lists, tuples and dicts of these) as a safetensors file. Equal
    states give equal bytes. Raises UsageError, with the path of the value, for any other type of value."""
    tensors: dict[str, Tensor] = {}
    structure = _flatten(state, "", tensors)
    head = {"sha256": _hash(structure, tensors), "state": structure}
    try:
        return safetensors.torch.save(tensors, {METADATA: to_json(head).decode()})
    except KeyError as dtype:
        raise UsageError(f"checkpoints cannot store tensors of {dtype}; use another dtype in the model") from None


def unpack(data: bytes, where: str) -> dict[str, Any]:
    """Decode the state in the bytes of a checkpoint, bit for bit. Raises DamagedError for any other bytes."""
    try:
        tensors = safetensors.torch.load(data)
        head = json.loads(_metadata(data)[METADATA])
        if head["sha256"] == _hash(head["state"], tensors):
            state: dict[str, Any] = _unflatten(head["state"], tensors)
            return state
        reason = "its content does not match its hash"
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise DamagedError(f"the checkpoint {where} is damaged ({reason})")


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, whose header is JSON preceded by its length in 8 bytes."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def _hash(structure: Any, tensors: Mapping[str, Tensor]) -> str:
    def parts() -> Iterator[bytes | memoryview]:
        yield to_json(structure)
        for name, tensor in sorted(tensors.items()):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
            yield tensor.reshape(-1).view(torch.uint8).numpy().data

    return content_hash(*parts())


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Convert a value to JSON, and add its tensors to `tensors` by their path in the state.

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
            items = [_flatten(item, _inside(path, number), tensors) for number, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        case Mapping() if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _flatten(item, _inside(path, key), tensors) for key, item in value.items()}
        case Mapping() if all(isinstance(key, str | int) for key in value):
            return {"$dict": [[key, _flatten(item, _inside(path, key), tensors)] for key, item in value.items()]}
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
    tensors[path] = contiguous_copy(tensor)
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    dense = tensor.permute(order).is_contiguous()
    return {"$tensor": path} if tensor.is_contiguous() or not dense else {"$tensor": [path, *tensor.stride()]}


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_flatten`."""
    match value:
        case {"$float": text}:
            return float(text)
        case {"$tensor": [name, *strides]}:
            tensor = tensors[name]
            return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
        case {"$tensor": name}:
            return tensors[name]
        case {"$tuple": items}:
            return tuple(_unflatten(item, tensors) for item in items)
        case {"$dict": pairs}:
            return {key: _unflatten(item, tensors) for key, item in pairs}
        case list():
            return [_unflatten(item, tensors) for item in value]
        case dict():
            return {key: _unflatten(item, tensors) for key, item in value.items()}
    return value
