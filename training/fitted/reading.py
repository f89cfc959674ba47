"""Read a shard's rows with their fold codes, some blocks at a time."""

from collections.abc import Iterator, Sequence

import numpy as np

from ...storage.blocks.reader import BlockReader, block_runs, cached_reader
from ...storage.dataset import Dataset
from ...storage.fold_plan import FoldPlan

Arrays = dict[str, np.ndarray]


def read_coded(
    dataset: Dataset, plan: FoldPlan, shard: int, names: Sequence[str], codes: Sequence[str]
) -> Iterator[tuple[Arrays, Arrays]]:
    """The rows of a shard in order, some blocks at a time: the named arrays of the dataset, (rows, *row_shape), and
    arrays of fold codes in the plan, (rows,)."""
    values, folds = cached_reader(dataset, names), BlockReader(plan, codes)
    for blocks in block_runs(dataset, dataset.layout.blocks_of(shard)):
        yield values.read(blocks), folds.read(blocks)


def by_channel(values: np.ndarray) -> np.ndarray:
    """Features, (rows, channels, …), or a number for each row, (rows,), as (rows, channels, values of a channel)."""
    rows, channels = (*values.shape, 1)[:2]
    return values.reshape(rows, channels, -1)
