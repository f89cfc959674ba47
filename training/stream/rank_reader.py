"""How one rank reads shuffled rows: its lanes, the orders of the epochs, its memory limit, and the decoded blocks.

Used by both streams, the one for a single model and the one for several models.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np

from ...storage.blocks.ahead import AHEAD_BYTES
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.format.sequences import LENGTH
from ...storage.places.block_cache import BlockCache
from .batch import Rank, column_specs, open_cache, reading_threads
from .decoded import DecodedBlocks
from .filters import RowFilter
from .loads import GroupShape, RankGroups, blocks_in_order, fit_group
from .order import EpochOrder, Mixing, check_mixing, lanes_of
from .sequences.buckets import bucketed, targets_of

LENGTH_BYTES = 32 << 20  # of the lengths of sequences that stay decoded


class RankReader:
    """One rank's access to a dataset whose rows are shuffled.

    Raises UsageError unless the world size divides the lanes, and each rank gets rows of every batch.
    """

    def __init__(self, dataset: Dataset, mixing: Mixing, rank: Rank, weighted: bool) -> None:
        check_mixing(mixing, rank.world_size)
        self.dataset, self.mixing, self.rank = dataset, mixing, rank
        self.lanes = lanes_of(rank.rank, rank.world_size, mixing.lanes)
        self.specs = column_specs(dataset, weighted)
        self.left = 0
        """Bytes left for decoded blocks, beside the batches and windows in memory."""
        self.ahead = 0
        """Bytes of blocks that are requested from an object store ahead of their use."""

    @property
    def row_bytes(self) -> int:
        return sum(spec.row_bytes for spec in self.specs)

    @property
    def window_rows(self) -> int:
        """Maximum number of rows of a window."""
        return self.mixing.window * self.dataset.layout.block_rows

    @cached_property
    def sizes(self) -> np.ndarray:
        """Rows of every block, (blocks,) int64: one array for all orders."""
        return self.dataset.layout.block_sizes()

    def order(self, kept: np.ndarray, epoch: int) -> EpochOrder:
        """The order of an epoch; `kept` is the number of rows of each block that pass the filter, (blocks,) int64."""
        mixing = self.mixing
        # Windows of different lengths have different quantiles of lengths, which fill batches with padding.
        whole_lanes = self.lengths is not None and len(self.sizes) <= mixing.lanes * mixing.window
        given = mixing.lanes, mixing.window, mixing.batch_size, mixing.seed, epoch, mixing.least
        return EpochOrder(self.sizes, kept, *given, whole_lanes)

    def fit_group(self, most: int, multiple: int = 1) -> GroupShape:
        """Batches that are yielded at once: at most `most` bytes and a quarter of a window. Their number is a multiple
        of `multiple`."""
        mixing, quarter = self.mixing, self.window_rows // 4
        most_rows = most // self.row_bytes
        return fit_group(most_rows, quarter, mixing.batch_size, mixing.lanes, self.rank.world_size, multiple)

    def groups(self, order: EpochOrder, shape: GroupShape, step: int) -> RankGroups:
        """The groups of the rest of an epoch."""
        return RankGroups(order.batches, shape, step, self.rank.rank, self.rank.world_size)

    def bytes_for(self, rows: int, blocks_a_thread: int) -> int:
        """Bytes of `rows` rows, and of `blocks_a_thread` blocks for every thread, which also holds the image files of
        one if they are stored as such."""
        threads = self.rank.thread_count(self.dataset)
        blocks = blocks_a_thread * threads
        return (rows + blocks * self.dataset.layout.block_rows) * self.row_bytes + threads * self._longest_files

    @cached_property
    def _longest_files(self) -> int:
        """The bytes of the longest block of image files, if they are stored as such; unknown for a planned dataset."""
        if not (self.dataset.schema.encoded and self.dataset.manifest.shards):
            return 0
        return int(self.dataset.index.lengths("x").max())

    def reserve(self, needed: int, purpose: str, remedy: str) -> None:
        """Reserve memory; the rest of it keeps blocks decoded. Raises UsageError if the limit is too low."""
        bound = self.rank.memory_bound(needed)
        if bound < needed:
            given = "" if self.rank.memory else " (an eighth of the machine's memory, shared with the other workers)"
            raise UsageError(
                f"--memory {bound:,} bytes{given}: {purpose} {needed:,} per worker; use at least this much, {remedy}"
            )
        self.left = bound - needed
        if self.dataset.place.waits_for_network:
            self.ahead = min(AHEAD_BYTES, self.left // 2)
            self.left -= self.ahead

    @cached_property
    def blocks(self) -> DecodedBlocks:
        """The blocks, as many of which stay decoded from epoch to epoch as the memory limit allows."""
        return DecodedBlocks(self.dataset, self.specs, self.left, self.cache)

    @cached_property
    def cache(self) -> BlockCache | None:
        """The local cache of blocks from an object store."""
        return open_cache(self.dataset, self.rank)

    def read_ahead(self, order: EpochOrder, step: int, following: Callable[[], EpochOrder]) -> None:
        """Request the blocks of an object store from now on in the order of this epoch, from a step on, and of the
        `following` one."""
        if self.ahead:
            self.blocks.follow(self._upcoming(order, step, following), self.ahead)

    def start_epoch(
        self, order: EpochOrder, step: int, following: Callable[[], EpochOrder]
    ) -> AbstractContextManager[ThreadPoolExecutor]:
        """The threads that read an epoch from a step on. The `following` one tells the cache when it will need a block
        again."""
        self.read_ahead(order, step, following)
        if self.cache:
            order = following()
            count = len(order.sizes)
            self.cache.needed[order.blocks] = np.arange(count) + order.epoch * count
        return reading_threads(self.dataset, self.rank)

    def _upcoming(self, order: EpochOrder, step: int, following: Callable[[], EpochOrder]) -> Iterator[int]:
        """The blocks of the rest of an epoch, then those of the next one, in the order in which they are read first."""
        yield from blocks_in_order(order, self.lanes, step)
        yield from blocks_in_order(following(), self.lanes, 0)

    @cached_property
    def lengths(self) -> DecodedBlocks | None:
        """The lengths of sequences, by which their rows are arranged."""
        if self.dataset.schema.tokens is None:
            return None
        return DecodedBlocks(self.dataset, (self.dataset.spec(LENGTH),), LENGTH_BYTES, None)

    def mixed_rows(self, order: EpochOrder, rows: RowFilter, lane: int, window: int) -> tuple[np.ndarray, int]:
        """The rows of a window that a filter selects in the order of their use, (uses,) int64, and the number of all of
        its rows."""
        blocks = order.window_blocks(lane, window).tolist()
        used = rows.mask(blocks, order.epoch)
        mixed = order.mixed_rows(lane, window, used)
        if self.lengths is not None:
            targets = targets_of(order.steps_of(lane, window, len(mixed)), order.seed, order.epoch)
            mixed = bucketed(mixed, self.lengths.column(LENGTH, blocks), targets)
        return mixed, len(used)

    def split(self, blocks: Sequence[int]) -> list[list[tuple[int, slice]]]:
        """A window's blocks, each with its range of the window's rows, split among the threads."""
        parts = list(zip(blocks, self.dataset.layout.joined(blocks), strict=True))
        count = self.rank.thread_count(self.dataset)
        return [parts[first::count] for first in range(min(count, len(parts)))]
