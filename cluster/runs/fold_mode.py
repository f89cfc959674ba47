"""The fold mode: train all folds in one pass over the data, or each fold in a separate run."""

import math
from typing import Any, NamedTuple

import ray
import torch
from ray.exceptions import RayTaskError

from ...storage.dataset import Dataset
from ...storage.errors import FoldstreamError, RunError, UsageError
from ...storage.machine import this_machine
from ...training.config import Execution, TrainConfig
from ...training.model.optimizer import MODEL_BYTES
from ...training.model.row_costs import RowCosts, measure_row_costs
from ...training.run import RunJob
from ...training.stream.batch import Rank
from ...training.stream.filters import EveryRow
from ...training.stream.fused import FusedStream
from ...training.stream.order import Mixing
from ...training.stream.single import TrainStream
from ...training.zoo.user_code import read_error_note


class FoldMode(NamedTuple):
    """`fused`: all folds from one pass over the data; `runs`: each by itself. And why."""

    name: str
    reason: str


def choose_fold_mode(
    dataset: Dataset, models: int, config: TrainConfig, execution: Execution, parameters: int
) -> FoldMode:
    """The fold mode for `models` models of so many parameters.

    Raises UsageError if the workers' streams do not fit into the memory that they may use.
    """
    mixing = Mixing(config.batch_size, config.lanes, config.window, config.seed)
    rank, every = Rank(0, execution.world_size, execution.memory_bytes), EveryRow(dataset.layout)
    mode = FoldMode(execution.fold_mode, "as requested")
    needed = models * parameters * MODEL_BYTES
    if mode.name == "auto":
        mode = FoldMode("fused", "all folds in one pass over the data")
        if needed > model_memory(execution.world_size):
            mode = FoldMode("runs", f"{models} models at once would need {needed / 1e9:,.1f} GB in each worker")
    if mode.name == "fused":
        try:
            FusedStream(dataset, dict.fromkeys(range(models), every), mixing, rank)
        except UsageError:
            if execution.fold_mode == "fused":
                raise
            mode = FoldMode("runs", "there is not enough memory to train all folds in one pass")
    if mode.name == "runs":
        TrainStream(dataset, every, mixing, rank)
    return mode


def model_memory(workers: int) -> int:
    """Bytes available to the models of a worker: half of its GPU's memory, or half of its part of this machine's."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory) // 2
    return this_machine().memory // workers // 2


def refine_fold_mode(mode: FoldMode, job: RunJob, models: int, execution: Execution) -> FoldMode:
    """The fold mode on the Ray cluster that is connected: if the memory allows one pass, and there is room for several
    runs at once, a short trial decides which is faster."""
    room = runs_at_once(ray.cluster_resources(), execution.world_size)
    if execution.fold_mode != "auto" or mode.name == "runs" or min(room, models) < 2:
        return mode
    remote = ray.remote(num_cpus=1, num_gpus=int(has_gpus()))(measure_row_costs)
    rank = Rank(memory=execution.memory_bytes, cache=execution.cache_bytes)
    try:
        costs = ray.get(remote.remote(job, rank))
    except RayTaskError as error:
        if isinstance(error.cause, FoldstreamError):
            raise error.cause from None
        raise RunError(
            f"--model {job.config.model} fails on a batch of the data: {read_error_note(error.cause)}"
        ) from error
    return faster_mode(costs, models, room, job.open_data().rows, execution.world_size)


def runs_at_once(resources: dict[str, Any], workers: int) -> int:
    """How many runs fit on the cluster at once."""
    return int(min(resources.get("CPU", 0), resources.get("GPU", math.inf)) // workers)


def has_gpus() -> bool:
    """Whether the connected Ray cluster has GPUs; if so, each worker takes one."""
    return bool(ray.cluster_resources().get("GPU", 0))


def faster_mode(costs: RowCosts, models: int, room: int, rows: int, workers: int) -> FoldMode:
    """What is faster where `room` runs fit at once, by what a row costs a worker: it reads while it trains.

    One pass reads once for all models but has the workers of a single run; separate runs read once for each model.
    """
    one_pass = max(models * costs.training, costs.reading) * rows / workers
    at_once = math.ceil(models / room) * max(costs.training, costs.reading) * rows / workers
    reason = (
        f"an epoch of all models takes about {one_pass:,.1f} s in one pass, {at_once:,.1f} s as {room} runs at once"
    )
    return FoldMode("fused" if one_pass <= at_once else "runs", reason)
