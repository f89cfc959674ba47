"""Stream rows in the dataset's order, each exactly once over all ranks, for evaluation and prediction."""

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ...storage.blocks.reader import BlockReader, block_runs, cached_reader
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.format.arrays import ArraySpec
from ...storage.format.schema import Schema
from ...storage.places.block_cache import BlockCache
from .batch import ALONE, Batch, Rank, column_specs, make_batch, open_cache, reading_threads, wait_for
from .device import CPU, on_device
from .filters import RowFilter
from .sequences.padding import trim_batches

EVALUATION_BATCH = 512
TARGET_PIXELS = 1 << 19
"""Pixels of the targets of a batch: a model returns a number for each class and pixel, several models as many of
these."""
IDLE_BUFFERS = 6


class RowStream(IterableDataset[Batch]):
    """This rank's share of the selected rows, in the dataset's order, in batches of up to `batch_size` rows, copied to
    the `device` ahead of their use.

    Rank r reads the shards r, r + R, …: over all ranks every row is read exactly once, at any world size. Each
    iteration starts at the first batch, or at the position set by `load_state_dict`.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: RowFilter,
        rank: Rank = ALONE,
        batch_size: int = EVALUATION_BATCH,
        device: torch.device = CPU,
        weighted: bool = False,
    ) -> None:
        self.dataset, self.rows, self.rank, self.batch_size, self.device = dataset, rows, rank, batch_size, device
        self.weighted = weighted
        self._first = self._taken = 0

    @cached_property
    def _cache(self) -> BlockCache | None:
        return open_cache(self.dataset, self.rank)

    @cached_property
    def _runs(self) -> list[tuple[list[int], int]]:
        """Blocks that are read together, with their number of batches."""
        kept = self.rows.kept()
        return [
            (run, -(-int(kept[run].sum()) // self.batch_size)) for run in wanted_runs(self.dataset, kept, self.rank)
        ]

    def __len__(self) -> int:
        """Number of batches of the next iteration."""
        return sum(batches for _, batches in self._runs) - self._first

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was consumed."""
        place = {"rank": self.rank.rank, "world_size": self.rank.world_size}
        return {"batch": self._taken, "dataset": self.dataset.identity, "batch_size": self.batch_size, **place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position, where the next iteration starts. Raises UsageError for the state of another stream."""
        if {**state, "batch": self._taken} != self.state_dict():
            raise UsageError("the state belongs to a different stream; open this stream with the same arguments")
        self._first = self._taken = int(state["batch"])

    def __iter__(self) -> Iterator[Batch]:
        self._taken, skipped, runs = self._first, self._first, deque(self._runs)
        while runs and runs[0][1] <= skipped:
            skipped -= runs.popleft()[1]
        left = [run for run, _ in runs]
        chosen = chosen_rows(self.dataset, {0: self.rows}, self.rank, self.batch_size, left, self.weighted, self._cache)
        for batch in on_device((batch for *_, batch in islice(chosen, skipped, None)), self.device):
            self._taken += 1
            yield batch
        self._first = self._taken = 0


def evaluation_batch(schema: Schema) -> int:
    """The rows that a model evaluates at once: fewer if there is an output for each pixel of a mask or an image."""
    return max(1, min(EVALUATION_BATCH, TARGET_PIXELS // (schema.dense.pixels if schema.dense else 1)))


def wanted_runs(dataset: Dataset, kept: np.ndarray, rank: Rank) -> Iterator[list[int]]:
    """The blocks that a rank reads together, without blocks of which no row is `kept`."""
    shards = range(rank.rank, dataset.layout.shards, rank.world_size)
    runs = (run for shard in shards for run in block_runs(dataset, dataset.layout.blocks_of(shard)))
    return filter(None, ([block for block in run if kept[block]] for run in runs))


def chosen_rows(
    dataset: Dataset,
    rows: Mapping[int, RowFilter],
    rank: Rank = ALONE,
    batch_size: int | None = None,
    runs: Iterable[Sequence[int]] | None = None,
    weighted: bool = False,
    cache: BlockCache | None = None,
) -> Iterator[tuple[int, int, np.ndarray, Batch]]:
    """The rows of several filters in one pass: each filter gets the same batches as on its own.

    Yields the filter's number, the shard, the rows' positions in the dataset, (rows,) int64, and a batch, whose rows
    all belong to that shard; by default, as many as are evaluated at once. With `runs`, only these runs of blocks are
    read, and with a `cache`, through it.
    """
    layout, specs, step = (
        dataset.layout,
        column_specs(dataset, weighted),
        batch_size or evaluation_batch(dataset.schema),
    )
    if runs is None:
        runs = wanted_runs(dataset, np.sum([chosen.kept() for chosen in rows.values()], axis=0), rank)
    buffers = {spec.name: _Buffers(spec) for spec in specs}
    with reading_threads(dataset, rank) as threads:
        reader = BlockReader(dataset, [spec.name for spec in specs], cache)
        for blocks, arrays in _read_ahead(reader, runs, threads):
            positions = np.concatenate([np.arange(*layout.block_range(block)) for block in blocks])
            for number, chosen in rows.items():
                mask = chosen.mask(blocks)
                inside = np.flatnonzero(mask) if mask.dtype == bool else np.repeat(np.arange(len(mask)), mask)
                for first in range(0, len(inside), step):
                    part = inside[first : first + step]
                    batch = make_batch({name: buffers[name].take(column, part) for name, column in arrays.items()})
                    if dataset.schema.tokens:
                        (batch,) = trim_batches([batch])
                    yield number, layout.shard_of(blocks[0]), positions[part], batch


def shard_rows(
    dataset: Dataset, names: Sequence[str], shards: Iterable[int]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The rows of some shards in order, a few blocks of one shard at a time: the shard, and the named arrays, each
    (rows, *row_shape)."""
    layout = dataset.layout
    runs = (run for shard in shards for run in block_runs(dataset, layout.blocks_of(shard)))
    with reading_threads(dataset, ALONE) as threads:
        for blocks, arrays in _read_ahead(cached_reader(dataset, names), runs, threads):
            yield layout.shard_of(blocks[0]), arrays


def _read_ahead(
    reader: BlockReader, runs: Iterable[Sequence[int]], threads: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[int], dict[str, np.ndarray]]]:
    """Read runs of blocks, prefetching the next one. Those of an object store are requested further ahead."""
    layout = reader.dataset.layout
    if reader.dataset.place.waits_for_network:
        runs = list(runs)
        reader.follow(iter(chain.from_iterable(runs)))
    reading: deque[tuple[Sequence[int], dict[str, np.ndarray], list[Future[None]]]] = deque()
    for blocks in runs:
        rows = sum(stop - start for start, stop in map(layout.block_range, blocks))
        arrays = {spec.name: spec.empty(rows) for spec in reader.specs}
        reading.append((blocks, arrays, reader.start(blocks, arrays, threads)))
        if len(reading) > 1:
            yield _finished(*reading.popleft())
    for run in reading:
        yield _finished(*run)


