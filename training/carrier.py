"""Who carries out tasks that do not depend on each other, one a shard: the caller's choice."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ..storage.progress import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")
Carrier = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[tuple[int, Any]]]
"""Carries out a function's tasks: yields (position of the task, its result) in any order."""


def one_by_one(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
    """Tasks one after the other, here."""
    return enumerate(map(function, tasks))


def results_of(
    carry_out: Carrier, function: Callable[[Task], Result], tasks: Sequence[Task], stage: str, progress: Progress
) -> list[Result]:
    """The results of all tasks, one a shard, in the order of the tasks."""
    results: dict[int, Result] = {}
    for position, result in carry_out(function, tasks):
        results[position] = result
        progress(stage, len(results), len(tasks), "shards")
    return [results[position] for position in range(len(tasks))]
