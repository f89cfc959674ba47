"""A model sharded over all ranks (FSDP2): each holds its part of the weights, the gradients and the optimizer's state.

The weights of a layer are gathered only while it computes: blocks (the members of a Sequential or a ModuleList) are
gathered one by one.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ...storage.places.place import Place
from ..model.weights import file_parts, safetensors_head
from .process import Process


class ShardedModel:
    """The sharded twin of a full model, which is trained in its place. All ranks must call its methods together."""

    def __init__(self, full: nn.Module, process: Process) -> None:
        self.module = copy.deepcopy(full)
        for parameter in self.module.parameters():
            parameter.data = parameter.data.contiguous()  # channels last, for one, cannot be sharded
        self.process = process
        self.mesh = mesh = init_device_mesh(process.device.type, (process.world_size,))
        for block in blocks_of(self.module):
            fully_shard(block, mesh=mesh)
        fully_shard(self.module, mesh=mesh)

    def gather_weights(self, full: nn.Module) -> None:
        """Copy the current weights and buffers to the full model on every rank."""
        gather_weights(self.module.state_dict(), full)

    def set_state(self, weights: dict[str, Any], optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Set the weights and the optimizer's state, whether they are sharded or every rank has all of them."""
        own = self.module.state_dict()
        self.module.load_state_dict({name: like(value, own[name]) for name, value in weights.items()})
        optimizer.load_state_dict(fit_state(state, optimizer))

    def save_weights(self, path: Place, weights: Mapping[str, Tensor]) -> None:
        """Write sharded weights to one file, on the main rank, which has only one whole tensor at a time."""
        head, order = safetensors_head(weights)
        tensors = gathered(weights, order)
        if self.process.is_main:
            path.write_parts(file_parts(head, tensors))
        else:
            for _ in tensors:
                pass

    def average_gradients(self, wanted: bool) -> None:
        """Make the next backward pass average gradients over the ranks, or keep each rank's own gradients."""
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(wanted)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The members of a model's Sequentials and ModuleLists that have weights, inner ones first."""
    rows = [part for part in module.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]
    blocks = [block for row in rows for block in row if any(True for _ in block.parameters())]
    return [block for block in reversed(blocks) if not isinstance(block, nn.ModuleList)]


def gathered(weights: Mapping[str, Tensor], names: Sequence[str]) -> Iterator[Tensor]:
    """These weights, one after another, each as a whole. All ranks must iterate over them together."""
    for name in names:
        tensor = weights[name].detach()
        yield tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_weights(weights: Mapping[str, Tensor], full: nn.Module) -> None:
    """Copy sharded weights to a full model on every rank, which has only one other whole tensor at a time."""
    own = full.state_dict()
    for name, tensor in zip(weights, gathered(weights, [*weights]), strict=True):
        own[name].copy_(tensor)


def like(value: Any, own: Tensor) -> Any:
    """A tensor of a checkpoint as the model has its own: sharded, or with the same strides. Fused optimizers require
    that of a moment and its weight. Other values, and tensors of other shapes, are returned as they are."""
    if not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    if isinstance(value, DTensor):
        return value
    if isinstance(own, DTensor):
        whole = value.to(own.device).contiguous()
        return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)
    return value if value.stride() == own.stride() else torch.empty_like(own, dtype=value.dtype).copy_(value)


def fit_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state in the form of this optimizer's parameters, which are in the same order."""
    saved = [key for group in state["param_groups"] for key in group["params"]]
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    of_key = dict(zip(saved, own, strict=True))
    fitted = {
        key: {name: like(value, of_key[key]) for name, value in values.items()}
        for key, values in state["state"].items()
    }
    return {**state, "state": fitted}
