"""A model dealt over all ranks: each holds its part of the weights, the gradients and the optimizer's state (FSDP2).

A layer's weights are whole only while it computes: blocks, the members of a Sequential or a ModuleList, are gathered
one by one.
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

WHOLE = StateDictOptions(full_state_dict=True)
WHOLE_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True)  # and on the rank that leads alone


class ShardedModel:
    """The twin of a whole model that is trained in its place. Whatever it says of all weights is said by all ranks."""

    def __init__(self, whole: nn.Module, process: Process) -> None:
        self.module = copy.deepcopy(whole)
        for parameter in self.module.parameters():
            parameter.data = parameter.data.contiguous()  # channels last, for one, cannot be dealt out
        mesh = init_device_mesh(process.device.type, (process.world_size,))
        for block in blocks_of(self.module):
            fully_shard(block, mesh=mesh)
        fully_shard(self.module, mesh=mesh)

    def gather_weights(self, whole: nn.Module) -> None:
        """Give the whole model, on every rank, the weights and buffers as they are now."""
        whole.load_state_dict(get_model_state_dict(self.module, options=WHOLE))

    def gather_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimizer's state by the parameters' names, on the rank that leads; elsewhere nothing."""
        return get_optimizer_state_dict(self.module, optimizer, options=WHOLE_ON_CPU)

    def set_state(self, weights: dict[str, Any], optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Deal out weights and an optimizer's state, which all ranks have whole."""
        set_model_state_dict(self.module, weights, options=WHOLE)
        set_optimizer_state_dict(self.module, optimizer, state, options=WHOLE)

    def exchange(self, wanted: bool) -> None:
        """Have the next backward pass average gradients over the ranks, or keep each rank's."""
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(wanted)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The modules with weights that stand in a row in a model, those within others first."""
    rows = [part for part in module.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]
    blocks = [block for row in rows for block in row if any(True for _ in block.parameters())]
    return [block for block in reversed(blocks) if not isinstance(block, nn.ModuleList)]
