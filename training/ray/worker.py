"""The code that every worker runs, in any process: train the folds of a group that are not done."""

import os

import ray.train

from ...storage.errors import disk_in_words
from ...storage.places.locate import locate
from ...storage.programs.user_code import add_error_notes
from ..engine.loop import FoldTrainer, Heartbeat
from ..engine.process import Process
from ..run import RunFold, RunFolder, has_reached, load_job
from .group import GroupRequest


def train_group(request: GroupRequest, process: Process, heartbeat: Heartbeat = lambda working: None) -> None:
    """Train the folds of a group that have something left to train, on one rank of a group of processes."""
    left = open_folds(request)
    if any(one.job.config.recipe.deterministic for one in left):
        process.use_deterministic_algorithms()
    process.barrier()  # before one of them writes a completion marker
    if left:
        with add_error_notes(), disk_in_words(left[0].run.root):
            FoldTrainer(left, process, request.request, heartbeat, request.until).train()
    ray.train.report({"folds": float(len(request.folds))})


def open_folds(request: GroupRequest) -> list[RunFold]:
    """The folds of a group that have something left to train."""
    runs = {root: RunFolder(locate(root)) for root, _ in request.folds}
    jobs = {root: load_job(run) for root, run in runs.items()}
    every = [RunFold(jobs[root], runs[root], fold) for root, fold in request.folds]
    return [one for one in every if not has_reached(one, request.until)]


def worker_threads() -> int:
    """Number of torch threads of a worker on a CPU. The order of some sums depends on it, so Ray's own choice, the
    number of the worker's cores, is not used."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def torchrun_variables(process: Process, local_rank: int, local_world_size: int, node_rank: int) -> dict[str, str]:
    """The environment variables that torchrun and Accelerate set, which a user's model may read."""
    return {
        "RANK": str(process.rank),
        "WORLD_SIZE": str(process.world_size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "NODE_RANK": str(node_rank),
        "ACCELERATE_TORCH_DEVICE": str(process.device),
    }
