"""The training stream: mixed batches from blocks, in the order of `order.py`, read ahead by threads.

Threads decode blocks and put every row at once where its batch wants it; the thread that iterates only takes what is
ready. Blocks stay decoded as far as the memory bound leaves room beside that.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.format import ArraySpec
from ...storage.places.block_cache import BlockCache
from ..seeding import seed_of
from .batch import ALONE, Batch, Rank, Transform, as_batch, column_specs, open_cache, reading_threads
from .chunk_memory import ChunkMemory
from .decoded import DecodedBlocks
from .filters import RowFilter
from .kernels import place_rows
from .loads import ChunkShape, Load, fit_chunk, plan_loads
from .order import EpochOrder, check_batch_size, lanes_of

CHUNK_BYTES = 8 << 20
LENDABLE = 2  # chunks that the training loop may hold beside those that are read ahead
TRANSFORM = 3  # keeps the transform's random numbers apart from the order's


@dataclass(frozen=True)
class Mixing:
    """How the rows of an epoch are mixed; see `order.py`. `batch_size` is that of the global batch."""

    batch_size: int
    lanes: int = 8
    window: int = 8
    seed: int = 0


def check_mixing(mixing: Mixing, rank: Rank) -> None:
    """Raise UsageError unless the ranks can share the lanes, and the lanes a batch."""
    check_batch_size(mixing.batch_size, mixing.lanes)
    if mixing.lanes % rank.world_size:
        fitting = [str(n) for n in range(1, mixing.lanes + 1) if mixing.lanes % n == 0]
        raise UsageError(
            f"--workers {rank.world_size} does not divide the run's {mixing.lanes} lanes; use {', '.join(fitting)}"
        )


def note_next_use(cache: BlockCache, following: EpochOrder) -> None:
    """Tell the cache the epoch after this one: a block that is used now is needed again at its place there."""
    count = len(following.sizes)
    cache.needed[following.blocks] = np.arange(count) + following.epoch * count


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
        rank: Rank = ALONE,
        epoch: int = 0,
        transform: Transform | None = None,
    ) -> None:
        check_mixing(mixing, rank)
        self.dataset, self.rows, self.mixing, self.rank, self.transform = dataset, rows, mixing, rank, transform
        self.lanes = lanes_of(rank.rank, rank.world_size, mixing.lanes)
        self.epoch, self.step = epoch, 0
        self._taken = (epoch, 0)
        self._order: EpochOrder | None = None
        self._idle: list[ChunkMemory] = []
        self._check_memory()

    @cached_property
    def kept(self) -> np.ndarray:
        """Rows of every block that pass the filter, (blocks,) int64."""
        return self.rows.kept()

    @property
    def order(self) -> EpochOrder:
        """The order of the epoch at which the stream stands."""
        if self._order is None or self._order.epoch != self.epoch:
            self._order = self._order_of(self.epoch)
        return self._order

    def _order_of(self, epoch: int) -> EpochOrder:
        sizes, mixing = self.dataset.layout.block_sizes(), self.mixing
        return EpochOrder(sizes, self.kept, mixing.lanes, mixing.window, mixing.batch_size, mixing.seed, epoch)

    @cached_property
    def specs(self) -> tuple[ArraySpec, ...]:
        """The arrays that are read."""
        return column_specs(self.dataset)

    @property
    def row_bytes(self) -> int:
        return sum(spec.row_bytes for spec in self.specs)

    @cached_property
    def chunk(self) -> ChunkShape:
        """Batches that are handed out at once: some megabytes, and a quarter of a window at most."""
        per_lane = self.mixing.batch_size // self.mixing.lanes
        return fit_chunk(self.row_bytes, CHUNK_BYTES, self._window_rows, len(self.lanes), per_lane)

    @property
    def _window_rows(self) -> int:
        return self.mixing.window * self.dataset.layout.block_rows

    @property
    def _chunks_of_window(self) -> int:
        """Chunks that a window has rows for, at most."""
        return -(-self._window_rows // self.chunk.lane_rows) + 1

    @property
    def _chunks_ahead(self) -> int:
        """Chunks that are ready before they are asked for: enough time for two lanes to read their next windows."""
        return max(2, self._chunks_of_window // 4)

    @property
    def slots(self) -> int:
        """Chunks in memory: those of a window, those that are ready, and those that the training loop still has."""
        return self._chunks_of_window + self._chunks_ahead + LENDABLE

    @property
    def memory_needed(self) -> int:
        """Bytes of the chunks in memory, and of a block for every thread, decoded and as it is stored."""
        threads = 2 * self.rank.thread_count(self.dataset) * self.dataset.layout.block_rows
        return (self.slots * self.chunk.rows + threads) * self.row_bytes

    @cached_property
    def blocks(self) -> DecodedBlocks:
        """The blocks, of which as many stay decoded as the memory bound leaves room for."""
        return DecodedBlocks(self.dataset, self.specs, self.rank.memory_bound - self.memory_needed, self.cache)

    @cached_property
    def cache(self) -> BlockCache | None:
        """The local cache of blocks that come from an object store."""
        return open_cache(self.dataset, self.rank)

    def _check_memory(self) -> None:
        if self.rank.memory_bound < self.memory_needed:
            given = "" if self.rank.memory else " (an eighth of the machine's, shared with the other workers)"
            raise UsageError(
                f"--memory {self.rank.memory_bound:,} bytes{given}: a worker's {len(self.lanes)} lanes with windows of "
                f"{self.mixing.window} blocks need {self.memory_needed:,}; give as much, or a smaller --window"
            )

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
        order = self.order
        self._taken = (self.epoch, self.step)
        if self.cache:
            note_next_use(self.cache, self._order_of(order.epoch + 1))
        memory = self._idle.pop() if self._idle else self._new_memory()
        try:
            with reading_threads(self.dataset, self.rank) as threads:
                for step, batch in enumerate(_EpochReading(self, order, memory, threads).batches(), self.step + 1):
                    self._taken = (order.epoch, step)
                    yield batch
        finally:
            memory.reclaim()
            self._idle.append(memory)
        self.load_state_dict({"epoch": order.epoch + 1, "step": 0})

    def _new_memory(self) -> ChunkMemory:
        return ChunkMemory(self.specs, self.slots, self.chunk.rows)


class _EpochReading:
    """Reads the rest of an epoch from the stream's position on."""

    def __init__(
        self, stream: TrainStream, order: EpochOrder, memory: ChunkMemory, threads: ThreadPoolExecutor
    ) -> None:
        self.stream, self.order, self.memory, self.threads = stream, order, memory, threads
        self.blocks, self.shape, self.step = stream.blocks, stream.chunk, stream.step
        self.slot_of: dict[int, int] = {}
        self.loading: deque[tuple[Load, list[Future[None]]]] = deque()
        self.ready: deque[tuple[int, Callable[[], list[Batch]]]] = deque()
        self.held = set(memory.lent)

    def batches(self) -> Iterator[Batch]:
        """The batches, chunk by chunk.

        Threads take tasks in the order in which they were given, and all that a task waits for was given before it:
        so whatever is waited for has begun.
        """
        try:
            loads = plan_loads(self.order, self.stream.lanes, self.step)
            upcoming = next(loads, None)
            chunks = range(-(-(self.order.steps - self.step) // self.shape.steps))
            for chunk in chunks:
                while upcoming and upcoming.first < (chunk + 1) * self.shape.lane_rows:
                    while not self._find_slots(upcoming):
                        yield from self._take()
                    self._start(upcoming)
                    upcoming = next(loads, None)
                self._finish(chunk)
            while self.ready:
                yield from self._take()
        finally:
            self.ready.clear()  # they refer to this: files would stay open until a collection of cycles

    def _take(self) -> list[Batch]:
        """The next chunk's batches. A loop that keeps more than a few gets copies: reading never waits for it."""
        slot, hand_over = self.ready.popleft()
        batches = hand_over()
        self.held &= self.memory.lent
        if len(self.held) >= LENDABLE:
            return [batch._replace(x=batch.x.clone()) for batch in batches]
        self.held.add(slot)
        return batches

    def _find_slots(self, load: Load) -> bool:
        """Have a slot for every chunk that a load has rows for, or say that none are free."""
        missing = [chunk for chunk in self.shape.chunks_of(load) if chunk not in self.slot_of]
        if len(missing) > len(self.memory.free):
            return False
        for chunk in missing:
            self.slot_of[chunk] = self.memory.free.popleft()
        return True

    def _start(self, load: Load) -> None:
        """Have the threads read a window, some blocks each, and put its rows in place."""
        blocks: list[int] = self.order.window_blocks(load.part.lane, load.part.window).tolist()
        slots = [self.slot_of[chunk] for chunk in self.shape.chunks_of(load)]
        places = self.threads.submit(self._places, load, blocks, slots)
        parts = list(zip(blocks, self.stream.dataset.layout.joined(blocks), strict=True))
        count = self.stream.rank.thread_count(self.stream.dataset)
        shares = [parts[first::count] for first in range(min(count, len(parts)))]
        self.loading.append((load, [self.threads.submit(self._read, share, places) for share in shares]))

    def _places(self, load: Load, blocks: list[int], slots: list[int]) -> np.ndarray:
        """Where each row of a window goes, (rows,) int64; -1 for those that the load has no use for."""
        part, mask = load.part, self.stream.rows.mask(blocks)
        order = self.order.window_rows(part.lane, part.window, len(mask))
        return place_rows(order, mask, part.start, self.shape.places(load, slots))

    def _read(self, parts: list[tuple[int, slice]], places: Future[np.ndarray]) -> None:
        """Read blocks, each with its rows of the window."""
        for block, rows in parts:
            self.memory.put(self.blocks.rows(block), places.result()[rows])

    def _finish(self, chunk: int) -> None:
        """Make batches of a chunk once all that is being read for it is there; in a thread, if that is work."""
        while self.loading and self.loading[0][0].stop <= chunk * self.shape.lane_rows:
            self.loading.popleft()
        slot, awaited = self.slot_of.pop(chunk), [job for _, jobs in self.loading for job in jobs]
        hand_over: Callable[[], list[Batch]] = partial(self._hand_over, chunk, slot, awaited)
        if self.stream.transform or torch.cuda.is_available():
            hand_over = self.threads.submit(hand_over).result
        self.ready.append((slot, hand_over))

    def _hand_over(self, chunk: int, slot: int, awaited: list[Future[None]]) -> list[Batch]:
        for job in awaited:
            job.result()
        first = chunk * self.shape.steps
        columns = (torch.split(column, self.shape.batch_rows) for column in as_batch(self.memory.lend(slot)))
        batches = list(map(Batch, *columns))[: self.order.steps - self.step - first]
        transform = self.stream.transform
        return batches if transform is None else self._transformed(batches, self.step + first, transform)

    def _transformed(self, batches: list[Batch], step: int, transform: Transform) -> list[Batch]:
        keys = self.order.seed, self.order.epoch, self.stream.rank.rank, TRANSFORM
        return [
            transform(batch, torch.Generator().manual_seed(seed_of(*keys, number)))
            for number, batch in enumerate(batches, step)
        ]
