"""The executor that runs tasks on a Dask cluster: the only module of the pipeline that imports Dask."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import Any

from distributed import Client, Future, KilledWorker, as_completed

from ..storage.errors import WorkerError
from ..storage.tasks import Result, Task

WINDOW = 4  # tasks in flight per thread: enough to keep workers busy, few enough to keep the scheduler small
POLL_SECONDS = 1.0  # between two checks of the number of threads: workers come and go


class DaskExecutor:
    """Runs tasks on a Dask cluster. Tasks and results are small values; arrays go through storage.

    Dask reruns a task if its worker dies, so tasks write complete files under their final names, or nothing.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._prepared: list[Future] = []
        self._threads, self._checked = 0, -POLL_SECONDS

    def prepare(self, function: Callable[[], None]) -> None:
        workers = self.client.nthreads()
        self._prepared += [self.client.submit(function, workers=[worker], pure=False) for worker in workers]

    def publish(self, page: str, facts: dict[str, Any]) -> None:
        self.client.log_event(page, facts)

    def _window(self) -> int:
        """The number of tasks that may be in flight."""
        if monotonic() - self._checked > POLL_SECONDS:
            self._threads, self._checked = sum(self.client.nthreads().values()), monotonic()
        return WINDOW * max(1, self._threads)

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        numbered = enumerate(tasks)
        positions: dict[Future, int] = {}

        def submit(count: int) -> list[Future]:
            futures = []
            for position, task in islice(numbered, count):
                future = self.client.submit(function, task, pure=False)
                positions[future] = position
                futures.append(future)
            return futures

        running = as_completed(submit(self._window()))
        try:
            for future in running:
                yield positions.pop(future), future.result()
                running.update(submit(max(0, self._window() - len(positions))))
        except KilledWorker as error:
            raise WorkerError(
                f"{error.allowed_failures + 1} Dask workers died in succession while running the same task, most "
                "likely out of memory; give each worker more memory (or start fewer), then run the same command again"
            ) from None
        finally:
            self.client.cancel(list(positions))
