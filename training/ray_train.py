"""Ray Train: the one place that knows it. A group of workers trains the folds one after the other."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError

from ..storage.errors import RunError


@dataclass(frozen=True)
class GroupRequest:
    """Train folds of the run at `root` with `workers` workers."""

    root: Path
    folds: tuple[tuple[int, ...], ...]
    """Groups of folds: those of a group are trained together, from one pass over the data."""
    workers: int
    use_gpu: bool
    max_failures: int
    memory: int | None = None
    """Bytes that each worker's stream may hold."""
    cache: int | None = None
    """Bytes of local disk that each may use for blocks of an object store."""


def train_folds(request: GroupRequest) -> None:
    """Train folds with Ray Train on the cluster that is connected, and return when all are done.

    Workers that die are started again from the last checkpoint, `max_failures` times. Raises RunError with the
    workers' own error after that.
    """
    # The controller asks its workers how they are at this interval, and every report waits for it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "root": str(request.root),
            "folds": list(map(list, request.folds)),
            "memory": request.memory,
            "cache": request.cache,
        },
        scaling_config=ScalingConfig(num_workers=request.workers, use_gpu=request.use_gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=str(request.root),
            failure_config=FailureConfig(max_failures=request.max_failures),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        reason = str(error).strip().splitlines()
        raise RunError(
            f"training failed: {reason[-1] if reason else error}; what is finished is kept: once it is mended, run "
            "the same command again"
        ) from error


def _train_worker(config: dict[str, Any]) -> None:
    """What each worker does.

    Imports stand here because Ray's controller loads this module too, and would wait for torch and its friends.
    """
    import torch
    import torch.distributed as dist

    from ..storage.machine import keep_freed_memory
    from .fold_model import is_done
    from .loop import FoldTrainer
    from .process import Process
    from .run import RunFolder, load_job

    context = ray.train.get_context()
    mail = dist.new_group(backend="gloo") if dist.is_initialized() and dist.get_backend() != "gloo" else None
    process = Process(context.get_world_rank(), context.get_world_size(), get_device(), mail)
    if process.device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # Ray sets it to the worker's CPUs
        keep_freed_memory()
    run = RunFolder(Path(config["root"]))
    job = load_job(run)
    for folds in config["folds"]:
        if left := [fold for fold in folds if not is_done(run.fold(fold))]:
            FoldTrainer(job, run, left, process, config["memory"], config["cache"]).train()
        process.wait()
    ray.train.report({"folds": float(len(config["folds"]))})
