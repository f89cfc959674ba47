"""One pass over the data for several models: each gets the same batches as from a separate `TrainStream`.

Threads decode every window once and copy its rows to where each model's batches need them. Decoded windows stay in
memory until the space is needed for another window, which replaces the least recently used one.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch

from ...storage.dataset import Dataset
from .batch import ALONE, Batch, Rank, as_batch, rows_in, start_early, wait_for
from .decoded import DecodedBlocks
from .filters import RowFilter
from .group_memory import GroupMemory
from .loads import GroupShape
from .order import EpochOrder, Mixing, Slice
from .rank_reader import RankReader
from .read_schedule import ModelSteps, schedule_reads

GROUP_BYTES = 4 << 20
AHEAD = 2  # groups of each model that are ready or being read before they are asked for
HELD = 1  # groups of each model that may be on their way to other ranks
LENDABLE = 2  # groups that the training loop may hold beside those
WINDOWS = 2  # of each lane in memory: models are in one or in the next, some a little ahead of the others
TAILS = 4  # windows more: those of other lanes that fill up short ones at the end of an epoch


class FusedStream:
    """One rank's part of the global batches of several models.

    `rows` are the training rows of each model. The number of steps yielded at once is a multiple of `multiple`. With
    `weighted`, batches include sample weights.
    Raises UsageError unless the world size divides the lanes, each rank gets rows of every batch, and there is enough
    memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: Mapping[int, RowFilter],
        mixing: Mixing,
        rank: Rank = ALONE,
        multiple: int = 1,
        weighted: bool = False,
    ) -> None:
        self.reader = RankReader(dataset, mixing, rank, weighted)
        self.rows, self.multiple = rows, multiple
        self.idle: list[dict[str, np.ndarray]] = []
        purpose = f"one pass for {len(rows)} models needs"
        remedy = "a smaller --window, or --fold-mode runs"
        self.reader.reserve(self.memory_needed, purpose, remedy)

    def order(self, model: int, epoch: int) -> EpochOrder:
        """The order of an epoch of a model."""
        return self.reader.order(self.rows[model].kept(epoch), epoch)

    @cached_property
    def group_shape(self) -> GroupShape:
        """The batches of a model that are yielded at once."""
        return self.reader.fit_group(GROUP_BYTES, self.multiple)

    @property
    def slots(self) -> int:
        """Groups in memory."""
        return (AHEAD + HELD) * len(self.rows) + LENDABLE

    @property
    def windows(self) -> int:
        """Maximum number of decoded windows in memory."""
        return WINDOWS * len(self.reader.lanes) + TAILS

    @property
    def memory_needed(self) -> int:
        """Bytes of the groups and windows in memory, and of a stored block for every thread."""
        rows = self.slots * self.group_shape.rows + self.windows * self.reader.window_rows
        return self.reader.bytes_for(rows, blocks_a_thread=1)

    @cached_property
    def memory(self) -> GroupMemory:
        return GroupMemory(self.reader.specs, self.slots, self.group_shape.rows)

    @property
    def blocks(self) -> DecodedBlocks:
        """The blocks that this rank reads."""
        return self.reader.blocks

    def read_ahead(self) -> None:
        """Request the first blocks of an object store now, so that they arrive while the models are built."""
        if self.reader.ahead:
            first = next(iter(self.rows))
            self.reader.read_ahead(self.order(first, 0), 0, partial(self.order, first, 1))

    def read(
        self, epoch: int, steps: Mapping[int, int], for_others: bool = False
    ) -> Iterator[tuple[ModelSteps, Batch, Batch]]:
        """The rest of an epoch for the models in `steps`, each starting at its step.

        Yields some steps of one model, then some of the next, each with the rows of its batches, one batch after
        another; every rank yields the same steps in the same order. With `for_others`, the ranks read the tails of
        their lanes for each other: the batches lack the rows that other ranks read, and the tails that this rank has
        read are yielded in addition, one after another.
        """
        orders = {model: self.order(model, epoch) for model in steps}
        windows: dict[tuple[int, int], _Window] = {}
        try:
            model, step = min(steps.items(), key=lambda one: one[1])
            with self.reader.start_epoch(orders[model], step, partial(self.order, model, epoch + 1)) as threads:
                yield from _EpochReading(self, orders, threads, windows).read(steps, for_others)
        finally:
            self.memory.reclaim()
            self.idle += [window.memory for window in windows.values()]


@dataclass(eq=False)
class _Window:
    """The rows of one window, decoded by `reads` into `memory`, and the tasks that use them."""

    memory: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    reads: list[Future[None]]
    rows: dict[int, Future[np.ndarray]] = field(default_factory=dict)
    """For each model, the rows it uses, in the order of their use."""
    uses: list[Future[None]] = field(default_factory=list)


def _put_rows(window: _Window, model: int, start: int, places: np.ndarray, memory: GroupMemory) -> None:
    """Copy the rows of a window that the model uses, starting with the `start`-th, to the given places."""
    wait_for(window.reads)
    memory.put(window.columns, window.rows[model].result()[start : start + len(places)], places)


