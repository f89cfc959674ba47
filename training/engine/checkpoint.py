"""Checkpoints: the complete state of a fold's training, as tensors and JSON in one safetensors file.

Tensors are named by their path in the state, so any reader of safetensors finds the weights as `model.NAME`. The rest
of the state (numbers, text, and the lists and dicts around everything) is JSON in the metadata, with a hash of the
complete state. A file is data, never code.
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
        """The names of all checkpoints, the newest last."""
        return [name for name in self.folder.names() if fnmatch(name, "epoch-*-step-*.safetensors")]

    def save(self, epoch: int, step: int, state: Mapping[str, Any]) -> None:
        """Store the state after so many epochs, and steps of the next one, and remove what is not kept.

        Later checkpoints remain from before a damage, and are removed too. Raises what `pack` raises.
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
                log.warning("%s; trying the one before it", error)
        if stored:
            raise DamagedError(
                f"every checkpoint in {self.folder} is damaged; restore one, or remove the folder to train the fold "
                "from the start (with --keep 2 an earlier checkpoint is kept too)"
            )
        return None


def pack(state: Mapping[str, Any]) -> bytes:
    """A state (tensors, numbers, text, None; lists, tuples and dicts of them) as a safetensors file. Equal states give
    equal bytes. Raises UsageError, naming the path of the value, for a state with any other value."""
    tensors: dict[str, Tensor] = {}
    structure = _flatten(state, "", tensors)
    head = {"sha256": _hash(structure, tensors), "state": structure}
    try:
        return safetensors.torch.save(tensors, {METADATA: to_json(head).decode()})
    except KeyError as dtype:
        raise UsageError(f"a checkpoint cannot hold a tensor of {dtype}; use another dtype in the model") from None


def unpack(data: bytes, where: str) -> dict[str, Any]:
    """The state in the bytes of a checkpoint, to the last bit. Raises DamagedError for any other bytes."""
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
    """The metadata of a safetensors file, whose header is JSON after a length of 8 bytes."""
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
    """A value as JSON, whose tensors are added to `tensors` by their path in the state.

    A value that JSON does not have becomes an object with one member, whose name begins with "$".
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
        f"a checkpoint cannot hold the {type(value).__name__} at '{path}'; use tensors, numbers, text, and lists and "
        "dicts of them in the model's state"
    )


def _inside(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _flatten_tensor(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The tensor's name, and its strides if it does not lie in memory row by row: fused optimizers rely on them."""
    if tensor.layout != torch.strided:
        raise UsageError(
            f"a checkpoint cannot hold the {tensor.layout} tensor at '{path}'; use a dense one in the model's state"
        )
    while path in tensors:  # a key with a dot in it can look like two keys
        path += "_"
    tensors[path] = contiguous_copy(tensor)
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    dense = tensor.permute(order).is_contiguous()
    return {"$tensor": path} if tensor.is_contiguous() or not dense else {"$tensor": [path, *tensor.stride()]}


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `_flatten` was given."""
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
