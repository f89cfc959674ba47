"""Batches from blocks: the training stream in the order of `order.py`, and every held-out row once.

A worker holds, for each of its lanes, one window of rows and the next one while it is being read.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ..storage.dataset import Dataset, StoredArrays
from ..storage.errors import UsageError
from ..storage.reader import BlockReader
from .order import EpochOrder, Slice

READ_BLOCKS = 16  # blocks of one read of the evaluation stream
EVALUATION_BATCH = 512


class Batch(NamedTuple):
    """Rows as tensors: `x` (rows, *sample_shape) and `y` (rows,) in the dataset's dtypes, `id` (rows,) int64."""

    x: Tensor
    y: Tensor
    id: Tensor


@dataclass(frozen=True)
class FoldRows:
    """The rows that a model sees: those whose fold is not `fold` train it, those whose fold it is test it."""

    dataset: Dataset
    folds: StoredArrays
    fold: int

    def kept(self) -> np.ndarray:
        """Training rows of every block, (blocks,) int64."""
        counts = self.folds.block_table("fold_counts").astype(np.int64)
        kept: np.ndarray = counts.sum(axis=1) - counts[:, self.fold]
        return kept


class TrainStream(IterableDataset[Batch]):
    """One rank's part of an epoch's global batches, from step `start` on.

    Each item is this rank's B/R rows of a global batch: those of the lanes rank, rank + R, …, in lane order.
    Raises UsageError unless the world size divides the lanes.
    """

    def __init__(
        self, rows: FoldRows, order: EpochOrder, rank: int = 0, world_size: int = 1, start: int = 0, threads: int = 1
    ) -> None:
        if order.lanes % world_size:
            fitting = [str(n) for n in range(1, order.lanes + 1) if order.lanes % n == 0]
            raise UsageError(
                f"--workers {world_size} does not divide the run's {order.lanes} lanes; use {', '.join(fitting)}"
            )
        self.rows, self.order, self.start, self.threads = rows, order, start, threads
        self.lanes = range(rank, order.lanes, world_size)

    def __len__(self) -> int:
        return self.order.steps - self.start

    def __iter__(self) -> Iterator[Batch]:
        per_lane = self.order.batch_size // self.order.lanes
        with (
            BlockReader(self.rows.dataset, ("x", "y", "id"), self.threads) as reader,
            BlockReader(self.rows.folds, ("fold",)) as folds,
            ThreadPoolExecutor(1, thread_name_prefix="foldstream-window") as ahead,
        ):
            loader = _WindowLoader(self.rows.fold, self.order, reader, folds)
            cursors = [
                _LaneCursor(loader, ahead, self.order.slices(lane, self.start * per_lane)) for lane in self.lanes
            ]
            for _ in range(self.start, self.order.steps):
                parts = [part for cursor in cursors for part in cursor.take(per_lane)]
                yield Batch(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Window:
    """Rows of a window as they lie in the blocks, and the positions of those wanted, mixed, (wanted,) int64."""

    columns: tuple[Tensor, ...]
    wanted: Tensor


class _WindowLoader:
    """Reads windows: blocks, mixed order, filter."""

    def __init__(self, fold: int, order: EpochOrder, reader: BlockReader, folds: BlockReader) -> None:
        self.fold, self.order, self.reader, self.folds = fold, order, reader, folds

    def __call__(self, part: Slice) -> _Window:
        blocks = self.order.window_blocks(part.lane, part.window).tolist()
        arrays = self.reader.read(blocks)
        outside = self.folds.read(blocks)["fold"] != self.fold
        mixed = self.order.window_rows(part.lane, part.window, len(outside))
        wanted = mixed[outside[mixed]][part.start : part.stop]
        return _Window(tuple(torch.from_numpy(arrays[name]) for name in ("x", "y", "id")), torch.from_numpy(wanted))


class _LaneCursor:
    """Walks a lane's slices, one window ahead of what is taken."""

    def __init__(self, load: _WindowLoader, ahead: ThreadPoolExecutor, slices: Iterator[Slice]) -> None:
        self._load, self._ahead, self._slices = load, ahead, slices
        self._next = self._submit()
        self._window: _Window | None = None
        self._used = 0

    def _submit(self) -> "Future[_Window] | None":
        part = next(self._slices, None)
        return self._ahead.submit(self._load, part) if part else None

    def take(self, count: int) -> Iterator[tuple[Tensor, ...]]:
        """The lane's next `count` rows, in as many parts as windows hold them."""
        while count:
            if self._window is None or self._used == len(self._window.wanted):
                assert self._next is not None, "a lane's course is as long as the epoch's steps"
                self._window, self._used, self._next = self._next.result(), 0, self._submit()
            rows = self._window.wanted[self._used : self._used + count]
            yield tuple(torch.index_select(column, 0, rows) for column in self._window.columns)
            self._used += len(rows)
            count -= len(rows)


def held_out(rows: FoldRows, rank: int = 0, world_size: int = 1, threads: int = 1) -> Iterator[tuple[int, Batch]]:
    """This rank's part of a fold's rows, in the dataset's order: (shard, batch of up to 512 rows).

    Rank r visits the shards r, r + R, …: over all ranks every row of the fold comes exactly once.
    """
    with (
        BlockReader(rows.dataset, ("x", "y", "id"), threads) as reader,
        BlockReader(rows.folds, ("fold",)) as folds,
    ):
        for shard in range(rank, rows.dataset.layout.shards, world_size):
            for arrays, blocks in _read_shard(reader, shard):
                inside = torch.from_numpy(np.flatnonzero(folds.read(blocks)["fold"] == rows.fold))
                for wanted in torch.split(inside, EVALUATION_BATCH) if len(inside) else ():
                    columns = (torch.from_numpy(arrays[name]) for name in ("x", "y", "id"))
                    yield shard, Batch(*(torch.index_select(column, 0, wanted) for column in columns))


def all_rows(dataset: Dataset, names: tuple[str, ...], threads: int = 1) -> Iterator[dict[str, np.ndarray]]:
    """All rows of a dataset in order, some blocks at a time: the named arrays, each (rows, *row_shape)."""
    with BlockReader(dataset, names, threads) as reader:
        for shard in range(dataset.layout.shards):
            for arrays, _ in _read_shard(reader, shard):
                yield arrays


def _read_shard(reader: BlockReader, shard: int) -> Iterator[tuple[dict[str, np.ndarray], range]]:
    """The blocks of a shard, some at a time."""
    blocks = reader.dataset.layout.blocks_of(shard)
    for first in range(blocks.start, blocks.stop, READ_BLOCKS):
        part = range(first, min(first + READ_BLOCKS, blocks.stop))
        yield reader.read(part), part
