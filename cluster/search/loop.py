"""Carries out what the plan decides, until nothing is left. Every decision is committed before it is acted on, so the
same call goes on after a kill."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from ...storage.errors import RunError
from ...storage.places.place import Place
from ...training.search import SearchOptions
from .draw import draw, informative_rung, known_scores
from .plan import Draw, Pass, Results, Rung, next_step
from .record import SearchRecord, Trial, read_results, stage_name, trial_name, write_search

Candidates = Mapping[str, Mapping[str, Any]]
"""What was drawn for candidates, by their names."""


class Trainer(Protocol):
    """Trains candidates."""

    def failures(self, candidates: Candidates) -> dict[str, str]:
        """Why candidates cannot be trained, by their names; empty if all can."""

    def train(self, candidates: Candidates, rung: Rung, stage: str) -> None:
        """Train candidates to a rung together. `stage` names this in the journal."""


def run_search(root: Place, record: SearchRecord, options: SearchOptions, seed: int, trainer: Trainer) -> SearchRecord:
    """Draw and train candidates until nothing is left to do. Returns the final record.

    Args:
        root: The folder of the search.
        record: Its record so far.
        options: The search.
        seed: The seed of the run.
        trainer: What trains candidates. When it returns, they have results.

    Raises:
        RunError: Candidates could not be trained, for a reason other than their settings.
        StoppedError: A signal has stopped the training.
    """
    trained: Pass | None = None
    while True:
        results = read_results(root, record)
        step = next_step(record.rules, len(record.trials), record.passes, results)
        match step:
            case None:
                return record
            case Draw(count):
                record = _draw_wave(record, options, seed, count, results, trainer)
            case Pass() if not (record.passes and step == record.passes[-1]):
                record = replace(record, passes=(*record.passes, step))
            case Pass() if step == trained:
                raise RunError(
                    f"{root}: {stage_name(record, len(record.passes))}, but not all have results; please report"
                )
        write_search(root, record)
        if isinstance(step, Pass):
            candidates = {trial_name(number): record.trials[number].settings for number in step.trials}
            trained = step
            trainer.train(candidates, record.rules.rungs[step.rung], stage_name(record, len(record.passes)))


def _draw_wave(
    record: SearchRecord, options: SearchOptions, seed: int, count: int, results: Results, trainer: Trainer
) -> SearchRecord:
    """The record with a new wave of candidates, those of which that can be trained in a pass to the first rung."""
    first, tried = len(record.trials), [trial.settings for trial in record.trials]
    wave = 1 + max((trial.wave for trial in record.trials), default=-1)
    known = known_scores(informative_rung(record.rules, options.informed_by, results), results)
    drawn = dict(enumerate(draw(options, seed, wave, count, tried, known), first))
    failures = trainer.failures({trial_name(number): settings for number, settings in drawn.items()})
    new = [Trial(settings, wave, failures.get(trial_name(number), "")) for number, settings in drawn.items()]
    valid = tuple(number for number, trial in enumerate(new, first) if not trial.failure)
    passes = (*record.passes, *([Pass(0, valid)] if valid else []))
    return replace(record, trials=(*record.trials, *new), passes=passes)
