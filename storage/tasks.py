"""Interfaces for running independent tasks and reporting progress, independent of the implementation.

The serial executor is the reference against which the Dask executor is tested.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

Task = TypeVar("Task")
Result = TypeVar("Result")

CONVERSION, RUN = "foldstream", "foldstream-run"
"""Foldstream's pages in a dashboard."""
DONE = "done"
"""The last stage of a conversion."""


@runtime_checkable
class Progress(Protocol):
    """Called with the name of a stage, the units done, the total units, and a short remark, e.g. a rate or a loss."""

    def __call__(self, stage: str, done: int, total: int, remark: str = "") -> None: ...


def silent(stage: str, done: int, total: int, remark: str = "") -> None:
    """Ignore the progress."""


@runtime_checkable
class Executor(Protocol):
    """Runs tasks that are independent of each other."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        """Yield (index of the task, its result) in any order. The first error stops the tasks and is raised."""
        ...

    def prepare(self, function: Callable[[], None]) -> None:
        """Call a function on every worker to save time in later tasks, without waiting for it."""
        ...

    def publish(self, page: str, facts: dict[str, Any]) -> None:
        """Publish progress on one of Foldstream's pages, if the executor has a dashboard."""
        ...


class SerialExecutor:
    """Runs one task after another in this thread."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        return enumerate(map(function, tasks))

    def prepare(self, function: Callable[[], None]) -> None:
        function()

    def publish(self, page: str, facts: dict[str, Any]) -> None:
        pass


def run_tasks(
    executor: Executor, function: Callable[[Task], Result], tasks: Sequence[Task], stage: str, progress: Progress
) -> list[Result]:
    """Run tasks, one per shard, and return their results in the order of the tasks."""
    return list(ordered_results(executor, function, tasks, stage, progress))


def ordered_results(
    executor: Executor, function: Callable[[Task], Result], tasks: Sequence[Task], stage: str, progress: Progress
) -> Iterator[Result]:
    """Run tasks, one per shard, and yield their results in the order of the tasks; only early results are buffered."""
    early: dict[int, Result] = {}
    yielded = 0
    for done, (position, result) in enumerate(executor.map(function, tasks), 1):
        early[position] = result
        progress(stage, done, len(tasks), "shards")
        while yielded in early:
            yield early.pop(yielded)
            yielded += 1
