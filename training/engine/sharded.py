"""A model sharded over all ranks (FSDP2): each holds its part of the weights, the gradients and the optimizer's state.

The weights of a layer are gathered only while it computes: blocks (the members of a Sequential or a ModuleList) are
gathered one by one.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from .process import Process

FULL = StateDictOptions(full_state_dict=True)
FULL_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True)  # and on the main rank only


class ShardedModel:
    """The sharded twin of a full model, which is trained in its place. All ranks must call its methods together."""

    def __init__(self, full: nn.Module, process: Process) -> None:
        self.module = copy.deepcopy(full)
        for parameter in self.module.parameters():
            parameter.data = parameter.data.contiguous()  # channels last, for one, cannot be sharded
        mesh = init_device_mesh(process.device.type, (process.world_size,))
        for block in blocks_of(self.module):
            fully_shard(block, mesh=mesh)
        fully_shard(self.module, mesh=mesh)

    def gather_weights(self, full: nn.Module) -> None:
        """Copy the current weights and buffers to the full model on every rank."""
        full.load_state_dict(get_model_state_dict(self.module, options=FULL))

    def gather_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimizer's state by the parameters' names, on the main rank; an empty dict on the others."""
        return get_optimizer_state_dict(self.module, optimizer, options=FULL_ON_CPU)

    def set_state(self, weights: dict[str, Any], optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Split full weights and an optimizer's full state, which every rank has, among the ranks."""
        set_model_state_dict(self.module, weights, options=FULL)
        set_optimizer_state_dict(self.module, optimizer, state, options=FULL)

    def average_gradients(self, wanted: bool) -> None:
        """Make the next backward pass average gradients over the ranks, or keep each rank's own gradients."""
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(wanted)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The members of a model's Sequentials and ModuleLists that have weights, inner ones first."""
    rows = [part for part in module.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]
    blocks = [block for row in rows for block in row if any(True for _ in block.parameters())]
    return [block for block in reversed(blocks) if not isinstance(block, nn.ModuleList)]
