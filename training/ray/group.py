"""Requests for groups of folds that workers train together, and their failures."""

from dataclasses import dataclass
from typing import NamedTuple

from ...storage.errors import AttemptError, FoldstreamError, ModelError
from ...storage.programs.user_code import read_error_note
from ..config import Execution

START_SECONDS = 600.0  # for which a worker that starts, or writes, may be silent
FINAL = FoldstreamError, TypeError, ValueError, LookupError, AttributeError, NameError, ArithmeticError, AssertionError
"""Exceptions that a retry would raise again, because they are not caused by the death of a worker."""


class Failure(NamedTuple):
    """Why an attempt failed; whether a retry would fail in the same way, and whether all folds would."""

    reason: str
    final: bool = False
    everywhere: bool = False


def describe_failure(error: Exception) -> Failure:
    """Why training failed."""
    reason = str(error) if isinstance(error, FoldstreamError) else read_error_note(error)
    return Failure(reason, is_final(error), isinstance(error, ModelError))


def is_final(error: Exception) -> bool:
    """Whether a retry would raise the error again."""
    return isinstance(error, FINAL) and not isinstance(error, AttemptError)


@dataclass(frozen=True)
class GroupRequest:
    """Train `folds`, each given by its run's folder and its number, in one Ray Train run called `name`, with the user's
    execution options. The group's ranks are numbered from `first` among all of the job, which may be training with
    `others` at the same time.

    Of candidates of a grid or a search, one fold that diverges does not end the others. They pause after `until`
    epochs, if they have more; 0 is a training without candidates."""

    name: str
    folds: tuple[tuple[str, int], ...]
    use_gpu: bool
    request: Execution
    first: int = 0
    others: int = 0
    until: int = 0
