"""The parameters and buffers of a trained model, stored as safetensors."""

from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...storage.errors import DamagedError
from ...storage.places.json_files import content_hash
from ...storage.places.place import Place


def contiguous_copy(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, in row-major order and without sharing memory with any other tensor."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def save_weights(path: Place, weights: Mapping[str, Tensor]) -> str:
    """Store a model's parameters and buffers as safetensors, atomically.

    Returns the hash of the file. Equal weights give equal bytes.
    """
    data = safetensors.torch.save({name: contiguous_copy(tensor) for name, tensor in weights.items()})
    path.write(data)
    return content_hash(data)


def load_weights(path: Place) -> dict[str, Tensor]:
    """Load a model's parameters and buffers. Raises DamagedError if the file is missing or truncated."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (FileNotFoundError, safetensors.SafetensorError) as error:
        raise DamagedError(
            f"{path} cannot be read ({error}); remove the fold's folder, then run the same command again to retrain it"
        ) from None
