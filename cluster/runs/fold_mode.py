"""Whether all folds are trained from one pass over the data, or each in a run of its own."""

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
from ...training.engine.checkpoint_policy import EACH_EPOCH, CheckpointPolicy
from ...training.model.optimizer import MODEL_BYTES
from ...training.model.trial import Costs, try_rows
from ...training.run import RunJob
from ...training.stream.batch import Rank
from ...training.stream.filters import EveryRow
from ...training.stream.fused import FusedStream
from ...training.stream.order import Mixing
from ...training.stream.single import TrainStream
from ...training.zoo.user_code import noted

FOLD_MODES = ("auto", "fused", "runs")


@dataclass(frozen=True)
class Execution:
    """How a run is carried out, which does not change its result: workers, bytes of memory and of cache for each one's
    stream, attempts beyond the first at what fails, seconds after which a silent worker counts as hung, checkpoints."""

    workers: int
    memory: int | None = None
    cache: int | None = None
    max_retries: int = 2
    hang_seconds: float = 30.0
    fold_mode: str = "auto"
    """fused: all folds from one pass over the data; runs: each by itself; auto: fused, if the memory suffices."""
    checkpoints: CheckpointPolicy = EACH_EPOCH


def choose_fold_mode(
    dataset: Dataset, models: int, config: TrainConfig, execution: Execution, parameters: int
) -> tuple[str, str]:
    """`fused` or `runs` for so many `models` of so many parameters, and why.

    Raises UsageError if the workers' streams cannot do with the memory that they may use.
    """
    check_choice("--fold-mode", execution.fold_mode, FOLD_MODES)
    mixing = Mixing(config.batch_size, config.lanes, config.window, config.seed)
    place, every = Rank(0, execution.workers, execution.memory), EveryRow(dataset.layout)
    mode, reason = execution.fold_mode, "as it was told"
    needed = models * parameters * MODEL_BYTES
    if mode == "auto":
        mode, reason = "fused", "all folds from one pass over the data"
        if needed > model_memory(execution.workers):
            mode, reason = "runs", f"{models} models at once need {needed / 1e9:,.1f} GB in each worker"
    if mode == "fused":
        try:
            FusedStream(dataset, dict.fromkeys(range(models), every), mixing, place)
        except UsageError:
            if execution.fold_mode == "fused":
                raise
            mode, reason = "runs", "the memory does not suffice for one pass for all folds"
    if mode == "runs":
        TrainStream(dataset, every, mixing, place)
    return mode, reason


def model_memory(workers: int) -> int:
    """Bytes that a worker's models may have: half of its GPU's, or of its part of this machine's."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory) // 2
    return this_machine().memory // workers // 2


def settle_fold_mode(mode: str, reason: str, job: RunJob, models: int, execution: Execution) -> tuple[str, str]:
    """The fold mode on the Ray cluster that is connected, and why: if the memory allows one pass, and there is room for
    several runs at once, a short trial decides what is faster."""
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
    """How many runs the nodes have room for."""
    return int(min(resources.get("CPU", 0), resources.get("GPU", math.inf)) // workers)


def has_gpus() -> bool:
    """Whether the Ray cluster that is connected has GPUs: then each worker takes one."""
    return bool(ray.cluster_resources().get("GPU", 0))


def faster_mode(costs: Costs, models: int, room: int, rows: int, workers: int) -> tuple[str, str]:
    """What is faster where `room` runs fit at once, by what a row costs a worker: it reads while it trains.

    One pass reads once for all models and has the workers of one run; runs read for each model by itself.
    """
    one_pass = max(models * costs.training, costs.reading) * rows / workers
    at_once = math.ceil(models / room) * max(costs.training, costs.reading) * rows / workers
    told = (
        f"an epoch of all models takes about {one_pass:,.1f} s from one pass, {at_once:,.1f} s by {room} runs at once"
    )
    return ("fused" if one_pass <= at_once else "runs"), told
