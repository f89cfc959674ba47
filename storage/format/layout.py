"""How rows are divided into blocks and shards."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

import numpy as np

BLOCK_BYTES = 2 << 20
SHARD_BYTES = 64 << 20
MINIMUM_BLOCKS = 256  # 8 lanes of 32 blocks
SMALL_BLOCK_BYTES = 64 << 10
FEWEST_BLOCKS = 64  # 8 lanes of 8 blocks, which are shuffled as one
SMALL_BLOCK_ROWS = 16
FEWEST_LANES = 8
MINIMUM_SHARDS = 8


@dataclass(frozen=True)
class Layout:
    """How rows are divided: `block_rows` rows per block, `shard_blocks` blocks per shard; the last may be shorter.

    `parts` are the numbers of rows of parts that were written at different times, or come from different files. Each
    part begins with a new block and a new shard, so the last block and the last shard of any part may be shorter.
    Without `parts`, all rows are one part.
    """

    rows: int
    block_rows: int
    shard_blocks: int
    parts: tuple[int, ...] = ()

    @property
    def shard_rows(self) -> int:
        return self.block_rows * self.shard_blocks

    @property
    def blocks(self) -> int:
        return self._begins.blocks[-1]

    @property
    def shards(self) -> int:
        return self._begins.shards[-1]

    @cached_property
    def _begins(self) -> _Begins:
        rows = self.parts or (self.rows,)
        blocks = [math.ceil(part / self.block_rows) for part in rows]
        shards = [math.ceil(part / self.shard_rows) for part in rows]
        return _Begins(*([0, *accumulate(counts)] for counts in (rows, blocks, shards)))

    def part_of(self, shard: int) -> int:
        """The part that a shard belongs to."""
        return bisect_right(self._begins.shards, shard) - 1

    def of_part(self, part: int) -> Layout:
        """The layout of a part by itself."""
        begins = self._begins.rows
        return Layout(begins[part + 1] - begins[part], self.block_rows, self.shard_blocks)

    def shard_in_part(self, shard: int) -> int:
        """The number of a shard among those of its part."""
        return shard - self._begins.shards[self.part_of(shard)]

    def shard_of(self, block: int) -> int:
        """The shard that contains a block."""
        part = bisect_right(self._begins.blocks, block) - 1
        return self._begins.shards[part] + (block - self._begins.blocks[part]) // self.shard_blocks

    def block_range(self, block: int) -> tuple[int, int]:
        """The first row of a block, and the row after its last."""
        part = bisect_right(self._begins.blocks, block) - 1
        start = self._begins.rows[part] + (block - self._begins.blocks[part]) * self.block_rows
        return start, min(start + self.block_rows, self._begins.rows[part + 1])

    def joined(self, blocks: Sequence[int]) -> list[slice]:
        """The slice of each block's rows in a buffer that holds the rows of `blocks` one block after another."""
        ends = [0, *accumulate(stop - start for start, stop in map(self.block_range, blocks))]
        return [slice(start, stop) for start, stop in pairwise(ends)]

    def shard_range(self, shard: int) -> tuple[int, int]:
        """The first row of a shard, and the row after its last."""
        part = self.part_of(shard)
        start = self._begins.rows[part] + (shard - self._begins.shards[part]) * self.shard_rows
        return start, min(start + self.shard_rows, self._begins.rows[part + 1])

    def blocks_of(self, shard: int) -> range:
        """The blocks of a shard."""
        part = self.part_of(shard)
        first = self._begins.blocks[part] + (shard - self._begins.shards[part]) * self.shard_blocks
        return range(first, min(first + self.shard_blocks, self._begins.blocks[part + 1]))

    def block_starts(self) -> np.ndarray:
        """The first row of every block, (blocks,) int64."""
        return np.concatenate(
            [np.arange(start, stop, self.block_rows, dtype=np.int64) for start, stop in pairwise(self._begins.rows)]
        )

    def block_sizes(self) -> np.ndarray:
        """The number of rows of every block, (blocks,) int64."""
        return np.diff(self.block_starts(), append=self.rows)

    def blocks_at(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The blocks that contain the given rows, and the rows' places in them, each (rows,) int64."""
        begins = self._begins
        parts = np.searchsorted(begins.rows, rows, side="right") - 1
        blocks, places = np.divmod(rows - np.array(begins.rows)[parts], self.block_rows)
        return blocks + np.array(begins.blocks)[parts], places

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON, as earlier versions wrote it unless there are parts."""
        return {name: value for name, value in asdict(self).items() if name != "parts" or value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "parts": tuple(value.get("parts", ()))})


class _Begins(NamedTuple):
    """The first row, block and shard of each part, and after them the numbers of all rows, blocks and shards."""

    rows: list[int]
    blocks: list[int]
    shards: list[int]


def choose_layout(rows: int, row_bytes: int, padded: bool = False) -> Layout:
    """Choose blocks of about 2 MB and shards of about 64 MB of `x`, or smaller ones for a small dataset.

    There are at least 256 blocks, so that each of 8 lanes has 32 to mix, unless that would make them smaller than
    64 KB, or if rows are `padded` 2 MB, since padding is stored in next to no space. In that case there are up to 64
    blocks of 16 rows or more: a dataset this small is shuffled as a whole. There are at least 8 shards, so that several
    workers can share the work.
    """
    fewest = max(math.ceil(rows / FEWEST_BLOCKS), min(SMALL_BLOCK_ROWS, rows // FEWEST_LANES))
    small = min(fewest, (BLOCK_BYTES if padded else SMALL_BLOCK_BYTES) // row_bytes)
    block_rows = max(1, min(BLOCK_BYTES // row_bytes, max(rows // MINIMUM_BLOCKS, small)))
    return layout_of_blocks(rows, row_bytes, block_rows)


def layout_of_blocks(rows: int, row_bytes: int, block_rows: int, parts: tuple[int, ...] = ()) -> Layout:
    """Choose shards of about 64 MB of `x` for blocks of so many rows; at least 8 of them if there are enough blocks."""
    blocks = math.ceil(rows / block_rows)
    most = math.ceil(blocks / MINIMUM_SHARDS)
    if math.ceil(blocks / most) < MINIMUM_SHARDS:  # of a few blocks
        most = max(1, blocks // MINIMUM_SHARDS)
    shard_blocks = min(math.ceil(SHARD_BYTES / (block_rows * row_bytes)), most)
    return Layout(rows, block_rows, shard_blocks, parts)
