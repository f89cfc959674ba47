"""Checkpoints: everything that a fold's training has become, as tensors and JSON in one safetensors file.

The tensors have the names of their places, so that any reader of safetensors finds the weights as `model.NAME`. What
else there is (numbers, text, and the lists and dicts around all of it) stands in the metadata as JSON, with a hash of
the whole. A file is data, never code.
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
    """The checkpoints in a fold's folder, named by how far they are; the last `keep` stay."""

    def __init__(self, folder: Place, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def stored(self) -> list[str]:
        """The names of all that are there, the newest last."""
        return [name for name in self.folder.names() if fnmatch(name, "epoch-*-step-*.safetensors")]

    def save(self, epoch: int, step: int, state: Mapping[str, Any]) -> None:
        """Store the state after so many epochs, and steps of the next one, and remove what is not to stay.

        What is further on is left from before a damage, and goes too. Raises what `pack` raises.
        """
        own = f"epoch-{epoch:05}-step-{step:09}.safetensors"
        (self.folder / own).write(pack(state))
        stored = self.stored()
        staying = [name for name in stored if name <= own][-self.keep :]
        for name in stored:
            if name not in staying:
                (self.folder / name).remove()

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None if there is none yet. Raises DamagedError if all are damaged."""
        self.folder.clean_temporaries()
        stored = self.stored()
        for name in reversed(stored):
            try:
                return unpack((self.folder / name).read_bytes(), str(self.folder / name))
            except DamagedError as error:
                log.warning("%s; the one before it is looked for", error)
        if stored:
            raise DamagedError(
                f"no checkpoint in {self.folder} is whole; restore one, or remove the folder to train the fold anew "
                "(--keep 2 would have left an earlier one)"
            )
        return None


def pack(state: Mapping[str, Any]) -> bytes:
    """A state (tensors, numbers, text, None; lists, tuples and dicts of them) as a safetensors file. Equal states give
    equal bytes. Raises UsageError for a state with something else in it, and names its place."""
    tensors: dict[str, Tensor] = {}
    structure = _flatten(state, "", tensors)
    head = {"sha256": _hash(structure, tensors), "state": structure}
    try:
        return safetensors.torch.save(tensors, {METADATA: to_json(head).decode()})
    except KeyError as dtype:
        raise UsageError(f"a checkpoint cannot hold a tensor of {dtype}; have the model keep another type") from None


def unpack(data: bytes, where: str) -> dict[str, Any]:
    """The state in the bytes of a checkpoint, to the last bit. Raises DamagedError for others."""
    try:
        tensors = safetensors.torch.load(data)
        head = json.loads(_metadata(data)[METADATA])
        if head["sha256"] == _hash(head["state"], tensors):
            state: dict[str, Any] = _unflatten(head["state"], tensors)
            return state
        reason = "its content is not what was written"
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise DamagedError(f"{where} is not a whole checkpoint ({reason})")


def _metadata(data: bytes) -> dict[str, str]:
    """What a safetensors file says of itself: its header is JSON behind a length of 8 bytes."""
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


def _flatten(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, whose tensors go to `tensors` by the names of their places.

    What JSON does not have is an object of one member, whose name begins with «$».
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case Tensor():
            return _flatten_tensor(value, place, tensors)
        case list() | tuple():
            items = [_flatten(item, _inside(place, number), tensors) for number, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        case Mapping() if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _flatten(item, _inside(place, key), tensors) for key, item in value.items()}
        case Mapping() if all(isinstance(key, str | int) for key in value):
            return {"$dict": [[key, _flatten(item, _inside(place, key), tensors)] for key, item in value.items()]}
    raise UsageError(
        f"a checkpoint cannot hold the {type(value).__name__} at «{place}»; have the model keep tensors, numbers, "
        "text, and lists and dicts of them"
    )


def _inside(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _flatten_tensor(tensor: Tensor, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The tensor's name, and how it lies in memory if not row by row: fused optimizers rely on it."""
    if tensor.layout != torch.strided:
        raise UsageError(
            f"a checkpoint cannot hold the {tensor.layout} tensor at «{place}»; have the model keep a dense one"
        )
    while place in tensors:  # a key with a dot in it can look like two keys
        place += "_"
    tensors[place] = contiguous_copy(tensor)
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    dense = tensor.permute(order).is_contiguous()
    return {"$tensor": place} if tensor.is_contiguous() or not dense else {"$tensor": [place, *tensor.stride()]}


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_flatten` was given."""
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
