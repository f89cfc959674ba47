"""The training stream: shuffled batches from blocks, in the order of `order.py`, prefetched by threads.

Threads decode blocks and copy every row directly to its place in a batch; the iterating thread only takes what is
ready. Blocks stay decoded as far as the remaining memory allows.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ...storage.compiled import compiled
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.places.json_files import content_hash
from ..seeding import seed_of
from .batch import ALONE, Batch, Rank, Transform, as_batch, split_rows, start_early, wait_for, with_tensors
from .decoded import DecodedBlocks
from .device import CPU, on_device
from .filters import RowFilter
from .group_memory import GroupMemory, group_memory, kept
from .loads import GroupShape, Load, read_together
from .order import EpochOrder, Mixing, Slice
from .rank_reader import RankReader
from .sequences.padding import trim_batches

GROUP_BYTES, REMOTE_GROUP_BYTES = 16 << 20, 8 << 20  # over a network, a larger first group takes longer to arrive
LENDABLE = 3  # groups that the training loop may hold beside those that are read ahead: of two batches and one it keeps
TRANSFORM = 3  # keeps the transform's random numbers apart from the order's


class TrainStream(IterableDataset[Batch]):
    """One rank's part of the global batches: every R-th row of the epoch, starting with row `rank`.

    Each iteration starts at the position (`epoch`, `step`), and a complete iteration advances the position to the next
    epoch. `transform` is called with every batch and a generator seeded by its position. If `device` is a GPU, batches
    are copied to it ahead of their use. With `weighted`, batches include sample weights.

    Raises UsageError unless the world size divides the lanes, each rank gets rows of every batch, and there is enough
    memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: RowFilter,
        mixing: Mixing,
        rank: Rank = ALONE,
        epoch: int = 0,
        transform: Transform | None = None,
        device: torch.device = CPU,
        weighted: bool = False,
    ) -> None:
        self.reader = RankReader(dataset, mixing, rank, weighted)
        self.rows, self.transform, self.device = rows, transform, device
        self.epoch, self.step = epoch, 0
        self._taken, self._moves = (epoch, 0), 0
        self._order: EpochOrder | None = None
        self._idle: list[GroupMemory] = []
        weakref.finalize(self, kept.extend, self._idle).atexit = False
        purpose = f"{len(self.reader.lanes)} lanes with windows of {mixing.window} blocks need"
        self.reader.reserve(self.memory_needed, purpose, "or a smaller --window")

    def order_of(self, epoch: int) -> EpochOrder:
        """The order of an epoch."""
        return self.reader.order(self.rows.kept(epoch), epoch)

    @property
    def order(self) -> EpochOrder:
        """The order of the current epoch."""
        if self._order is None or self._order.epoch != self.epoch:
            self._order = self.order_of(self.epoch)
        return self._order

    @cached_property
    def group_shape(self) -> GroupShape:
        """The batches that are yielded at once."""
        remote = self.reader.dataset.place.waits_for_network
        return self.reader.fit_group(REMOTE_GROUP_BYTES if remote else GROUP_BYTES)

    @cached_property
    def window_groups(self) -> int:
        """Maximum number of groups that a window has rows for."""
        mixing, steps = self.reader.mixing, self.group_shape.steps
        return -(-self.reader.window_rows * mixing.lanes // (steps * mixing.batch_size)) + 1

    @cached_property
    def slots(self) -> int:
        """Groups in memory: those that a window has rows for, those that are ready, and those in use by training.

        A quarter of a window is ready ahead of its use, which gives two lanes enough time to read their next windows;
        there is also room for the `most_uses` of a window.
        """
        return self.window_groups + max(2, self.window_groups // 4) + LENDABLE

    @property
    def memory_needed(self) -> int:
        """Bytes of the groups in memory, and of one block per thread, both decoded and as stored."""
        return self.reader.bytes_for(self.slots * self.group_shape.rows, blocks_a_thread=2)

    @property
    def blocks(self) -> DecodedBlocks:
        """The blocks that this rank reads."""
        return self.reader.blocks

    def read_ahead(self) -> None:
        """Request the next blocks of an object store now, so that they arrive while the model is built."""
        if self.reader.ahead:
            self.reader.read_ahead(self.order, self.step, partial(self.order_of, self.epoch + 1))

    def __len__(self) -> int:
        return self.order.steps - self.step

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was consumed, and everything that determines the order of the rows."""
        epoch, step = self._taken
        return {"epoch": epoch, "step": step, "order": self._depends_on}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position, at any world size. The next iteration starts there; a running iteration raises an error.

        Raises UsageError for the state of a stream with a different order, e.g. another dataset or batch size.
        """
        try:
            epoch, step, given = int(state["epoch"]), int(state["step"]), dict(state["order"])
        except (KeyError, TypeError, ValueError):
            raise UsageError("this is not the state of a stream; pass the result of its state_dict()") from None
        for name, own in self._depends_on.items():
            if given.get(name) != own:
                raise UsageError(
                    f"the state belongs to a stream with {name}={given.get(name)}, but this stream has {name}={own}; "
                    "open this stream with the same arguments"
                )
        self.move(epoch, step)

    def move(self, epoch: int, step: int) -> None:
        """Make the next iteration start after `step` steps of an epoch."""
        self.epoch, self.step = epoch, step
        self._taken = (epoch, step)
        self._moves += 1

    @cached_property
    def _depends_on(self) -> dict[str, Any]:
        """What determines the order of the rows, named as in `fs.stream`; `rows` is a hash of the counts per block."""
        rows = np.ascontiguousarray(self.rows.kept(0), np.int64)
        own = {"dataset": self.reader.dataset.identity, "rows": content_hash(rows.data)[:16]}
        return own | asdict(self.reader.mixing)

    def __iter__(self) -> Iterator[Batch]:
        order, reader, moves = self.order, self.reader, self._moves
        self._taken = (self.epoch, self.step)
        memory = self._idle.pop() if self._idle else group_memory(reader.specs, self.slots, self.group_shape.rows)
        try:
            with reader.start_epoch(order, self.step, partial(self.order_of, order.epoch + 1)) as threads:
                batches = on_device(_EpochReading(self, order, memory, threads).batches(), self.device)
                for step, batch in enumerate(batches, self.step + 1):
                    self._taken = (order.epoch, step)
                    yield batch
                    if self._moves != moves:
                        raise UsageError("the stream was moved during this iteration; start a new one")
        finally:
            memory.reclaim()
            self._idle.append(memory)
        self.epoch, self.step = order.epoch + 1, 0
        self._taken = (self.epoch, self.step)


@dataclass(eq=False)
class _Reads:
    """The `jobs` that read a window, and the group after those that it has rows for."""

    stop: int
    jobs: Sequence[Future[None]]

    def wait(self) -> None:
        """Wait for the jobs, once: each of the groups asks."""
        wait_for(self.jobs)
        self.jobs = ()


class _EpochReading:
    """Reads the rest of an epoch, starting at the stream's position."""

    def __init__(
        self, stream: TrainStream, order: EpochOrder, memory: GroupMemory, threads: ThreadPoolExecutor
    ) -> None:
        self.stream, self.order, self.memory, self.threads = stream, order, memory, threads
        self.reader, self.blocks = stream.reader, stream.blocks
        self.groups = self.reader.groups(order, stream.group_shape, stream.step)
        self.slot_of: dict[int, int] = {}
        self.loading: deque[_Reads] = deque()
        self.ready: deque[tuple[int | None, Callable[[], list[Batch]]]] = deque()
        self.held = set(memory.lent)

    def batches(self) -> Iterator[Batch]:
        """The batches, group by group.

        Threads run tasks in the order of submission, and a task waits only for tasks that were submitted before it, so
        everything it waits for has already started.
        """
        try:
            windows = self._mixed_ahead()
            upcoming = next(windows, None)
            for group in range(len(self.groups)):
                while upcoming and self.groups.group_of(upcoming[0][0].first) <= group:
                    while not self._find_slots(upcoming[0]):
                        yield from self._take()
                    self._start(*upcoming)
                    upcoming = next(windows, None)
                self._finish(group)
            while self.ready:
                yield from self._take()
        finally:
            self.ready.clear()  # they refer to this: files would stay open until a collection of cycles

    def _take(self) -> list[Batch]:
        """The next group's batches. A loop that keeps more than a few gets copies, so that reading never waits for
        it."""
        slot, hand_over = self.ready.popleft()
        batches = hand_over()
        self.held &= self.memory.lent
        if len(self.held) >= LENDABLE:
            return [batch._replace(x=with_tensors(batch.x, torch.clone)) for batch in batches]
        if slot is not None:
            self.held.add(slot)
        return batches

    def _mixed_ahead(self) -> Iterator[tuple[list[Load], Future[tuple[np.ndarray, int]]]]:
        """The loads that are read together, with the task that mixes their window: it precedes the reads of the window
        before, so that no thread waits for it."""
        ahead = None
        for loads in read_together(self.order, self.reader.lanes, self.groups, self.stream.window_groups):
            following = loads, self.threads.submit(self._mixed, loads[0].part)
            if ahead:
                yield ahead
            ahead = following
        if ahead:
            yield ahead

    def _mixed(self, part: Slice) -> tuple[np.ndarray, int]:
        """The rows of a slice's window in the order of their use, (uses,) int64, and the number of its rows."""
        return self.reader.mixed_rows(self.order, self.stream.rows, part.lane, part.window)

    def _blocks(self, part: Slice) -> list[int]:
        blocks: list[int] = self.order.window_blocks(part.lane, part.window).tolist()
        return blocks

    def _find_slots(self, loads: list[Load]) -> bool:
        """Find a slot for every group that the loads have rows for. Returns False if too few are free."""
        needed = range(self.groups.group_of(loads[0].first), self.groups.group_of(max(load.last for load in loads)) + 1)
        missing = [group for group in needed if group not in self.slot_of]
        if len(missing) > len(self.memory.free):
            return False
        for group in missing:
            self.slot_of[group] = self.memory.free.popleft()
        return True

    def _start(self, loads: list[Load], mixed: Future[tuple[np.ndarray, int]]) -> None:
        """Make the threads read a window, some blocks each, and copy its rows to their places."""
        groups = [self.groups.groups_of(load) for load in loads]
        slots = [[self.slot_of[group] for group in of_load] for of_load in groups]
        places = self.threads.submit(self._places, loads, mixed, slots)
        shares = self.reader.split(self._blocks(loads[0].part))
        reads = [self.threads.submit(self._read, share, places) for share in shares]
        self.loading.append(_Reads(max(of_load.stop for of_load in groups), reads))

    def _places(
        self, loads: list[Load], mixed: Future[tuple[np.ndarray, int]], slots: list[list[int]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows of a window that the loads use, and where each goes; see `sorted_by_row`."""
        order, count = mixed.result()
        rows = np.concatenate([order[load.part.start : load.part.stop] for load in loads])
        places = np.concatenate([self.groups.places(*one) for one in zip(loads, slots, strict=True)])
        return sorted_by_row(rows, places, count)

    def _read(self, parts: list[tuple[int, slice]], placed: Future[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """Read blocks, each with its range of the window's rows."""
        for block, part in parts:
            values, (rows, places, starts) = self.blocks.rows(block), placed.result()
            inside = slice(starts[part.start], starts[part.stop])
            self.memory.put(values, rows[inside], places[inside], part.start)

    def _finish(self, group: int) -> None:
        """Make batches of a group once all of its reads have finished; in a thread if that takes work."""
        while self.loading and self.loading[0].stop <= group:
            self.loading.popleft()
        slot = self.slot_of.pop(group, None)
        hand_over = partial(self._hand_over, group, slot, [*self.loading])
        early = self.stream.transform is not None or torch.cuda.is_available()
        self.ready.append((slot, start_early(self.threads, hand_over, early)))

    def _hand_over(self, group: int, slot: int | None, awaited: list[_Reads]) -> list[Batch]:
        """A group's batches. It has no slot if the rank has no rows in it, which can happen at the end of an epoch."""
        for reads in awaited:
            reads.wait()
        sizes = self.groups.sizes_of(group)
        whole = as_batch(
            {spec.name: spec.empty(0) for spec in self.reader.specs} if slot is None else self.memory.lend(slot)
        )
        batches, transform = split_rows(whole, sizes), self.stream.transform
        if self.reader.lengths is not None:
            batches = trim_batches(batches)
        first = self.groups.steps_of(group).start
        return batches if transform is None else self._transformed(batches, first, transform)

    def _transformed(self, batches: list[Batch], step: int, transform: Transform) -> list[Batch]:
        keys = self.order.seed, self.order.epoch, self.reader.rank.rank, TRANSFORM
        return [
            transform(batch, torch.Generator().manual_seed(seed_of(*keys, number)))
            for number, batch in enumerate(batches, step)
        ]


@compiled
def sorted_by_row(rows: np.ndarray, places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and their places, both (n,) int64, as (n,) int32 in a stable order by row; and for each of `count` rows, and
    the end, where it starts among them, (count + 1,) int32. A counting sort, because each row occurs about once."""
    starts = np.zeros(count + 1, np.int32)
    for row in rows:
        starts[row + 1] += 1
    for row in range(count):
        starts[row + 1] += starts[row]
    ends = starts.copy()
    sorted_rows, sorted_places = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)
    for i in range(len(rows)):
        row, target = rows[i], ends[rows[i]]
        ends[row] = target + 1
        sorted_rows[target], sorted_places[target] = row, places[i]
    return sorted_rows, sorted_places, starts
