"""Batches from blocks, by threads: the training stream in the order of `order.py`, and every row once in its own.

A rank holds a few windows of decoded rows in slots of memory that are filled again and again. Threads decode blocks
straight into the slots and gather batches from them; the thread that iterates only takes what is ready.
"""

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..storage.dataset import Dataset
from ..storage.errors import UsageError
from ..storage.format import ArraySpec
from ..storage.machine import this_machine
from ..storage.reader import BlockReader
from .chunks import Chunk, Load, plan_chunks
from .filters import RowFilter
from .order import EpochOrder, Slice, check_batch_size
from .seeding import seed_of

COLUMNS = ("x", "y", "id")
CHUNK_BYTES = 4 << 20
CHUNKS_AHEAD = 3
LOADS_AHEAD = 4
READ_BYTES = 32 << 20  # what the streams in the dataset's order read at once
EVALUATION_BATCH = 512
MOST_THREADS = 16
TRANSFORM = 3  # keeps the transform's random numbers apart from the order's


class Batch(NamedTuple):
    """Rows as tensors in the dataset's dtypes.

    `x` is (rows, *sample_shape), `y` (rows,), or (rows, 0) where the data has no label, `id` (rows,) int64.
    """

    x: Tensor
    y: Tensor
    id: Tensor


Transform = Callable[[Batch, torch.Generator], Batch]


