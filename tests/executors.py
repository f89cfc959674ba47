"""Executors that run tasks otherwise than one after the other."""

from collections.abc import Callable, Iterable, Iterator

from foldstream.storage.tasks import Result, SerialExecutor, Task


class LastFirst(SerialExecutor):
    """Runs the last task first, as it may happen when they run at the same time."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for position, task in reversed(list(enumerate(tasks))):
            yield position, function(task)


class Cut(BaseException):
    """A kill: nothing handles it."""


class CutExecutor(SerialExecutor):
    """Cuts a conversion off after so many tasks, as a kill does."""

    def __init__(self, tasks: int) -> None:
        self.left = tasks

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for result in super().map(function, tasks):
            if not self.left:
                raise Cut
            self.left -= 1
            yield result
