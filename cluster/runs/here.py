"""Trains the units of a schedule in this process, one after the other. The journal is that of a run on a cluster."""

from collections.abc import Callable
from dataclasses import replace

from ...storage.errors import AttemptError, FoldstreamError
from ...training.ray.group import FINAL, GroupRequest
from ...training.ray.helper import Helper
from ...training.ray.here import train_here
from ...training.zoo.user_code import read_error_note
from .durable_schedule import DurableSchedule
from .schedule import Ended, NodeSeen, Resources, Start

HERE = "this process"
ROOM = Resources(cpus=1)
"""What this process has, and what a unit in it requires."""


def train_units_here(
    schedule: DurableSchedule, request: Callable[[str], GroupRequest], helper: Helper | None = None
) -> None:
    """Train until every unit is done, perhaps with a process that helps. Raises RunError if any unit failed
    permanently, after the others are done.

    `request` returns what an attempt at a unit has to train.
    """
    cause: Exception | None = None
    schedule.resume()
    actions = schedule.handle(NodeSeen(HERE, ROOM))
    try:
        while actions:
            (start,) = actions  # there is room for one
            assert isinstance(start, Start)
            schedule.record_start(start)
            ended = Ended(start.unit, start.attempt)
            try:
                train_here(request(start.unit), helper)
            except Exception as error:  # noqa: BLE001 - it is recorded, and raised at the end if no retry helps
                cause, ended = error, replace(ended, error=_describe(error), final=_is_final(error))
            actions = schedule.handle(ended)
    finally:
        schedule.journal.record_stop()
    schedule.check_done(cause)


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, FoldstreamError) else read_error_note(error)


def _is_final(error: Exception) -> bool:
    """Whether another attempt would fail in the same way."""
    return isinstance(error, FINAL) and not isinstance(error, AttemptError)