class _EpochReading:
    """Reads an epoch for several models. The `windows` are sorted by their last use, the most recent last."""

    def __init__(
        self,
        stream: FusedStream,
        orders: Mapping[int, EpochOrder],
        threads: ThreadPoolExecutor,
        windows: dict[tuple[int, int], _Window],
    ) -> None:
        self.stream, self.orders, self.threads, self.windows = stream, orders, threads, windows
        self.any_order = next(iter(orders.values()))
        self.reader, self.blocks = stream.reader, stream.blocks
        self.memory, self.shape = stream.memory, stream.group_shape
        self.ready: deque[tuple[ModelSteps, Callable[[], tuple[Batch, Batch]]]] = deque()

    def read(self, steps: Mapping[int, int], for_others: bool) -> Iterator[tuple[ModelSteps, Batch, Batch]]:
        """Read the epoch. Threads run tasks in the order of submission, and a task waits only for tasks that were
        submitted before it, so everything it waits for has already started."""
        rank = self.reader.rank
        try:
            for group in schedule_reads(self.orders, rank.rank, rank.world_size, steps, self.shape, for_others):
                while not self.memory.free:
                    yield self._take()
                self._start(group)
            while self.ready:
                yield self._take()
        finally:
            self.ready.clear()  # they refer to this: files would stay open until a collection of cycles

    def _take(self) -> tuple[ModelSteps, Batch, Batch]:
        group, hand_over = self.ready.popleft()
        batch, tails = hand_over()
        rows = sum(group.sizes(self.reader.rank.rank, self.reader.rank.world_size))
        return group, rows_in(batch, 0, rows), tails

    def _start(self, group: ModelSteps) -> None:
        """Make the threads copy a group's rows into memory."""
        slot = self.memory.free.popleft()
        first, world_size = slot * self.shape.rows, self.reader.rank.world_size
        puts = [
            self._put(group.model, load.part, first + group.places(load, world_size), self.memory)
            for load in group.loads
        ]
        tails = [load.part for _, load in group.tails_of(self.reader.rank.rank)]
        apart, first = GroupMemory(self.reader.specs, 1, sum(part.rows for part in tails)), 0
        for part in tails:
            puts.append(self._put(group.model, part, np.arange(first, first + part.rows), apart))
            first += part.rows
        hand_over = partial(self._hand_over, slot, apart, puts)
        self.ready.append((group, start_early(self.threads, hand_over, torch.cuda.is_available())))

    def _hand_over(self, slot: int, apart: GroupMemory, puts: Sequence[Future[None]]) -> tuple[Batch, Batch]:
        wait_for(puts)
        return as_batch(self.memory.lend(slot)), as_batch(apart.lend(0))

    def _put(self, model: int, part: Slice, places: np.ndarray, memory: GroupMemory) -> Future[None]:
        """Make the threads copy the rows of a slice to their places."""
        window = self._window(part.lane, part.window)
        if model not in window.rows:
            window.rows[model] = self.threads.submit(self._mixed_rows, model, part.lane, part.window)
        window.uses.append(self.threads.submit(_put_rows, window, model, part.start, places, memory))
        return window.uses[-1]

    def _mixed_rows(self, model: int, lane: int, window: int) -> np.ndarray:
        """The rows of a window that a model uses, in the order of their use, (uses,) int64."""
        return self.reader.mixed_rows(self.orders[model], self.stream.rows[model], lane, window)[0]

    def _blocks(self, lane: int, window: int) -> list[int]:
        blocks: list[int] = self.any_order.window_blocks(lane, window).tolist()
        return blocks

    def _window(self, lane: int, number: int) -> _Window:
        """A window that is in memory, or whose read is started now."""
        window = self.windows.pop((lane, number), None) or self._read_window(lane, number)
        self.windows[lane, number] = window
        return window

    def _read_window(self, lane: int, number: int) -> _Window:
        shares, memory = self.reader.split(self._blocks(lane, number)), self._window_memory()
        rows = max(part.stop for share in shares for _, part in share)
        columns = {name: column[:rows] for name, column in memory.items()}
        reads = [self.threads.submit(self._read, share, columns) for share in shares]
        return _Window(memory, columns, reads)

    def _window_memory(self) -> dict[str, np.ndarray]:
        """Memory for a window: idle, new, or taken from the least recently used window."""
        if self.stream.idle:
            return self.stream.idle.pop()
        if len(self.windows) < self.stream.windows:
            return {spec.name: spec.empty(self.reader.window_rows) for spec in self.reader.specs}
        oldest = self.windows.pop(next(iter(self.windows)))
        wait_for(oldest.uses)
        return oldest.memory

    def _read(self, parts: list[tuple[int, slice]], columns: Mapping[str, np.ndarray]) -> None:
        for block, rows in parts:
            self.blocks.read_into(block, {name: column[rows] for name, column in columns.items()})
