"""What both streams share: batches, the rank that reads them, and its threads."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.format import ArraySpec
from ...storage.machine import this_machine
from ...storage.places.block_cache import BlockCache, default_limit

COLUMNS = ("x", "y", "id")
MOST_THREADS = 16
MEMORY_SHARE = 8  # a stream may use an eighth of the memory, with the other ranks of the machine


class Batch(NamedTuple):
    """Rows as tensors in the dataset's dtypes.

    `x` is (rows, *sample_shape), `y` (rows,), (rows, labels) where there are several,
    or (rows, 0) where there is none, `id` (rows,) int64.
    """

    x: Tensor
    y: Tensor
    id: Tensor


Transform = Callable[[Batch, torch.Generator], Batch]


@dataclass(frozen=True)
class Rank:
    """One of the processes that share an epoch, and what it may use: bytes of memory, threads, bytes of disk.

    Without these an eighth of the machine's memory, all its cores, and for the blocks of a dataset in an object store
    a tenth of the free disk, each shared with the other ranks on the machine.
    """

    rank: int = 0
    world_size: int = 1
    memory: int | None = None
    threads: int | None = None
    cache: int | None = None

    @property
    def neighbours(self) -> int:
        """Ranks on this machine: what the launcher says, else all of them."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))

    def thread_count(self, dataset: Dataset) -> int:
        """Threads that read a dataset: a core each, or more where they wait for an object store."""
        cores = min(MOST_THREADS, max(1, this_machine().cores // self.neighbours))
        return self.threads or (MOST_THREADS if dataset.place.waits_for_network else cores)

    @property
    def memory_bound(self) -> int:
        return self.memory or this_machine().memory // MEMORY_SHARE // self.neighbours


ALONE = Rank()


def open_cache(dataset: Dataset, rank: Rank) -> BlockCache | None:
    """The local cache of a dataset in an object store; none for one on this machine, or if it may use no disk."""
    if not dataset.place.waits_for_network or rank.cache == 0:
        return None
    limit = rank.cache or default_limit() // rank.neighbours
    return BlockCache(limit, dataset.identity, dataset.layout.blocks, (rank.rank % rank.neighbours, rank.neighbours))


def column_specs(dataset: Dataset) -> tuple[ArraySpec, ...]:
    """The arrays that make a batch."""
    return tuple(spec for spec in dataset.manifest.arrays if spec.name in COLUMNS)


def make_batch(columns: Mapping[str, Tensor]) -> Batch:
    """A batch of the columns that there are."""
    x = columns["x"]
    return Batch(x, columns["y"] if "y" in columns else x.new_empty((len(x), 0)), columns["id"])


def as_batch(columns: Mapping[str, np.ndarray]) -> Batch:
    """Columns as tensors: views, or where there is a GPU copies in memory that it can read, so that it takes rows while
    the training goes on."""
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    if torch.cuda.is_available():
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return make_batch(tensors)


@contextmanager
def reading_threads(dataset: Dataset, rank: Rank) -> Iterator[ThreadPoolExecutor]:
    """The rank's threads for a dataset, which end at once, whatever they were given, when they are no longer needed."""
    if get_worker_info() is not None:
        raise UsageError("a stream reads in threads of its own: use DataLoader(stream, batch_size=None, num_workers=0)")
    threads = ThreadPoolExecutor(rank.thread_count(dataset), thread_name_prefix="foldstream")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
