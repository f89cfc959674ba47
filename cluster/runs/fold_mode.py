"""The fold mode: train all folds in one pass over the data, or each fold in a separate run."""

import math
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from ...storage.dataset import Dataset
from ...storage.errors import FoldstreamError, RunError, UsageError, check_choice
from ...storage.machine import this_machine
from ...training.config import TrainConfig
from ...training.engine.saving import EACH_EPOCH, Saving
from ...training.model.optimizer import MODEL_BYTES
from ...training.model.trial import Costs, try_rows
from ...training.run import RunJob
from ...training.stream.batch import Rank
from ...training.stream.filters import EveryRow
from ...training.stream.fused import FusedStream
from ...training.stream.single import Mixing, TrainStream
from ...training.zoo.user_code import noted

FOLD_MODES = ("auto", "fused", "runs")


@dataclass(frozen=True)
class ExecutionOptions:
    """How to execute a run. None of it changes the result: number of workers; bytes of memory and of cache for each
    worker's stream; retries of what fails; seconds after which a silent worker counts as hung; checkpoints."""

    workers: int
    memory: int | None = None
    cache: int | None = None
    max_retries: int = 2
    hang_seconds: float = 30.0
    fold_mode: str = "auto"
    """'fused': all folds in one pass over the data; 'runs': each fold separately; 'auto': fused if memory allows."""
    saving: Saving = EACH_EPOCH


def choose_fold_mode(
    dataset: Dataset, models: int, config: TrainConfig, execution: ExecutionOptions, parameters: int
) -> tuple[str, str]:
    """Choose `fused` or `runs` for a number of models with this many parameters each. Returns the mode and the reason.

    Raises UsageError if the workers' streams do not fit into the memory they may use.
    """
    check_choice("--fold-mode", execution.fold_mode, FOLD_MODES)
    mixing = Mixing(config.batch_size, config.lanes, config.window, config.seed)
    rank, every = Rank(0, execution.workers, execution.memory), EveryRow(dataset.layout)
    mode, reason = execution.fold_mode, "as requested"
    needed = models * parameters * MODEL_BYTES
    if mode == "auto":
        mode, reason = "fused", "all folds in one pass over the data"
        if needed > model_memory(execution.workers):
            mode, reason = "runs", f"{models} models at once would need {needed / 1e9:,.1f} GB in each worker"
    if mode == "fused":
        try:
            FusedStream(dataset, dict.fromkeys(range(models), every), mixing, rank)
        except UsageError:
            if execution.fold_mode == "fused":
                raise
            mode, reason = "runs", "not enough memory to train all folds in one pass"
    if mode == "runs":
        TrainStream(dataset, every, mixing, rank)
    return mode, reason


def model_memory(workers: int) -> int:
    """Bytes available to the models of a worker: half of its GPU's memory, or half of its part of this machine's."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory) // 2
    return this_machine().memory // workers // 2


def refine_fold_mode(mode: str, reason: str, job: RunJob, models: int, execution: ExecutionOptions) -> tuple[str, str]:
    """Refine the fold mode on the connected Ray cluster. If the memory allows one pass and several runs fit on the
    cluster at once, a short trial decides which is faster. Returns the mode and the reason."""
    room = runs_at_once(ray.cluster_resources(), execution.workers)
    if execution.fold_mode != "auto" or mode == "runs" or min(room, models) < 2:
        return mode, reason
    remote = ray.remote(num_cpus=1, num_gpus=int(has_gpus()))(try_rows)
    try:
        costs = ray.get(remote.remote(job, Rank(memory=execution.memory, cache=execution.cache)))
    except RayTaskError as error:
        if isinstance(error.cause, FoldstreamError):
            raise error.cause from None
        raise RunError(f"--model {job.config.model} fails on a batch of the data: {noted(error.cause)}") from error
    return faster_mode(costs, models, room, job.open_data().rows, execution.workers)


def runs_at_once(resources: dict[str, Any], workers: int) -> int:
    """How many runs fit on the cluster at once."""
    return int(min(resources.get("CPU", 0), resources.get("GPU", math.inf)) // workers)


def has_gpus() -> bool:
    """Whether the connected Ray cluster has GPUs; if so, each worker takes one."""
    return bool(ray.cluster_resources().get("GPU", 0))


def faster_mode(costs: Costs, models: int, room: int, rows: int, workers: int) -> tuple[str, str]:
    """Choose the faster mode when `room` runs fit at once, from what a row costs a worker, which reads while it trains.

    One pass reads once for all models but has the workers of a single run; separate runs read once for each model.
    """
    one_pass = max(models * costs.training, costs.reading) * rows / workers
    at_once = math.ceil(models / room) * max(costs.training, costs.reading) * rows / workers
    reason = (
        f"an epoch of all models takes about {one_pass:,.1f} s in one pass, {at_once:,.1f} s with {room} runs at once"
    )
    return ("fused" if one_pass <= at_once else "runs"), reason
