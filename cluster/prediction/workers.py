"""How many workers predict, if the user does not say it, and the executor that runs their tasks."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...storage.dataset import Dataset
from ...storage.machine import this_machine
from ...storage.tasks import Executor, SerialExecutor
from ..requests import Session
from ..runs.workers import PROCESS_BYTES, gpu_count, ray_is_connected

LARGE_BYTES = 1 << 30
"""Features of this size, decoded, are worth the seconds that workers take to start."""


def choose_workers(wanted: int | None, dataset: Dataset) -> int:
    """The number of workers; 0 for this process. By default this process predicts a dataset that is not large; for
    others there is a worker for each GPU or core, of this machine or of the connected cluster."""
    if wanted is not None:
        return wanted
    if len(dataset) * dataset.spec("x").row_bytes < LARGE_BYTES:
        return 0
    if ray_is_connected():
        from ..ray.executor import most_workers

        return min(most_workers(), dataset.layout.shards)
    machine, gpus = this_machine(), gpu_count()
    count = gpus or min(machine.cores, machine.memory // 2 // PROCESS_BYTES, dataset.layout.shards)
    return count if count > 1 else 0


@contextmanager
def prediction_executor(workers: int, session: Session) -> Iterator[Executor]:
    """An executor on so many workers of the job's Ray cluster, which is started if none is connected, or in this
    process."""
    if not workers:
        from .shards import shard_predictor  # torch takes a second to load, and so does Ray

        yield SerialExecutor()
        shard_predictor.cache_clear()
        return
    from ..dask.on_ray import workers_released
    from ..ray.executor import RayExecutor
    from ..ray.job_cluster import ray_cluster

    with workers_released(session.client), ray_cluster(workers) as dashboard:
        session.listener.announce("Ray dashboard", dashboard)
        yield RayExecutor(workers)
