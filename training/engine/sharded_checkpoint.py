"""Checkpoints of sharded models, by torch's distributed checkpoint (DCP): each rank writes and reads only its part.

Each rank writes its part of the tensors to a safetensors file of its own. Once all have, the main rank writes the
checkpoint itself: the rest of the state, and for each piece of a tensor its file, its place there and its hash. Until
then nothing refers to the new files, so a kill at any moment leaves the previous checkpoint as it was. DCP decides
which rank writes a tensor that all ranks have, and which pieces a rank needs at another world size.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor import empty as empty_sharded
from torch.futures import Future

from ...storage.errors import AttemptError, DamagedError
from ...storage.places.json_files import content_hash, to_json
from ...storage.places.place import Place
from ..model.states import METADATA, OTHER_HASH, SHARDS, damage_in, flatten, unflatten
from ..model.weights import safetensors_head, tensor_bytes
from .process import Process
from .sharded import ShardedModel

REPLICATED = "replicated"


def save_shards(folder: Place, name: str, state: Mapping[str, Any], sharded: ShardedModel) -> set[str]:
    """Save a state as the checkpoint `name`. All ranks must call this together. `within`, the state of a share of an
    epoch, is the rank's own; anything else that is not sharded is the same on all ranks.

    Returns the names of all ranks' files, on the main rank. Raises UsageError for what a checkpoint cannot store.
    """
    process, tensors = sharded.process, dict[str, Tensor]()
    shared, own = {key: value for key, value in state.items() if key != "within"}, state.get("within")
    head: dict[str, Any] = {"state": flatten(shared, "", tensors)}
    head["within"] = own and [
        flatten(own, f"within.{rank}", tensors if rank == process.rank else {}) for rank in range(process.world_size)
    ]
    head["placements"] = {name: _placement(tensor) for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    writer = _Writer(folder, name, process.rank, head)
    planner = DefaultSavePlanner(flatten_state_dict=False)
    with _error_of_a_rank():
        save(tensors, storage_writer=writer, planner=planner, process_group=process.mail)
    return writer.files


def load_shards(folder: Place, head: dict[str, Any], where: str, sharded: ShardedModel | None) -> dict[str, Any]:
    """Load the state of a checkpoint from its head: sharded, in which case all ranks must call this together, or if
    `sharded` is None as a whole.

    Raises DamagedError, on all ranks if a part that any of them needs is missing or damaged.
    """
    with damage_in(where):
        described = {key: value for key, value in head.items() if key != "sha256"}
        if head["sha256"] != content_hash(to_json(described)):
            raise ValueError(OTHER_HASH)
        count = len(head["within"] or ())
        needed = {sharded.process.rank % count} if sharded and count else {*range(count)}
        pieces = {name: entry for name, entry in head[SHARDS].items() if _is_needed(name, needed)}
        tensors = {name: _room(entry, head["placements"].get(name), sharded) for name, entry in pieces.items()}
    _read(tensors, _Reader(folder / SHARDS, head, where), sharded.process if sharded else Process())
    state: dict[str, Any] = unflatten(head["state"], tensors)
    return {**state, "within": _shares(head["within"], needed, tensors) if count else None}


def _shares(of_ranks: list[dict[str, Any]], needed: set[int], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The state of all shares, with the buffers of those that are needed."""
    losses = torch.cat([unflatten(state["losses"], tensors) for state in of_ranks])
    buffers = [
        unflatten(state["buffers"], tensors)[0] if rank in needed else None for rank, state in enumerate(of_ranks)
    ]
    return {**of_ranks[0], "buffers": buffers, "losses": losses}


def _is_needed(name: str, ranks: set[int]) -> bool:
    """Whether a tensor is not one of another rank's buffers."""
    first, rank, kind = [*name.split("."), "", ""][:3]
    return first != "within" or kind == "losses" or int(rank) in ranks


def _placement(tensor: DTensor) -> int | str:
    """The dimension along which a tensor is sharded, or REPLICATED."""
    (placement,) = tensor.placements
    return placement.dim if isinstance(placement, Shard) else REPLICATED


def _room(entry: dict[str, Any], placement: int | str | None, sharded: ShardedModel | None) -> Tensor:
    """An empty tensor for one of a checkpoint."""
    shape, dtype = entry["shape"], getattr(torch, entry["dtype"])
    if sharded is None or placement is None:
        return torch.empty(shape, dtype=dtype)
    placements: list[Placement] = [Shard(placement) if isinstance(placement, int) else Replicate()]
    room: Tensor = empty_sharded(shape, dtype=dtype, device_mesh=sharded.mesh, placements=placements)
    return room


