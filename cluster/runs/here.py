"""Trains the units of a schedule in this process, and in others beside it. The journal is that of a run on a
cluster."""

from collections.abc import Callable, Sequence

from ...training.ray.group import GroupRequest
from ...training.ray.helper import Failure, Helper, describe_failure
from ...training.ray.here import train_here
from .durable_schedule import DurableSchedule
from .schedule import Ended, NodeSeen, Resources, Start

HERE = "this machine"
ONE_PROCESS = Resources(cpus=1)
"""What a unit requires."""


def train_units_here(
    schedule: DurableSchedule, request: Callable[[str], GroupRequest], helpers: Sequence[Helper] = ()
) -> None:
    """Train until every unit is done, one in this process and one in each of those that help. Raises RunError if any
    unit failed permanently, after the others are done.

    `request` returns what an attempt at a unit has to train.
    """
    cause: Exception | None = None

    def train(group: GroupRequest) -> Failure | None:
        nonlocal cause
        try:
            train_here(group)
        except Exception as error:  # noqa: BLE001 - it is recorded, and raised at the end if no retry helps
            cause = error
            return describe_failure(error)
        return None

    schedule.resume()
    actions = schedule.handle(NodeSeen(HERE, Resources(cpus=1 + len(helpers))))
    try:
        while actions:
            starts = [action for action in actions if isinstance(action, Start)]
            for start in starts:
                schedule.record_start(start)
            own, *others = starts
            helping = list(zip(others, helpers, strict=False))
            for start, helper in helping:
                helper.begin(request(start.unit))
            failures = [train(request(own.unit)), *(helper.end() for _, helper in helping)]
            ended = [
                Ended(start.unit, start.attempt, *(failure or (None,)))
                for start, failure in zip(starts, failures, strict=True)
            ]
            actions = [action for event in ended for action in schedule.handle(event)]
    finally:
        schedule.journal.record_stop()
    schedule.check_done(cause)