@dataclass(frozen=True)
class Mixing:
    """How the rows of an epoch are mixed; see `order.py`. `batch_size` is that of the global batch."""

    batch_size: int
    lanes: int = 8
    window: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Rank:
    """One of the processes that share an epoch, and what it may use: bytes of memory, and threads.

    Without a bound the stream takes what its windows need; threads: the machine's cores, shared with the other ranks.
    """

    rank: int = 0
    world_size: int = 1
    memory: int | None = None
    threads: int | None = None

    @property
    def neighbours(self) -> int:
        """Ranks on this machine: what the launcher says, else all of them."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))

    @property
    def thread_count(self) -> int:
        return self.threads or min(MOST_THREADS, max(1, this_machine().cores // self.neighbours))


class TrainStream(IterableDataset[Batch]):
    """One rank's part of the global batches: the rows of the lanes rank, rank + R, …, in lane order.

    Each iteration begins at the position (`epoch`, `step`), and one that runs to its end moves the position on to the
    next epoch. `state_dict` is the position after the last batch that was taken. `transform` gets every batch and a
    generator that is seeded by its position.

    Raises UsageError unless the world size divides the lanes, the lanes divide the batch, and the memory suffices.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: RowFilter,
        mixing: Mixing,
        rank: Rank = Rank(),
        epoch: int = 0,
        transform: Transform | None = None,
    ) -> None:
        check_batch_size(mixing.batch_size, mixing.lanes)
        if mixing.lanes % rank.world_size:
            fitting = [str(n) for n in range(1, mixing.lanes + 1) if mixing.lanes % n == 0]
            raise UsageError(
                f"--workers {rank.world_size} does not divide the run's {mixing.lanes} lanes; use {', '.join(fitting)}"
            )
        self.dataset, self.rows, self.mixing, self.rank, self.transform = dataset, rows, mixing, rank, transform
        self.lanes = range(rank.rank, mixing.lanes, rank.world_size)
        self.epoch, self.step = epoch, 0
        self._taken = (epoch, 0)
        self._order: EpochOrder | None = None
        self._check_memory()

    @cached_property
    def kept(self) -> np.ndarray:
        """Rows of every block that pass the filter, (blocks,) int64."""
        return self.rows.kept()

    @property
    def order(self) -> EpochOrder:
        """The order of the epoch at which the stream stands."""
        if self._order is None or self._order.epoch != self.epoch:
            sizes, mixing = self.dataset.layout.block_sizes(), self.mixing
            self._order = EpochOrder(
                sizes, self.kept, mixing.lanes, mixing.window, mixing.batch_size, mixing.seed, self.epoch
            )
        return self._order

    @property
    def specs(self) -> tuple[ArraySpec, ...]:
        """The arrays that are read."""
        return tuple(spec for spec in self.dataset.manifest.arrays if spec.name in COLUMNS)

    @property
    def slot_rows(self) -> int:
        """Rows of a slot: a window, or where windows are tiny, two batches' worth of a lane."""
        window = self.mixing.window * self.dataset.layout.block_rows
        return max(window, 2 * self.mixing.batch_size // self.mixing.lanes)

    @property
    def slots(self) -> int:
        """Slots of memory: two a lane, one that is emptied and one that is filled. Most of the time half are in use."""
        return 2 * len(self.lanes)

    @property
    def memory_needed(self) -> int:
        """Bytes of all slots, and of the batches that are gathered ahead."""
        row_bytes = sum(spec.row_bytes for spec in self.specs)
        return self.slots * self.slot_rows * row_bytes + (CHUNKS_AHEAD + 1) * CHUNK_BYTES

    def _check_memory(self) -> None:
        if self.rank.memory is not None and self.rank.memory < self.memory_needed:
            raise UsageError(
                f"--memory {self.rank.memory:,} bytes: a worker's {len(self.lanes)} lanes with windows of "
                f"{self.mixing.window} blocks need {self.memory_needed:,}; give as much, or a smaller --window"
            )

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The slots, one after the other: (slots · slot_rows, *row_shape) of each array. Kept from epoch to epoch."""
        return {spec.name: spec.empty(self.slots * self.slot_rows) for spec in self.specs}

    def __len__(self) -> int:
        return self.order.steps - self.step

    def state_dict(self) -> dict[str, int]:
        """The position after the last batch that was taken."""
        epoch, step = self._taken
        return {"epoch": epoch, "step": step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position: the next iteration begins there."""
        self.epoch, self.step = state["epoch"], state["step"]
        self._taken = (self.epoch, self.step)

    def __iter__(self) -> Iterator[Batch]:
        _refuse_worker_processes()
        order = self.order
        self._taken = (self.epoch, self.step)
        with _threads(self.rank.thread_count) as threads:
            memory = _WindowMemory(self, order, threads)
            for step, batch in enumerate(memory.batches(self.step), self.step + 1):
                self._taken = (order.epoch, step)
                yield batch
        self.load_state_dict({"epoch": order.epoch + 1, "step": 0})


class _WindowMemory:
    """Slots of decoded rows, filled by threads and emptied batch by batch."""

    def __init__(self, stream: TrainStream, order: EpochOrder, threads: ThreadPoolExecutor) -> None:
        self.stream, self.order, self.threads = stream, order, threads
        self.specs = stream.specs
        self.reader = BlockReader(stream.dataset, [spec.name for spec in self.specs])
        self.columns = stream.columns
        self.buffers = {spec.name: _Buffers(spec) for spec in self.specs}
        self.free = list(range(stream.slots))
        self.slot_of: dict[Load, int] = {}
        self.blocks_of: dict[Load, list[Future[None]]] = {}
        self.positions_of: dict[Load, Future[np.ndarray]] = {}

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches from step `start` on.

        All threads take tasks in the order in which they were submitted, so that a chunk's gathering never waits for
        a load that has not begun.
        """
        step = start
        chunks = plan_chunks(self.order, self.stream.lanes, start, self.stream.slot_rows, self._chunk_steps())
        upcoming = next(chunks, None)
        loading: deque[Chunk] = deque()
        gathering: deque[tuple[Chunk, Future[list[Batch]]]] = deque()
        while upcoming or loading or gathering:
            if upcoming and len(upcoming.first_needed) <= len(self.free) and _loads(loading) < LOADS_AHEAD:
                for load in upcoming.first_needed:
                    self._start_load(load)
                loading.append(upcoming)
                upcoming = next(chunks, None)
            elif loading and len(gathering) < CHUNKS_AHEAD:
                chunk = loading.popleft()
                gathering.append((chunk, self.threads.submit(self._gather, chunk, step)))
                step += chunk.steps
            else:
                done, gathered = gathering.popleft()
                batches = gathered.result()
                for load in done.last_used:
                    self._release(load)
                yield from batches

    def _chunk_steps(self) -> int:
        """Batches that are gathered at once: some megabytes, and no more than a quarter of a slot from any lane."""
        row_bytes = sum(spec.row_bytes for spec in self.specs)
        per_lane, lanes = self.order.per_lane, len(self.stream.lanes)
        rows = min(CHUNK_BYTES // row_bytes // lanes, self.stream.slot_rows // 4)
        return max(1, rows // per_lane)

    def _start_load(self, load: Load) -> None:
        """Have the threads fill a slot."""
        self.slot_of[load] = slot = self.free.pop()
        first = slot * self.stream.slot_rows
        if len(load.slices) == 1:
            blocks = self._blocks(load.slices[0])
            out = {name: column[first : first + self.stream.slot_rows] for name, column in self.columns.items()}
            self.blocks_of[load] = self.reader.start(blocks, out, self.threads)
            self.positions_of[load] = self.threads.submit(lambda: first + self._wanted(load.slices[0]))
            return
        self.blocks_of[load] = []
        self.positions_of[load] = self.threads.submit(np.arange, first, first + load.rows)
        for part in load.slices:
            out = {name: column[first : first + part.rows] for name, column in self.columns.items()}
            self.blocks_of[load].append(self.threads.submit(self._pack, part, out))
            first += part.rows

    def _release(self, load: Load) -> None:
        self.free.append(self.slot_of.pop(load))
        del self.blocks_of[load], self.positions_of[load]

    def _blocks(self, part: Slice) -> list[int]:
        blocks: list[int] = self.order.window_blocks(part.lane, part.window).tolist()
        return blocks

    def _wanted(self, part: Slice) -> np.ndarray:
        """Where the rows of a slice lie in its window, in the order of the epoch, (rows,) int64."""
        mask = self.stream.rows.mask(self._blocks(part))
        mixed = self.order.window_rows(part.lane, part.window, len(mask))
        wanted: np.ndarray = (mixed if mask.all() else mixed[mask[mixed]])[part.start : part.stop]
        return wanted

    def _pack(self, part: Slice, out: dict[str, np.ndarray]) -> None:
        """Read a window and keep the rows of one slice, in the order of the epoch."""
        window, wanted = self.reader.read(self._blocks(part)), self._wanted(part)
        for name, rows in window.items():
            np.take(rows, wanted, axis=0, out=out[name], mode="clip")

    def _gather(self, chunk: Chunk, step: int) -> list[Batch]:
        """The batches of a chunk, whose first one is number `step` of the epoch."""
        per_lane = self.order.per_lane
        index = np.empty((chunk.steps, len(chunk.lanes), per_lane), np.int64)
        for lane, pieces in enumerate(chunk.lanes):
            positions = [self.positions_of[piece.load].result()[piece.start : piece.stop] for piece in pieces]
            index[:, lane] = np.concatenate(positions).reshape(chunk.steps, per_lane)
            for piece in pieces:
                self._await_blocks(piece.load)
        rows = index.reshape(-1)
        gathered = {spec.name: self.buffers[spec.name].take(self.columns[spec.name], rows) for spec in self.specs}
        size = len(chunk.lanes) * per_lane
        parts = {name: torch.split(tensor, size) for name, tensor in gathered.items()}
        batches = [_batch({name: part[i] for name, part in parts.items()}) for i in range(chunk.steps)]
        return batches if self.stream.transform is None else self._transformed(batches, step, self.stream.transform)

    def _await_blocks(self, load: Load) -> None:
        """Return when a slot is filled."""
        for block in self.blocks_of[load]:
            block.result()
        self.blocks_of[load] = []

    def _transformed(self, batches: list[Batch], step: int, transform: Transform) -> list[Batch]:
        keys = self.order.seed, self.order.epoch, self.stream.rank.rank, TRANSFORM
        return [
            transform(batch, torch.Generator().manual_seed(seed_of(*keys, number)))
            for number, batch in enumerate(batches, step)
        ]


class RowStream(IterableDataset[Batch]):
    """This rank's share of the chosen rows, in the dataset's order, in batches of up to `batch_size` rows.

    Rank r visits the shards r, r + R, …: over all ranks every row comes exactly once, at any world size.
    """

    def __init__(
        self, dataset: Dataset, rows: RowFilter, rank: Rank = Rank(), batch_size: int = EVALUATION_BATCH
    ) -> None:
        self.dataset, self.rows, self.rank, self.batch_size = dataset, rows, rank, batch_size

    def __iter__(self) -> Iterator[Batch]:
        return (batch for _, batch in self.by_shard())

    def by_shard(self) -> Iterator[tuple[int, Batch]]:
        """Every batch with the number of its shard; no batch crosses from one shard to the next."""
        _refuse_worker_processes()
        kept, layout = self.rows.kept(), self.dataset.layout
        names = [spec.name for spec in self.dataset.manifest.arrays if spec.name in COLUMNS]
        shards = range(self.rank.rank, layout.shards, self.rank.world_size)
        runs = (run for shard in shards for run in _runs(self.dataset, [b for b in layout.blocks_of(shard) if kept[b]]))
        buffers = {name: _Buffers(self.dataset.spec(name)) for name in names}
        with _threads(self.rank.thread_count) as threads:
            for blocks, arrays in _read_ahead(BlockReader(self.dataset, names), runs, threads):
                inside = np.flatnonzero(self.rows.mask(blocks))
                for first in range(0, len(inside), self.batch_size):
                    wanted = inside[first : first + self.batch_size]
                    batch = _batch({name: buffers[name].take(rows, wanted) for name, rows in arrays.items()})
                    yield blocks[0] // layout.shard_blocks, batch


def all_rows(dataset: Dataset, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    """All rows of a dataset in order, some blocks at a time: the named arrays, each (rows, *row_shape)."""
    runs = _runs(dataset, range(dataset.layout.blocks))
    with _threads(Rank().thread_count) as threads:
        for _, arrays in _read_ahead(BlockReader(dataset, names), runs, threads):
            yield arrays


def _runs(dataset: Dataset, blocks: Sequence[int]) -> Iterator[Sequence[int]]:
    """Blocks in groups that are read at once."""
    count = max(1, READ_BYTES // (dataset.layout.block_rows * dataset.spec("x").row_bytes))
    return (blocks[first : first + count] for first in range(0, len(blocks), count))


def _read_ahead(
    reader: BlockReader, runs: Iterable[Sequence[int]], threads: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[int], dict[str, np.ndarray]]]:
    """Read groups of blocks, the next one while one is in use."""
    layout = reader.dataset.layout
    reading: deque[tuple[Sequence[int], dict[str, np.ndarray], list[Future[None]]]] = deque()
    for blocks in runs:
        rows = sum(stop - start for start, stop in map(layout.block_range, blocks))
        arrays = {spec.name: spec.empty(rows) for spec in reader.specs}
        reading.append((blocks, arrays, reader.start(blocks, arrays, threads)))
        if len(reading) > 1:
            yield _finished(*reading.popleft())
    for group in reading:
        yield _finished(*group)


def _finished(
    blocks: Sequence[int], arrays: dict[str, np.ndarray], jobs: list[Future[None]]
) -> tuple[Sequence[int], dict[str, np.ndarray]]:
    for job in jobs:
        job.result()
    return blocks, arrays


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that end at once, whatever they were given, when they are no longer needed."""
    threads = ThreadPoolExecutor(count, thread_name_prefix="foldstream")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


class _Buffers:
    """Memory for gathered rows, used again once nobody holds a tensor of it: fresh pages cost more than the copying."""

    def __init__(self, spec: ArraySpec) -> None:
        self.spec = spec
        self.dtype = torch.from_numpy(spec.empty(0)).dtype
        self.idle: deque[np.ndarray] = deque(maxlen=2 * CHUNKS_AHEAD)

    def take(self, column: np.ndarray, rows: np.ndarray) -> Tensor:
        """The given rows as a tensor of their own, pinned where there is a GPU to send it to."""
        if torch.cuda.is_available():  # torch itself uses pinned memory again
            out = torch.empty((len(rows), *self.spec.row_shape), dtype=self.dtype, pin_memory=True)
        else:
            out = torch.from_numpy(self._reused(len(rows)))
        # Positions are in range by construction; any other mode would copy the rows once more.
        np.take(column, rows, axis=0, out=out.numpy(), mode="clip")
        return out

    def _reused(self, rows: int) -> np.ndarray:
        """An array over idle memory. It goes back when the array, which torch's tensors hold, is gone."""
        memory = self.idle.popleft() if self.idle else self.spec.empty(rows)
        if len(memory) < rows:
            memory = self.spec.empty(rows)
        array = memory[:rows]
        weakref.finalize(array, self.idle.append, memory).atexit = False
        return array


def _loads(chunks: Iterable[Chunk]) -> int:
    return sum(len(chunk.first_needed) for chunk in chunks)


def _batch(columns: dict[str, Tensor]) -> Batch:
    x = columns["x"]
    return Batch(x, columns["y"] if "y" in columns else x.new_empty((len(x), 0)), columns["id"])


def _refuse_worker_processes() -> None:
    if get_worker_info() is not None:
        raise UsageError("a stream reads in threads of its own: use DataLoader(stream, batch_size=None, num_workers=0)")
