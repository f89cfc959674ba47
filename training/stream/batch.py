"""Batches, the rank that reads them, and its reading threads."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.format.arrays import TABLE, ArraySpec, x_of
from ...storage.machine import Sharing, stream_memory, this_machine
from ...storage.places.block_cache import BlockCache, default_budget

COLUMNS = ("x", TABLE, "y", "id")
MOST_THREADS = 16

Value = TypeVar("Value")


class Batch(NamedTuple):
    """Rows as tensors in the dataset's dtypes.

    `x` is (rows, *sample_shape), or of images with columns beside them a dict of these as `image` and of the columns as
    `table`, (rows, columns) float64. `y` is (rows,), or (rows, labels) with several labels, or (rows, 0) without
    labels. `id` is (rows,) int64.
    """

    x: Any
    y: Tensor
    id: Tensor


class WeightedBatch(NamedTuple):
    """The `Batch` of a `weighted` stream, with sample weights, (rows,) float64 or int64."""

    x: Any
    y: Tensor
    id: Tensor
    weight: Tensor


Transform = Callable[[Any, torch.Generator], Any]
"""A function of a batch (with sample weights if the stream is weighted) and a generator."""


def _refuse_to_collate(batches: Sequence[Batch], *, collate_fn_map: object = None) -> Batch:
    """Called by a DataLoader to collate batches."""
    raise UsageError("a stream already yields whole batches; use DataLoader(stream, batch_size=None)")


default_collate_fn_map.update({Batch: _refuse_to_collate, WeightedBatch: _refuse_to_collate})


@dataclass(frozen=True)
class Rank:
    """One of the processes that share an epoch, and its limits: bytes of memory, threads, bytes of disk.

    The defaults are an eighth of the machine's memory and all of its cores, each shared with the other ranks on the
    machine. The disk space, by default a tenth of what is free, is for the blocks of datasets in object stores, and all
    processes on the machine share it.

    `sharing` tells these other ranks, if there are any of other runs.
    """

    rank: int = 0
    world_size: int = 1
    memory: int | None = None
    threads: int | None = None
    cache: int | None = None
    sharing: Sharing | None = None

    @property
    def on_machine(self) -> Sharing:
        """How this machine is shared: if not given, by as many ranks as the launcher says, or else by all."""
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        return self.sharing or Sharing(self.rank % ranks, ranks, ranks)

    def thread_count(self, dataset: Dataset) -> int:
        """Number of threads that read a dataset: one per core, or more if they wait for an object store."""
        cores = min(MOST_THREADS, max(1, this_machine().cores // self.on_machine.ranks))
        return self.threads or (MOST_THREADS if dataset.place.waits_for_network else cores)

    def memory_bound(self, needed: int = 0) -> int:
        """Bytes that the rank's stream may hold, if it needs `needed`."""
        return self.memory or self.on_machine.part_of(stream_memory(), needed)


ALONE = Rank()


def open_cache(dataset: Dataset, rank: Rank) -> BlockCache | None:
    """The local cache of a dataset in an object store; None for a local dataset, or if the rank must not use the
    disk."""
    if not dataset.place.waits_for_network or rank.cache == 0:
        return None
    budget, shared = rank.cache or default_budget(), rank.on_machine
    return BlockCache(budget, dataset.identity, dataset.layout.blocks, (shared.number, shared.ranks))


def column_specs(dataset: Dataset, weighted: bool) -> tuple[ArraySpec, ...]:
    """The arrays that make up a batch, including sample weights if `weighted`."""
    names = (*COLUMNS, dataset.schema.weights) if weighted else COLUMNS
    return tuple(spec for spec in dataset.manifest.arrays if spec.name in names)


def make_batch(columns: Mapping[str, Tensor]) -> Batch:
    """A batch of these columns."""
    x = columns["x"]
    own = x_of(columns), columns["y"] if "y" in columns else x.new_empty((len(x), 0)), columns["id"]
    weights = [column for name, column in columns.items() if name not in COLUMNS]
    return cast(Batch, WeightedBatch(*own, *weights)) if weights else Batch(*own)


def as_batch(columns: Mapping[str, np.ndarray]) -> Batch:
    """Columns as tensors: views or, with a GPU, copies in pinned memory, which can be transferred asynchronously."""
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    if torch.cuda.is_available():
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return make_batch(tensors)


def with_tensors(item: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to all tensors of an item, in tuples, lists and dicts."""
    if isinstance(item, Tensor):
        return change(item)
    if isinstance(item, dict):
        return {name: with_tensors(value, change) for name, value in item.items()}
    if not isinstance(item, tuple | list):
        return item
    values = [with_tensors(value, change) for value in item]
    return type(item)(*values) if hasattr(item, "_fields") else type(item)(values)


def tensors_of(item: Any) -> list[Tensor]:
    """All tensors of an item, in tuples, lists and dicts, in order."""
    found: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with_tensors(item, add)
    return found


def rows_in(item: Value, start: int, stop: int) -> Value:
    """The rows from `start` to `stop` of all tensors of an item, which share their memory."""
    return cast(Value, with_tensors(item, lambda tensor: tensor[start:stop]))


def split_rows(item: Value, sizes: Sequence[int]) -> list[Value]:
    """Parts of an item's rows, one after another, with so many rows each."""
    return cast(list[Value], _split(item, sizes, sum(sizes)))


def _split(item: Any, sizes: Sequence[int], rows: int) -> Sequence[Any]:
    """See `split_rows`. Each tensor is split at once, because slicing it for every part takes several times as long."""
    if isinstance(item, Tensor):
        return item[:rows].split_with_sizes(list(sizes))
    if isinstance(item, dict):
        parts = zip(*(_split(value, sizes, rows) for value in item.values()), strict=True)
        return [dict(zip(item, of_part, strict=True)) for of_part in parts]
    parts = zip(*(_split(value, sizes, rows) for value in item), strict=True)
    if hasattr(item, "_fields"):  # without the named tuple's own constructor, which is not compiled
        return list(map(tuple.__new__, repeat(type(item)), parts))
    return list(map(type(item), parts))


@contextmanager
def reading_threads(dataset: Dataset, rank: Rank) -> Iterator[ThreadPoolExecutor]:
    """The rank's threads for a dataset. On exit, tasks that have not begun are cancelled."""
    if get_worker_info() is not None:
        raise UsageError("a stream reads in its own threads; use DataLoader(stream, batch_size=None, num_workers=0)")
    threads = ThreadPoolExecutor(rank.thread_count(dataset), thread_name_prefix="foldstream")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def wait_for(jobs: Iterable[Future[None]]) -> None:
    """Return when all jobs are done. Raises the exception of a failed job."""
    for job in jobs:
        job.result()


def start_early(threads: ThreadPoolExecutor, work: Callable[[], Value], wanted: bool) -> Callable[[], Value]:
    """A function that returns the result of some work: started now in a thread if `wanted`, otherwise done on
    demand."""
    return threads.submit(work).result if wanted else work
