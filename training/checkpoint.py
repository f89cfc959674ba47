"""Checkpoints: everything that a fold's training has become, in one file that loads as data, never as code."""

import io
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..storage.errors import DamagedError
from ..storage.files import write_atomic


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Store a state (tensors, numbers, text, lists, dicts) atomically and durably."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The stored state, or None if there is none yet. Raises DamagedError for a file that is not one."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DamagedError(f"{path} is not a whole checkpoint ({error}); remove it to train the fold anew") from None
    return state


def save_weights(path: Path, model: nn.Module) -> None:
    """Store a model's parameters and buffers as safetensors, atomically. Equal weights give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(tensors))


def load_weights(path: Path) -> dict[str, Tensor]:
    """A stored model's parameters and buffers. Raises DamagedError for a file that is missing or not whole."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (FileNotFoundError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{path} cannot be read ({error}); remove the fold's folder and train it again") from None
