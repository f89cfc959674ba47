"""How independent tasks are carried out. The serial executor is the reference that Dask's is tested against."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

CONVERSION, RUN = "foldstream", "foldstream-run"
"""Our pages in a dashboard."""


class Executor(Protocol):
    """Carries out tasks that do not depend on each other."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        """Yield (position of the task, its result) in any order. The first error ends it and is raised."""
        ...

    def prepare(self, function: Callable[[], None]) -> None:
        """Have every worker call a function that spares later tasks time; nothing waits for it."""
        ...

    def tell(self, page: str, facts: dict[str, Any]) -> None:
        """Say how far something is, on one of our pages, to those who look at the executor's dashboard if it has
        one."""
        ...


class SerialExecutor:
    """One task after the other, in this thread."""

    def tell(self, page: str, facts: dict[str, Any]) -> None:
        pass

    def prepare(self, function: Callable[[], None]) -> None:
        function()

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for position, task in enumerate(tasks):
            yield position, function(task)
