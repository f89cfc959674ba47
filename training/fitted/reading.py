"""Read a shard's rows with their fold codes, some blocks at a time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ...storage.dataset import Dataset
from ...storage.fold_plan import FoldPlan
from ...storage.reader import BlockReader, block_runs


class CodedRows(NamedTuple):
    """Some rows: their features, (rows, channels, values of a channel); labels and sample weights, (rows,), if they
    exist and were requested; and the fold codes in each array of the plan."""

    channels: np.ndarray
    y: np.ndarray | None
    weights: np.ndarray | None
    codes: dict[str, np.ndarray]


def read_coded(
    dataset: Dataset, plan: FoldPlan, shard: int, arrays: Sequence[str], labels: bool = False, weights: bool = False
) -> Iterator[CodedRows]:
    """The rows of a shard in order, with their codes in some arrays of the plan."""
    of_weights = dataset.schema.weights if weights else None
    names = ("x", *["y"] * labels, *[of_weights] * bool(of_weights))
    values, folds = BlockReader(dataset, [name for name in names if name]), BlockReader(plan, arrays)
    for blocks in block_runs(dataset, dataset.layout.blocks_of(shard)):
        rows = values.read(blocks)
        channels = rows["x"].reshape(len(rows["x"]), dataset.schema.sample_shape[0], -1)
        yield CodedRows(channels, rows.get("y"), rows.get(of_weights or ""), folds.read(blocks))
