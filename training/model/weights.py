"""A trained model's parameters and buffers as a file of safetensors."""

from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...storage.errors import DamagedError
from ...storage.places.json_files import content_hash
from ...storage.places.place import Place


def row_by_row(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares its memory with no other tensor."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def save_weights(path: Place, weights: Mapping[str, Tensor]) -> str:
    """Store a model's parameters and buffers as safetensors, atomically. Equal weights give equal bytes, whose hash is
    returned."""
    data = safetensors.torch.save({name: row_by_row(tensor) for name, tensor in weights.items()})
    path.write(data)
    return content_hash(data)


def load_weights(path: Place) -> dict[str, Tensor]:
    """A stored model's parameters and buffers. Raises DamagedError for a file that is missing or not whole."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (FileNotFoundError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{path} cannot be read ({error}); remove the fold's folder and train it again") from None