def _read(tensors: dict[str, Tensor], reader: StorageReader, process: Process) -> None:
    alone, planner = process.world_size == 1, DefaultLoadPlanner(flatten_state_dict=False)
    with warnings.catch_warnings(), _error_of_a_rank():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it may well be
        load(tensors, storage_reader=reader, planner=planner, process_group=process.mail, no_dist=alone)


@contextmanager
def _error_of_a_rank() -> Iterator[None]:
    """Turn the exception that DCP raises on all ranks into that of the first rank that failed."""
    try:
        yield
    except CheckpointException as failed:
        errors = [error for error, _ in failed.failures.values()]
        raise next((one for one in errors if not isinstance(one, DamagedError)), errors[0]) from None


class _Writer(StorageWriter):
    """Writes a rank's file and, on the main rank, the checkpoint `name` with its `head`."""

    def __init__(self, folder: Place, name: str, rank: int, head: dict[str, Any]) -> None:
        self.folder, self.name, self.head, self.files = folder, name, head, set[str]()
        checkpoint = name.removesuffix(".safetensors")
        self.own = f"{checkpoint}-rank-{rank}-{uuid4().hex[:8]}.safetensors"
        """The name of the rank's file, which no earlier attempt has used: what they refer to stays as it is."""

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        offsets = {item.index.fqn: list(item.index.offset or ()) for item in plan.items}
        indices = {item.index.fqn: item.index for item in plan.items}
        tensors = {item.index.fqn: cast(Tensor, planner.resolve_data(item)) for item in plan.items}
        head, order = safetensors_head(tensors)
        results, start = [], len(head)
        if order:
            with (self.folder / SHARDS / self.own).whole_file() as file:
                file.write(head)
                for name in order:
                    data = tensor_bytes(tensors[name])
                    file.write(data)
                    piece = [offsets[name], list(tensors[name].shape), self.own, start, content_hash(data)]
                    results.append(WriteResult(indices[name], len(data), piece))
                    start += len(data)
        return _done(results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the checkpoint, after all ranks have written their files."""
        shards: dict[str, dict[str, Any]] = {}
        for name, found in metadata.state_dict_metadata.items():
            assert isinstance(found, TensorStorageMetadata)
            dtype = str(found.properties.dtype).removeprefix("torch.")
            shards[name] = {"dtype": dtype, "shape": list(found.size), "pieces": []}
        for result in (one for of_rank in results for one in of_rank):
            shards[result.index.fqn]["pieces"].append(result.storage_data)
            self.files.add(result.storage_data[2])
        head = {**self.head, SHARDS: shards}
        head["sha256"] = content_hash(to_json(head))
        (self.folder / self.name).write(safetensors_head({}, {METADATA: to_json(head).decode()})[0])


class _Reader(StorageReader):
    """Reads the pieces of tensors that a rank needs, one at a time, and verifies them."""

    def __init__(self, folder: Place, head: dict[str, Any], where: str) -> None:
        self.folder, self.where, self.identity = folder, where, head["sha256"]
        self.shards: dict[str, dict[str, Any]] = head[SHARDS]

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata({name: _described(entry) for name, entry in self.shards.items()})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return replace(plan, storage_data=self.identity)

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        if len({plan.storage_data for plan in plans}) > 1:
            raise AttemptError(f"the ranks have found different checkpoints beside {self.where}; resume the run again")
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            entry = self.shards[item.storage_index.fqn]
            offset = list(item.storage_index.offset or ())
            piece = next(piece for piece in entry["pieces"] if piece[0] == offset)
            tensor = self._tensor(entry["dtype"], *piece[1:])
            for dim, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                tensor = tensor.narrow(dim, start, length)
            planner.resolve_tensor(item).detach().copy_(tensor)
        return _done(None)

    def _tensor(self, dtype: str, shape: list[int], file: str, start: int, expected: str) -> Tensor:
        """A piece of a tensor. Raises DamagedError if it is not what was written."""
        kind = getattr(torch, dtype)
        data = np.empty(int(np.prod(shape)) * kind.itemsize, np.uint8)
        try:
            intact = (self.folder / file).read_into(start, data) == len(data) and content_hash(data.data) == expected
            reason = OTHER_HASH
        except FileNotFoundError:
            intact, reason = False, "the file is missing"
        if not intact:
            raise DamagedError(f"the checkpoint {self.where} is damaged ({self.folder / file}: {reason})")
        return torch.from_numpy(data).view(kind).reshape(shape)


def _described(entry: dict[str, Any]) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(piece[0]), torch.Size(piece[1])) for piece in entry["pieces"]]
    return TensorStorageMetadata(
        TensorProperties(dtype=getattr(torch, entry["dtype"])), torch.Size(entry["shape"]), chunks
    )


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
