"""Exact medians of the training rows of each model of a fold plan, out of core and in bounded memory.

Numbers are mapped to unsigned integers of the same order, and the two middle ones are found digit by digit (radix
selection): a pass over the data counts, for each model and channel, the values of the next digit among the numbers that
share the digits found so far. Two passes suffice for float32, or four with many columns, to reduce memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...storage.compiled import compiled
from ...storage.dataset import Dataset, open_dataset
from ...storage.fold_plan import FoldPlan, ModelRows, open_plan
from ...storage.tasks import Executor, Progress, ordered_results
from .reading import by_channel, read_coded

COUNTS_BYTES = 64 << 20  # of a task's result


@dataclass(frozen=True, eq=False)
class DigitTask:
    """Count the digits of one shard.

    `found` (2 · models, channels) uint64 contains the digits found so far of each model's lower and upper middle value,
    and the next digit begins `shift` bits from the right.
    """

    dataset: str
    plan: str
    shard: int
    models: tuple[ModelRows, ...]
    found: np.ndarray
    shift: int
    bits: int


def count_shard(task: DigitTask) -> np.ndarray:
    """Count the values of a shard by their next digit, (2 · models, channels, digits) int64."""
    dataset, plan = open_dataset(task.dataset), open_plan(task.plan)
    names = tuple(dict.fromkeys(model.array for model in task.models))
    trained = [np.isin(np.arange(plan.codes(model.array)), model.train) for model in task.models]
    counts = np.zeros((*task.found.shape, 1 << task.bits), np.int64)
    array = dataset.schema.gaps_in
    for rows_of, codes in read_coded(dataset, plan, task.shard, (array,), names):
        channels = by_channel(rows_of[array])
        keys, there = as_keys(channels), np.isfinite(channels)
        for number, model in enumerate(task.models):
            rows = trained[number][codes[model.array]]
            for target in (2 * number, 2 * number + 1):
                count_digits(keys, there, rows, task.found[target], task.shift, task.bits, counts[target])
    return counts


@compiled
def count_digits(
    keys: np.ndarray,
    there: np.ndarray,
    rows: np.ndarray,
    found: np.ndarray,
    shift: int,
    bits: int,
    counts: np.ndarray,
) -> None:
    """Count the next digit of `keys` (rows, groups, columns), for rows and values that are in `there` and begin with
    the digits `found`, (groups,), in `counts`, (groups, digits)."""
    mask = np.uint64((1 << bits) - 1)
    right, width = np.uint64(shift), np.uint64(bits)
    for row in range(keys.shape[0]):
        if not rows[row]:
            continue
        for group in range(keys.shape[1]):
            for column in range(keys.shape[2]):
                digits = keys[row, group, column] >> right
                if there[row, group, column] and digits >> width == found[group]:
                    counts[group, digits & mask] += 1


def as_keys(values: np.ndarray) -> np.ndarray:
    """Map numbers to uint64 values of the same order; same shape."""
    if values.dtype.kind != "f":
        low = np.iinfo(values.dtype).min
        return (values.astype(np.int64) - low).astype(np.uint64) if low > -(2**63) else _flipped(values)
    bits = values.view(f"u{values.dtype.itemsize}")
    top = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    keys: np.ndarray = np.where(bits & top, ~bits, bits | top).astype(np.uint64)
    return keys


def _flipped(values: np.ndarray) -> np.ndarray:
    keys: np.ndarray = values.view(np.uint64) ^ np.uint64(1 << 63)
    return keys


def from_keys(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The inverse of `as_keys`, as float64."""
    if dtype.kind != "f":
        low = int(np.iinfo(dtype).min)
        return np.array([int(key) + low for key in keys.ravel()], np.float64).reshape(keys.shape)
    bits = keys.astype(f"u{dtype.itemsize}")
    top = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return np.where(bits & top, bits ^ top, ~bits).view(dtype).astype(np.float64)


def measure_medians(
    dataset: Dataset,
    plan: FoldPlan,
    models: Sequence[ModelRows],
    executor: Executor,
    progress: Progress,
) -> np.ndarray:
    """The medians of the rows that each model trains on, whatever their weights, (models, channels) float64; 0 for a
    channel without values. For images with columns beside them, the channels are those columns."""
    spec = dataset.spec(dataset.schema.gaps_in)
    dtype, found = np.dtype(spec.dtype), np.zeros((2 * len(models), spec.row_shape[0]), np.uint64)
    width, ranks = 8 * dtype.itemsize, np.zeros(found.shape, np.int64)
    numbers = ranks[::2]
    bits = min(width, 16 if ranks.size << 19 <= COUNTS_BYTES else 8)
    for shift in range(width - bits, -1, -bits):
        tasks = [
            DigitTask(dataset.reference, str(plan.place), shard, tuple(models), found, shift, bits)
            for shard in range(dataset.layout.shards)
        ]
        total = np.zeros((*ranks.shape, 1 << bits), np.int64)
        for of_shard in ordered_results(executor, count_shard, tasks, "medians", progress):
            total += of_shard
        if shift == width - bits:  # no digit is known yet: all values are counted
            numbers = total[::2].sum(axis=-1)
            ranks = np.stack([np.maximum(numbers - 1, 0) // 2, numbers // 2], axis=1).reshape(ranks.shape)
        up_to = np.cumsum(total, axis=-1)
        digit = np.minimum((up_to <= ranks[..., None]).sum(axis=-1), (1 << bits) - 1)
        before = np.take_along_axis(up_to - total, digit[..., None], axis=-1)[..., 0]
        ranks, found = ranks - before, (found << np.uint64(bits)) | digit.astype(np.uint64)
    middle = from_keys(found, dtype).reshape(len(numbers), 2, -1)
    return np.where(numbers > 0, middle[:, 0] + (middle[:, 1] - middle[:, 0]) / 2, 0.0)
