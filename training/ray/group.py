"""What a group of workers trains together."""

from dataclasses import dataclass

from ...storage.errors import FoldstreamError
from ..config import Execution

START_SECONDS = 600.0  # for which a worker that starts, or writes, may be silent
FINAL = FoldstreamError, TypeError, ValueError, LookupError, AttributeError, NameError, ArithmeticError, AssertionError
"""Exceptions that another attempt would raise again: the death of a worker does not cause them."""


@dataclass(frozen=True)
class GroupRequest:
    """Train `folds`, each given by its run's folder and its number, in one Ray Train run called `name`, as the user's
    request says. In this process, it shares the machine with others that train beside it, `processes` in all."""

    name: str
    folds: tuple[tuple[str, int], ...]
    use_gpu: bool
    request: Execution
    processes: int = 1
