"""Train the units of a schedule in this process and in helper processes. The journal is the same as on a cluster."""

from collections.abc import Callable, Sequence
from time import monotonic

from ...storage.errors import ModelError, StoppedError
from ...training.ray.group import Failure, GroupRequest, describe_failure
from ...training.ray.helper import Helper
from ...training.ray.here import train_here
from ...training.stopping import STOP, stopped
from .durable_schedule import DurableSchedule
from .schedule import Ended, NodeSeen, Resources, Start

HERE = "this machine"
ONE_PROCESS = Resources(cpus=1)
"""The resources that a unit requires."""
LOOK_SECONDS = 0.5  # between two looks whether another process has failed


def train_units_here(
    schedule: DurableSchedule, request: Callable[[str], GroupRequest], helpers: Sequence[Helper] = ()
) -> None:
    """Train until every unit is done, one in this process and one in each helper process. Raises RunError if any unit
    failed permanently (once the others are done, or immediately if all would fail in the same way), and StoppedError
    once all have stopped on request.

    `request` returns what an attempt at a unit has to train.
    """
    cause: BaseException | None = None
    schedule.resume()
    actions = schedule.handle(NodeSeen(HERE, Resources(cpus=1 + len(helpers))))
    try:
        while starts := [action for action in actions if isinstance(action, Start)]:
            for start in starts:
                schedule.record_start(start)
            failures, raised = _train_side_by_side([request(start.unit) for start in starts], helpers)
            cause = raised or cause
            ended = [
                Ended(start.unit, start.attempt, *(failure or (None,)))
                for start, failure in zip(starts, failures, strict=False)
            ]
            actions = [action for event in ended for action in schedule.handle(event)]
    finally:
        schedule.journal.record_stop()
    schedule.check_done(cause)


def _train_side_by_side(
    groups: Sequence[GroupRequest], helpers: Sequence[Helper]
) -> tuple[list[Failure | None], BaseException | None]:
    """Train the first group in this process, and each of the others in a helper process. Returns the failures, if any,
    and the exception in this process. If a failure affects all folds, the other processes are not awaited."""
    own, *others = groups
    helping = [helper for helper, _ in zip(helpers, others, strict=False)]
    for helper, group in zip(helping, others, strict=True):
        helper.begin(group)
    failure, cause = None, None
    looks = _Looks(helping)

    def tell() -> None:
        for helper in helping:
            helper.stop()

    with STOP.watched(tell):
        try:
            train_here(own, looks)
        except StoppedError:
            pass
        except Exception as error:  # noqa: BLE001 - it is recorded, and raised at the end if no retry helps
            failure, cause = describe_failure(error), error.__cause__ if isinstance(error, ModelError) else error
        if failure and failure.everywhere:
            return [failure], cause
        found = looks.found
        failures = [failure, *(found[helper] if helper in found else helper.end() for helper in helping)]
        if STOP.is_set:
            raise stopped()
    return failures, cause


class _Looks:
    """A heartbeat that ends the training in this process once a failure in another process affects all folds."""

    def __init__(self, helpers: Sequence[Helper]) -> None:
        self.helpers, self.looked_at = helpers, monotonic()
        self.found: dict[Helper, Failure | None] = {}
        """The outcome of each process that has finished its part."""

    def __call__(self, working: bool) -> None:
        if monotonic() - self.looked_at < LOOK_SECONDS:
            return
        self.looked_at = monotonic()
        for helper in self.helpers:
            if helper not in self.found and helper.has_ended():
                self.found[helper] = failure = helper.end()
                if failure and failure.everywhere:
                    raise ModelError(failure.reason)
