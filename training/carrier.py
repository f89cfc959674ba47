"""Who carries out tasks that do not depend on each other, one a shard: the caller's choice."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Carrier = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[tuple[int, Any]]]
"""Carries out a function's tasks: yields (position of the task, its result) in any order."""


def one_by_one(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
    """Tasks one after the other, here."""
    return enumerate(map(function, tasks))
