"""An executor whose tasks run on the connected Ray cluster."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from ...storage.errors import FoldstreamError, RunError
from ...storage.machine import freed_memory_kept
from ...storage.tasks import Result, Task
from ...training.ray.internals import most_cores

MAX_RETRIES = 2  # of a task whose worker has died
POLL_SECONDS = 1.0


def most_workers() -> int:
    """How many tasks the connected cluster runs at once: one on each GPU, or else on each core, also of nodes that it
    may add."""
    has = ray.cluster_resources()
    return int(has.get("GPU", 0)) or max(1, int(has.get("CPU", 0)), most_cores())


class RayExecutor:
    """Runs up to `workers` tasks at once, each on a GPU if the cluster has some, or else on a core. Ray retries a task
    whose worker or node has died."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        room = {"num_cpus": 1, "num_gpus": int(ray.cluster_resources().get("GPU", 0) > 0)}
        self._run = ray.remote(max_retries=MAX_RETRIES, scheduling_strategy="SPREAD", **room)(run_task)

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        numbered, running = enumerate(tasks), dict[Any, int]()
        try:
            while True:
                for position, task in islice(numbered, self.workers - len(running)):
                    running[self._run.remote(function, task)] = position
                if not running:
                    return
                for ended in ray.wait([*running], timeout=POLL_SECONDS)[0]:
                    yield running.pop(ended), _result_of(ended)
        finally:
            for task in running:
                ray.cancel(task, force=True)

    def prepare(self, function: Callable[[], None]) -> None:
        """Do nothing: which worker runs the next task is not known."""

    def publish(self, page: str, facts: dict[str, Any]) -> None:
        """Do nothing: Ray's dashboard has no pages of ours."""


def run_task(function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task, in a worker. `ps` shows this name."""
    with freed_memory_kept():
        return function(task)


def _result_of(ended: Any) -> Any:
    """The result of a task. Raises its own errors, and RunError if its workers have died."""
    try:
        return ray.get(ended)
    except RayTaskError as error:
        if isinstance(error.cause, FoldstreamError):
            raise error.cause from None
        raise
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError):
        raise RunError(
            f"a task failed {1 + MAX_RETRIES} times because its worker died, most likely because it ran out of memory; "
            "run the same command with fewer --workers to resume"
        ) from None
