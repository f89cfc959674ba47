"""How independent tasks are run, and how long work reports its progress, without knowing who runs or listens.

The serial executor is the reference that Dask's is tested against.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

Task = TypeVar("Task")
Result = TypeVar("Result")

CONVERSION, RUN = "foldstream", "foldstream-run"
"""Our pages in a dashboard."""


@runtime_checkable
class Progress(Protocol):
    """Called with the stage's name, the units done, the units in all, and a short remark (a rate, a loss)."""

    def __call__(self, stage: str, done: int, total: int, remark: str = "") -> None: ...


def silent(stage: str, done: int, total: int, remark: str = "") -> None:
    """The listener that says nothing."""


class Executor(Protocol):
    """Runs tasks that do not depend on each other."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        """Yield (position of the task, its result) in any order. The first error ends it and is raised."""
        ...

    def prepare(self, function: Callable[[], None]) -> None:
        """Have every worker call a function that spares later tasks time; nothing waits for it."""
        ...

    def tell(self, page: str, facts: dict[str, Any]) -> None:
        """Publish how far something is to one of our pages, where the executor has a dashboard."""
        ...


class SerialExecutor:
    """Runs one task after the other, in this thread."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        return enumerate(map(function, tasks))

    def prepare(self, function: Callable[[], None]) -> None:
        function()

    def tell(self, page: str, facts: dict[str, Any]) -> None:
        pass


def run_tasks(
    executor: Executor, function: Callable[[Task], Result], tasks: Sequence[Task], stage: str, progress: Progress
) -> list[Result]:
    """The results of all tasks, one a shard, in the order of the tasks."""
    results: dict[int, Result] = {}
    for position, result in executor.map(function, tasks):
        results[position] = result
        progress(stage, len(results), len(tasks), "shards")
    return [results[position] for position in range(len(tasks))]
