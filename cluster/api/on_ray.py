"""Train with workers on the job's Ray cluster, which is started if none is connected."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ...training.ray.group import GroupRequest
from ...training.run import RunFold
from ..dask.on_ray import workers_released
from ..ray.job_cluster import ray_cluster
from ..requests import Session, TrainRequest
from ..runs.coordinator import Coordinator
from ..runs.durable_schedule import DurableSchedule
from ..runs.fold_mode import FoldMode
from ..runs.fold_mode_trial import has_gpus, refine_fold_mode
from ..runs.run import Trainers
from ..runs.schedule import Resources


@contextmanager
def trainers_on_ray(
    request: TrainRequest, mode: FoldMode, folds: Mapping[str, RunFold], session: Session
) -> Iterator[Trainers]:
    """A coordinator on the Ray cluster, and the faster fold mode there."""
    workers, memory = request.world_size, request.memory_bytes or 0

    def train(schedule: DurableSchedule, unit: Callable[[str], GroupRequest]) -> None:
        Coordinator(schedule, unit, request.hang_timeout).run()

    with workers_released(session.client), ray_cluster(workers, memory) as dashboard:
        session.listener.announce("Ray dashboard", dashboard)
        mode = refine_fold_mode(mode, next(iter(folds.values())), len(folds), request)
        yield Trainers(mode, Resources(workers, workers * has_gpus(), workers * memory), train)
