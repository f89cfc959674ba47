"""Initial weights from a file: read as data, never as code, and matched to a model by name and shape."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ...storage.errors import DamagedError, UsageError
from ...storage.places.json_files import content_hash
from ...storage.places.place import Place

PREFIXES = "module.", "model.", "_orig_mod."
"""Name prefixes added by DistributedDataParallel, Lightning, Foldstream's checkpoints and torch.compile."""
NESTED = "state_dict", "model_state_dict", "model"
"""Keys under which checkpoints of other frameworks store the weights."""
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Match:
    """The weights that match a model, by the model's names, and as text everything that does not match."""

    fitting: dict[str, Tensor]
    other_shapes: list[str]
    missing: list[str]
    unused: list[str]

    def describe(self) -> str:
        words = [f"{len(self.fitting)} of the model's {len(self.fitting) + len(self.missing)} tensors are loaded"]
        parts = {"skipped": self.other_shapes, "not in the file": self.missing, "not in the model": self.unused}
        seen = {text.split(" ")[0] for text in self.other_shapes}
        for title, names in parts.items():
            if shown := [name for name in names if title == "skipped" or name not in seen]:
                more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
                words.append(f"{title}: {', '.join(shown[:SHOWN])}{more}")
        return "; ".join(words)


def read_initial(place: Place, expected: str | None = None) -> dict[str, Tensor]:
    """The tensors in a weights file, by name. `expected` is the file's hash, if known.

    Raises UsageError if the file is neither safetensors nor a state dict, or has no tensors, and DamagedError if its
    hash differs.
    """
    data = place.read_bytes()
    if expected and content_hash(data) != expected:
        raise DamagedError(f"{place} has changed since the run was started; restore it, or start a new run")
    try:
        weights: Any = safetensors.torch.load(data)
    except safetensors.SafetensorError:
        weights = _read_pickled(data, str(place))
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UsageError(
            f"--init {place}: the file has no tensors; a checkpoint with strategy=fsdp has them in the files of its "
            "ranks, so name the fold's model.safetensors or its run instead"
        )
    if any(name.startswith("optimizer.") for name in tensors):  # a checkpoint of ours
        tensors = {name: value for name, value in tensors.items() if name.startswith("model.")}
    return tensors


def _read_pickled(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        for name in NESTED:
            value = value[name] if isinstance(value.get(name), Mapping) else value
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"--init {where}: neither safetensors nor a state dict that torch.load can read with weights_only "
            f"({reason}); save one with torch.save(model.state_dict(), FILE)"
        ) from None
    return value  # type: ignore[no-any-return]


def match_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> Match:
    """Match weights to a model by name and shape. Raises UsageError if none of its parameters is among them."""
    own, given = model.state_dict(), {**{_bare(name): tensor for name, tensor in weights.items()}, **weights}
    found = {name: given.get(name, given.get(_bare(name))) for name in own}
    fitting = {n: tensor for n, tensor in found.items() if tensor is not None and tensor.shape == own[n].shape}
    if not fitting.keys() & dict(model.named_parameters()).keys():
        raise UsageError(
            f"--init {where}: none of its tensors matches the model by name and shape; the file has {_some(weights)}, "
            f"the model has {_some(own)}; rename the tensors, or choose another file"
        )
    shapes = [
        f"{name} {tuple(tensor.shape)}, in the model {tuple(own[name].shape)}"
        for name, tensor in found.items()
        if tensor is not None and name not in fitting
    ]
    known = {_bare(name) for name in own}
    unused = [name for name in weights if _bare(name) not in known]
    return Match(fitting, shapes, [name for name in own if name not in fitting], unused)


def start_from(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load the weights that match into a model."""
    own = model.state_dict()
    for name, tensor in match_weights(model, weights, where).fitting.items():
        own[name].copy_(tensor)


def _bare(name: str) -> str:
    """A name without prefixes."""
    while prefix := next((one for one in PREFIXES if name.startswith(one)), ""):
        name = name.removeprefix(prefix)
    return name


def _some(tensors: Mapping[str, Tensor]) -> str:
    shown = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()][:SHOWN]
    return ", ".join(shown) or "no tensors"
