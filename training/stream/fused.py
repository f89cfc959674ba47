"""One pass over the data for several models: each gets the batches that a `TrainStream` of its own would give it.

Threads decode every window once and put its rows where each model's batches want them. Decoded windows stay until
their memory is needed for another one, the one that was used last at the latest.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch

from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.places.block_cache import BlockCache
from .batch import ALONE, Batch, Rank, as_batch, column_specs, open_cache, reading_threads
from .chunk_memory import ChunkMemory
from .decoded import DecodedBlocks
from .filters import RowFilter
from .fused_plan import Chunk, plan_chunks
from .kernels import place_rows
from .loads import ChunkShape, fit_chunk
from .order import EpochOrder, Slice, lanes_of
from .single import Mixing, check_mixing, note_next_use

CHUNK_BYTES = 4 << 20
AHEAD = 2  # chunks of each model that are ready or being read before they are asked for
HELD = 1  # chunks of each model that may be on their way to other ranks
LENDABLE = 2  # chunks that the training loop may hold beside those
WINDOWS = 2  # of each lane in memory: models are in one or in the next, some a little ahead of the others
TAILS = 4  # windows more: those of other lanes that fill up short ones at the end of an epoch


class FusedStream:
    """One rank's part of the global batches of several models. `rows` is what each of them trains on; `group` steps,
    or a multiple, are handed out at once.

    Raises UsageError unless the world size divides the lanes, the lanes divide the batch, and the memory suffices.
    """

    def __init__(
        self, dataset: Dataset, rows: Mapping[int, RowFilter], mixing: Mixing, rank: Rank = ALONE, group: int = 1
    ) -> None:
        check_mixing(mixing, rank)
        self.dataset, self.rows, self.mixing, self.rank, self.group = dataset, rows, mixing, rank, group
        self.lanes = lanes_of(rank.rank, rank.world_size, mixing.lanes)
        self.specs = column_specs(dataset)
        self.row_bytes = sum(spec.row_bytes for spec in self.specs)
        self.idle: list[dict[str, np.ndarray]] = []
        if rank.memory_bound < self.memory_needed:
            raise UsageError(
                f"--memory {rank.memory_bound:,} bytes: one pass for {len(rows)} models needs {self.memory_needed:,} "
                f"in each worker; give as much, a smaller --window, or --fold-mode runs"
            )

    @cached_property
    def kept(self) -> dict[int, np.ndarray]:
        """For each model the rows of every block that it trains on, (blocks,) int64."""
        return {model: rows.kept() for model, rows in self.rows.items()}

    @cached_property
    def sizes(self) -> np.ndarray:
        """Rows of every block, (blocks,) int64: one array for all models' orders."""
        return self.dataset.layout.block_sizes()

    def order(self, model: int, epoch: int) -> EpochOrder:
        """The order of an epoch of a model."""
        mixing = self.mixing
        return EpochOrder(
            self.sizes, self.kept[model], mixing.lanes, mixing.window, mixing.batch_size, mixing.seed, epoch
        )

    @property
    def window_rows(self) -> int:
        return self.mixing.window * self.dataset.layout.block_rows

    @cached_property
    def chunk(self) -> ChunkShape:
        """Batches of a model that are handed out at once: some megabytes, and a quarter of a window at most."""
        per_lane = self.mixing.batch_size // self.mixing.lanes
        return fit_chunk(self.row_bytes, CHUNK_BYTES, self.window_rows, len(self.lanes), per_lane, self.group)

    @property
    def slots(self) -> int:
        return (AHEAD + HELD) * len(self.rows) + LENDABLE

    @property
    def windows(self) -> int:
        """Decoded windows in memory, at most."""
        return WINDOWS * len(self.lanes) + TAILS

    @property
    def memory_needed(self) -> int:
        """Bytes of the chunks and windows in memory, and of a stored block for every thread."""
        threads = self.rank.thread_count(self.dataset) * self.dataset.layout.block_rows
        return (self.slots * self.chunk.rows + self.windows * self.window_rows + threads) * self.row_bytes

    @cached_property
    def memory(self) -> ChunkMemory:
        return ChunkMemory(self.specs, self.slots, self.chunk.rows)

    @cached_property
    def blocks(self) -> DecodedBlocks:
        """The blocks, of which as many stay decoded from epoch to epoch as the memory bound leaves room for."""
        return DecodedBlocks(self.dataset, self.specs, self.rank.memory_bound - self.memory_needed, self.cache)

    @cached_property
    def cache(self) -> BlockCache | None:
        """The local cache of blocks that come from an object store."""
        return open_cache(self.dataset, self.rank)

    def chunks(
        self, epoch: int, steps: Mapping[int, int], for_others: bool = False
    ) -> Iterator[tuple[Chunk, Batch, Batch]]:
        """The rest of an epoch for those models that `steps` names, each from its step on.

        Yields some steps of one model, then some of the next, each with the rows of its batches, one batch after the
        other; on every rank those of the same steps. With `for_others` the ranks read the tails of their lanes for each
        other: the rows that other ranks read are missing in the batches, and beside these come the tails that this rank
        has read, one after the other.
        """
        orders = {model: self.order(model, epoch) for model in steps}
        if self.cache:
            note_next_use(self.cache, self.order(next(iter(steps)), epoch + 1))
        windows: dict[tuple[int, int], _Window] = {}
        try:
            with reading_threads(self.dataset, self.rank) as threads:
                yield from _EpochReading(self, orders, threads, windows).chunks(steps, for_others)
        finally:
            self.memory.reclaim()
            self.idle += [window.memory for window in windows.values()]


