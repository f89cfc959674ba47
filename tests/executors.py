"""Executors that run tasks otherwise than one after the other."""

from collections.abc import Callable, Iterable, Iterator

from foldstream.storage.tasks import Result, SerialExecutor, Task


class LastFirst(SerialExecutor):
    """Runs the last task first, as it may happen when they run at the same time."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for position, task in reversed(list(enumerate(tasks))):
            yield position, function(task)
