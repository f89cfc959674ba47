"""A schedule with its journal: decisions are made durable first, so that a killed command can resume from there."""

import logging
from collections.abc import Mapping

from ...storage.errors import RunError
from ...storage.places.place import Place
from .journal import Journal
from .schedule import Action, Ended, Event, Restarted, Schedule, Start, Status, TrainingUnit, title_of

log = logging.getLogger(__name__)


class DurableSchedule:
    """The schedule of a run's units, or of those of a search's `stage`. Every event is written to the journal before it
    is acted on."""

    def __init__(self, units: Mapping[str, TrainingUnit], max_retries: int, journal: Place, stage: str = "") -> None:
        self.state, self.journal, self.stage = Schedule(units, max_retries), Journal(journal), stage

    def resume(self) -> None:
        """Replay the journal. If its schedule had finished, start a new one for the remaining folds."""
        events = list(self.journal.read(self.stage))
        for event in events:
            self.state.handle(event)
        finished = self.state.finished
        if finished:
            self.state.reset()
            if not self.stage:  # the record of earlier stages stays
                self.journal.path.remove()
        if self.stage and (finished or not events):
            self.journal.begin(self.stage)
        elif events and not finished:
            self.handle(Restarted())

    def handle(self, event: Event) -> list[Action]:
        """Record an event, and return the actions to perform."""
        self.journal.append(event)
        if isinstance(event, Ended) and event.error and not event.everywhere:  # which ends the run, and is told then
            title = title_of(self.state.units[event.unit].folds)
            log.warning("%s, attempt %d: %s", title, event.attempt, event.error)
        actions = self.state.handle(event)
        self.state.check_invariants()
        return actions

    def record_start(self, start: Start) -> None:
        """Record that an attempt has started."""
        self.journal.record_start(start, self.state.units[start.unit].folds)

    def check_done(self, cause: BaseException | None = None) -> None:
        """Raise RunError, from the `cause` if known, if any unit has failed permanently."""
        failed = self.state.units_with(Status.FAILED)
        if not failed:
            return
        units, states = self.state.units, self.state.states
        errors = "; ".join(f"{title_of(units[name].folds)}: {states[name].error}" for name in failed)
        done = sum(len(units[name].folds) for name in self.state.units_with(Status.DONE))
        left = sum(len(unit.folds) for unit in units.values())
        run = str(self.journal.path).rpartition("/")[0]
        if self.state.given_up:
            raise RunError(
                f"training failed: {errors}. All folds would fail in the same way, so the run was stopped; {done} of "
                f"the {left} remaining folds were trained and are kept; 'foldstream status {run}' shows what happened. "
                "Fix the cause, then run the same command again to resume; a modified model needs a new run"
            ) from cause
        raise RunError(
            f"training failed and the run is incomplete: {errors}. {done} of the {left} remaining folds were "
            f"trained and are kept; 'foldstream status {run}' shows what happened. Fix the cause, then run the "
            "same command again to resume"
        ) from cause
