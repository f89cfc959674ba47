"""The fold mode: whether to train all folds in one pass over the data, or each fold in a separate run."""

import math
from typing import NamedTuple

import torch

from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.machine import size_text, this_machine
from ...training.config import Execution, TrainConfig
from ...training.model.optimizer import MODEL_BYTES
from ...training.model.row_costs import RowCosts
from ...training.run import mixing_of
from ...training.stream.batch import Rank
from ...training.stream.filters import EveryRow
from ...training.stream.fused import FusedStream
from ...training.stream.single import TrainStream


class FoldMode(NamedTuple):
    """`fused` (all folds in one pass over the data) or `runs` (each fold separately), and the reason."""

    name: str
    reason: str


def choose_fold_mode(
    dataset: Dataset, models: int, config: TrainConfig, execution: Execution, parameters: int, beside: int = 1
) -> FoldMode:
    """Choose the fold mode for `models` models of `parameters` parameters each, which a worker would train in one pass.
    `beside` runs share the machine.

    Raises UsageError if the workers' streams do not fit into the available memory.
    """
    mixing = mixing_of(config)
    rank, every = Rank(0, execution.world_size, execution.memory_bytes), EveryRow(dataset.layout)
    mode = FoldMode(execution.fold_mode, "as requested")
    needed = models * parameters * MODEL_BYTES
    if mode.name == "auto":
        mode = FoldMode("fused", "all folds in one pass over the data")
        if needed > model_memory(execution.world_size * beside):
            mode = FoldMode("runs", f"{models} models at once would need {size_text(needed)} in each worker")
    if mode.name == "fused":
        try:
            FusedStream(dataset, dict.fromkeys(range(models), every), mixing, rank)
        except UsageError:
            if execution.fold_mode == "fused":
                raise
            mode = FoldMode("runs", "not enough memory to train all folds in one pass")
    if mode.name == "runs":
        TrainStream(dataset, every, mixing, rank)
    return mode


def model_memory(workers: int) -> int:
    """Bytes available to a worker's models: half of its GPU's memory, or half of its share of this machine's memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory) // 2
    return this_machine().memory // workers // 2


def faster_mode(costs: RowCosts, models: int, room: int, rows: int, workers: int) -> FoldMode:
    """The faster mode if `room` runs fit at once, given the costs of a row for a worker, which reads while it trains.

    One pass reads once for all models but only has the workers of a single run; separate runs read once per model.
    """
    one_pass = max(models * costs.training, costs.reading) * rows / workers
    at_once = math.ceil(models / room) * max(costs.training, costs.reading) * rows / workers
    times = f"{one_pass:,.1f} s in one pass, {at_once:,.1f} s with {room} runs at once"
    return FoldMode("fused" if one_pass <= at_once else "runs", f"an epoch of all models takes about {times}")