@dataclass(eq=False)
class _Window:
    """The rows of one window, decoded by `reads` into `memory`, and the tasks that use them."""

    memory: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    order: Future[np.ndarray]
    reads: list[Future[None]]
    masks: dict[int, Future[np.ndarray]] = field(default_factory=dict)
    uses: list[Future[None]] = field(default_factory=list)


def _put_rows(window: _Window, model: int, start: int, places: np.ndarray, memory: ChunkMemory) -> None:
    """Put those rows of a window that the model keeps, from the `start`-th on, at the places."""
    for read in window.reads:
        read.result()
    memory.put(window.columns, place_rows(window.order.result(), window.masks[model].result(), start, places))


class _EpochReading:
    """Reads an epoch for several models. Of the `windows` the one that was used last comes last."""

    def __init__(
        self,
        stream: FusedStream,
        orders: Mapping[int, EpochOrder],
        threads: ThreadPoolExecutor,
        windows: dict[tuple[int, int], _Window],
    ) -> None:
        self.stream, self.orders, self.threads, self.windows = stream, orders, threads, windows
        self.any_order = next(iter(orders.values()))
        self.memory, self.shape = stream.memory, stream.chunk
        self.ready: deque[tuple[Chunk, Callable[[], tuple[Batch, Batch]]]] = deque()

    def chunks(self, steps: Mapping[int, int], for_others: bool) -> Iterator[tuple[Chunk, Batch, Batch]]:
        """Threads take tasks in the order in which they were given, and all that a task waits for was given before
        it: so whatever is waited for has begun."""
        rank, mixing = self.stream.rank, self.stream.mixing
        ranks = [lanes_of(number, rank.world_size, mixing.lanes) for number in range(rank.world_size * for_others)]
        try:
            for chunk in plan_chunks(self.orders, self.stream.lanes, steps, self.shape, ranks):
                while not self.memory.free:
                    yield self._take()
                self._start(chunk)
            while self.ready:
                yield self._take()
        finally:
            self.ready.clear()  # they refer to this: files would stay open until a collection of cycles

    def _take(self) -> tuple[Chunk, Batch, Batch]:
        chunk, hand_over = self.ready.popleft()
        rows = len(chunk.steps) * self.shape.batch_rows
        batch, tails = hand_over()
        return chunk, Batch(*(column[:rows] for column in batch)), tails

    def _start(self, chunk: Chunk) -> None:
        """Have the threads put a chunk's rows into memory."""
        slot = self.memory.free.popleft()
        puts = [self._put(chunk.model, load.part, self.shape.places(load, [slot]), self.memory) for load in chunk.loads]
        tails = [load.part for _, load in chunk.tails_of(self.stream.rank.rank)]
        apart, first = ChunkMemory(self.stream.specs, 1, sum(part.rows for part in tails)), 0
        for part in tails:
            puts.append(self._put(chunk.model, part, np.arange(first, first + part.rows), apart))
            first += part.rows
        hand_over: Callable[[], tuple[Batch, Batch]] = partial(self._hand_over, slot, apart, puts)
        if torch.cuda.is_available():
            hand_over = self.threads.submit(hand_over).result
        self.ready.append((chunk, hand_over))

    def _hand_over(self, slot: int, apart: ChunkMemory, puts: Sequence[Future[None]]) -> tuple[Batch, Batch]:
        for put in puts:
            put.result()
        return as_batch(self.memory.lend(slot)), as_batch(apart.lend(0))

    def _put(self, model: int, part: Slice, places: np.ndarray, memory: ChunkMemory) -> Future[None]:
        """Have the threads put the rows of a slice at their places."""
        window = self._window(part.lane, part.window)
        if model not in window.masks:
            mask = self.stream.rows[model].mask
            window.masks[model] = self.threads.submit(mask, self._blocks(part.lane, part.window))
        window.uses.append(self.threads.submit(_put_rows, window, model, part.start, places, memory))
        return window.uses[-1]

    def _blocks(self, lane: int, window: int) -> list[int]:
        blocks: list[int] = self.any_order.window_blocks(lane, window).tolist()
        return blocks

    def _window(self, lane: int, number: int) -> _Window:
        """A window that is there, or is being read from now on."""
        window = self.windows.pop((lane, number), None) or self._read_window(lane, number)
        self.windows[lane, number] = window
        return window

    def _read_window(self, lane: int, number: int) -> _Window:
        blocks = self._blocks(lane, number)
        parts = list(zip(blocks, self.stream.dataset.layout.joined(blocks), strict=True))
        memory, rows = self._window_memory(), parts[-1][1].stop
        columns = {name: column[:rows] for name, column in memory.items()}
        count = self.stream.rank.thread_count(self.stream.dataset)
        shares = [parts[first::count] for first in range(min(count, len(parts)))]
        reads = [self.threads.submit(self._read, share, columns) for share in shares]
        return _Window(memory, columns, self.threads.submit(self.any_order.window_rows, lane, number, rows), reads)

    def _window_memory(self) -> dict[str, np.ndarray]:
        """Memory for a window: idle, or new, or that of the window whose last use is longest ago."""
        if self.stream.idle:
            return self.stream.idle.pop()
        if len(self.windows) < self.stream.windows:
            return {spec.name: spec.empty(self.stream.window_rows) for spec in self.stream.specs}
        oldest = self.windows.pop(next(iter(self.windows)))
        for use in oldest.uses:
            use.result()
        return oldest.memory

    def _read(self, parts: list[tuple[int, slice]], columns: Mapping[str, np.ndarray]) -> None:
        for block, rows in parts:
            self.stream.blocks.read_into(block, {name: column[rows] for name, column in columns.items()})