def _finished(
    blocks: Sequence[int], arrays: dict[str, np.ndarray], jobs: list[Future[None]]
) -> tuple[Sequence[int], dict[str, np.ndarray]]:
    wait_for(jobs)
    return blocks, arrays


class _Buffers:
    """Memory for gathered rows, reused once no tensor refers to it: allocating new pages costs more than copying."""

    def __init__(self, spec: ArraySpec) -> None:
        self.spec = spec
        self.dtype = torch.from_numpy(spec.empty(0)).dtype
        self.idle: deque[np.ndarray] = deque(maxlen=IDLE_BUFFERS)

    def take(self, column: np.ndarray, rows: np.ndarray) -> Tensor:
        """The given rows as a new tensor, in pinned memory if a GPU is available."""
        if torch.cuda.is_available():  # torch itself reuses pinned memory
            out = torch.empty((len(rows), *self.spec.row_shape), dtype=self.dtype, pin_memory=True)
        else:
            out = torch.from_numpy(self._reused(len(rows)))
        # Positions are in range by construction; any other mode would copy the rows once more.
        np.take(column, rows, axis=0, out=out.numpy(), mode="clip")
        return out

    def _reused(self, rows: int) -> np.ndarray:
        """An array over idle memory, which becomes idle again when the array, held by torch's tensors, is freed."""
        memory = self.idle.popleft() if self.idle else self.spec.empty(rows)
        if len(memory) < rows:
            memory = self.spec.empty(rows)
        array = memory[:rows]
        weakref.finalize(array, self.idle.append, memory).atexit = False
        return array
