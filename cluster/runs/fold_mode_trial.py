"""A short trial on the connected Ray cluster to find the faster fold mode."""

import math
from typing import Any

import ray
from ray.exceptions import RayTaskError

from ...storage.errors import FoldstreamError, RunError
from ...storage.places.locate import locate
from ...storage.programs.user_code import read_error_note
from ...training.config import Execution
from ...training.model.row_costs import RowCosts, measure_row_costs
from ...training.run import RunFold, RunFolder, load_job
from ...training.stream.batch import Rank
from .fold_mode import FoldMode, faster_mode


def refine_fold_mode(mode: FoldMode, one: RunFold, models: int, execution: Execution) -> FoldMode:
    """The fold mode on the Ray cluster that is connected: if the memory allows one pass, and there is room for several
    runs at once, a short trial decides which is faster."""
    room = runs_at_once(ray.cluster_resources(), execution.world_size)
    if execution.fold_mode != "auto" or mode.name == "runs" or min(room, models) < 2:
        return mode
    remote = ray.remote(num_cpus=1, num_gpus=int(has_gpus()))(_measure)
    rank = Rank(memory=execution.memory_bytes, cache=execution.cache_bytes)
    try:
        costs = ray.get(remote.remote(str(one.run.root), rank))
    except RayTaskError as error:
        if isinstance(error.cause, FoldstreamError):
            raise error.cause from None
        raise RunError(
            f"--model {one.job.config.model} fails on a batch of the data: {read_error_note(error.cause)}"
        ) from error
    return faster_mode(costs, models, room, one.job.open_data().layout.rows, execution.world_size)


def _measure(run: str, rank: Rank) -> RowCosts:
    """What a row of a run costs, on a machine that has nothing but the run's folder."""
    return measure_row_costs(load_job(RunFolder(locate(run))), rank)


def runs_at_once(resources: dict[str, Any], workers: int) -> int:
    """Number of runs that fit on the cluster at once."""
    return int(min(resources.get("CPU", 0), resources.get("GPU", math.inf)) // workers)


def has_gpus() -> bool:
    """Whether the connected Ray cluster has GPUs; if so, each worker takes one."""
    return bool(ray.cluster_resources().get("GPU", 0))
