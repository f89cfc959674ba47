"""Blocks that fit foreign chunks: a block is made of whole chunks, or divides a large one, so that each chunk is
decoded once an epoch, or as rarely as possible."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ...storage.foreign.chunks import is_divisible
from ...storage.foreign.format import Chunked, Description, chunk_rows
from ...storage.format.layout import BLOCK_BYTES, FEWEST_BLOCKS, Layout, choose_layout, layout_of_blocks

MOST_PARTS = 64  # each is a folder of its own
LARGEST = 2  # times the usual size of a block, for one that is a whole chunk


def fitting_layout(rows: int, row_bytes: int, array: Description | None) -> Layout:
    """The layout of a dataset whose features are those of a foreign array; the usual one for arrays that can be read in
    any ranges."""
    usual = choose_layout(rows, row_bytes)
    bands = [] if array is None or _is_one_piece(array) else chunk_rows(array)
    if len(bands) < 2:
        return layout_of_blocks(rows, row_bytes, _divisor(rows, usual.block_rows)) if bands else usual
    length = max(bands)
    many = length * FEWEST_BLOCKS <= rows and length * row_bytes <= LARGEST * BLOCK_BYTES
    if length <= usual.block_rows:
        block_rows = usual.block_rows // length * length
    else:
        block_rows = length if many else _divisor(length, usual.block_rows)
    parts = _parts(bands)
    aligned = 1 < len(parts) <= MOST_PARTS and min(parts) >= block_rows
    return layout_of_blocks(rows, row_bytes, block_rows, parts if aligned else ())


def _is_one_piece(array: Description) -> bool:
    """Whether any rows can be read, as all of them lie in one chunk that is not compressed."""
    return isinstance(array, Chunked) and is_divisible(array) and len(array.bands) == 2


def _divisor(length: int, wanted: int) -> int:
    """The divisor of a length that is closest to the wanted one, unless none is near: then a chunk is shared by two
    blocks."""
    near = [one for one in range(max(1, wanted // 2), 2 * wanted + 1) if length % one == 0]
    return min(near, key=lambda one: abs(one - wanted)) if near else wanted


def _parts(bands: Sequence[int]) -> tuple[int, ...]:
    """The numbers of rows between the bands that are shorter than others, such as the last row group of each file."""
    length = max(bands)
    ends = [number + 1 for number, rows in enumerate(bands[:-1]) if rows != length]
    starts = np.concatenate([[0], np.cumsum(bands)])
    return tuple(int(starts[stop] - starts[start]) for start, stop in pairwise([0, *ends, len(bands)]))
