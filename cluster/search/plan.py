"""Decides what a search does next: a pure function of what was decided before and of the results so far.

Successive halving as in Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA): a candidate
goes on from a rung if it is among the best 1/reduction of all that have reached this rung so far. Here candidates come
in waves and train to a rung together, in a *pass*, and the next decision waits for all of them. Decisions therefore
depend on no clock, and a search that was killed makes the same ones again. Once all candidates are drawn, the best one
of a rung goes on in any case, so that one trains to the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from ...storage.errors import UsageError

COMPARED_ROWS = 2000
"""Held-out rows on which candidates are compared, at least, if a rung's folds have so many."""


@dataclass(frozen=True)
class Rung:
    """A point at which candidates are compared: after `epochs` epochs of the first `folds` folds, or of all if None."""

    folds: int | None
    epochs: int

    def folds_of(self, models: int) -> int:
        """The number of folds that are trained, of `models`."""
        return models if self.folds is None else min(self.folds, models)

    def __str__(self) -> str:
        folds = "all folds" if self.folds is None else f"{self.folds} fold{'s' * (self.folds > 1)}"
        return f"{self.epochs} epoch{'s' * (self.epochs > 1)} of {folds}"


@dataclass(frozen=True)
class Rules:
    """The rules of a search: the rungs, the number of candidates, how many of them are drawn together, and that one in
    `reduction` goes on."""

    rungs: tuple[Rung, ...]
    trials: int
    width: int
    reduction: int


@dataclass(frozen=True)
class Outcome:
    """The result of a candidate at a rung: its scores, of which higher is better and the later ones decide between
    equals, or the `failure` that stopped it."""

    scores: tuple[float, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Pass:
    """Candidates, by their numbers, that train to a rung together."""

    rung: int
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Draw:
    """Draw `count` new candidates."""

    count: int


Results = Mapping[tuple[int, int], Outcome]
"""By candidate and rung."""


def choose_rungs(epochs: int, reduction: int, folds: int, held_out: float, together: bool = False) -> tuple[Rung, ...]:
    """The usual rungs of a training of `folds` folds, each with so many held-out rows: epochs are `reduction` times as
    many at each rung, and those below the last have only as many folds as it takes to compare candidates, or all if
    folds are computed `together`."""
    enough = ceil(COMPARED_ROWS / max(held_out, 1))
    few = None if together or enough >= folds else enough
    lower = list[int]()
    while epochs // reduction ** (len(lower) + 1) >= 1:
        lower.append(epochs // reduction ** (len(lower) + 1))
    return (*(Rung(few, one) for one in reversed(lower)), Rung(None, epochs))


def given_rungs(given: Sequence[Mapping[str, int]], epochs: int, folds: int) -> tuple[Rung, ...]:
    """The rungs of a definition, with the end of the training as the last one. Raises UsageError for one beyond it."""
    rungs = [Rung(None if one["folds"] == folds else one["folds"], one["epochs"]) for one in given]
    for one, rung in zip(given, rungs, strict=True):
        if one["folds"] > folds or one["epochs"] > epochs:
            raise UsageError(f"rungs: {rung} is more than the training has, {epochs} epochs of {folds} folds")
    end = Rung(None, epochs)
    return (*rungs, *([end] if end not in rungs else []))


def next_step(rules: Rules, drawn: int, passes: Sequence[Pass], results: Results) -> Draw | Pass | None:
    """What comes next, after so many candidates were `drawn` and these passes decided. None at the end."""
    if passes and not is_complete(passes[-1], results):
        return passes[-1]
    lower = range(len(rules.rungs) - 1)
    for rung in reversed(lower):
        if best := promotable(rules, rung, passes, results):
            return Pass(rung + 1, best)
    if drawn < rules.trials:
        return Draw(min(rules.width, rules.trials - drawn))
    for rung in lower:
        if best := promotable(rules, rung, passes, results, least=1):
            return Pass(rung + 1, best)
    return None


def is_complete(one: Pass, results: Results) -> bool:
    """Whether all candidates of a pass have a result."""
    return all((trial, one.rung) in results for trial in one.trials)


def promotable(rules: Rules, rung: int, passes: Sequence[Pass], results: Results, least: int = 0) -> tuple[int, ...]:
    """The candidates that go on from a rung now, the best first: those among the best 1/reduction, or the `least` best,
    that have not gone on before. A candidate that has failed at a later rung gives way to another one."""
    promoted = {trial for one in passes if one.rung == rung + 1 for trial in one.trials}
    lost = {trial for (trial, at), result in results.items() if at > rung and result.failure}
    best = [trial for trial in ranking(rung, results) if trial not in lost]
    most = max(reached_by(rung, results) // rules.reduction, least)
    return tuple(trial for trial in best[:most] if trial not in promoted)


def reached_by(rung: int, results: Results) -> int:
    """The number of candidates that have reached a rung, also those that have failed there."""
    return sum(at == rung for _, at in results)


def ranking(rung: int, results: Results) -> list[int]:
    """The candidates that have reached a rung without failing, the best first; of equals, the one drawn first."""
    reached = [(trial, result) for (trial, at), result in results.items() if at == rung and not result.failure]
    return [trial for trial, _ in sorted(reached, key=lambda one: ([-score for score in one[1].scores], one[0]))]


def most_models(rules: Rules, models: int) -> int:
    """How many folds of candidates train at once, at most, if a run has so many `models`."""
    first = min(rules.width, rules.trials)
    counts = list[int]()
    for rung in rules.rungs:
        counts.append(first * rung.folds_of(models))
        first = max(1, first // rules.reduction)
    return max(counts)


@dataclass(frozen=True)
class Verdict:
    """What has become of a candidate: the last rung that it has reached, -1 before the first; `running`, `paused`,
    `stopped`, `failed` or `finished`; and why it was stopped."""

    rung: int
    state: str
    reason: str = ""


def verdicts(rules: Rules, drawn: int, passes: Sequence[Pass], results: Results) -> list[Verdict]:
    """What has become of each candidate so far."""
    over = next_step(rules, drawn, passes, results) is None
    return [_verdict(rules, trial, passes, results, over) for trial in range(drawn)]


def _verdict(rules: Rules, trial: int, passes: Sequence[Pass], results: Results, over: bool) -> Verdict:
    for rung in reversed(range(len(rules.rungs))):
        if (result := results.get((trial, rung))) is None:
            continue
        if result.failure:
            return Verdict(rung, "failed", result.failure)
        if rung == len(rules.rungs) - 1:
            return Verdict(rung, "finished")
        if any(one.rung > rung and trial in one.trials for one in passes):
            return Verdict(rung, "running")
        if not over:
            return Verdict(rung, "paused")
        return Verdict(rung, "stopped", _reason(rules, trial, rung, passes, results))
    return Verdict(-1, "running")


def _reason(rules: Rules, trial: int, rung: int, passes: Sequence[Pass], results: Results) -> str:
    """Why a candidate was stopped at a rung: its rank, and how many went on. Others than the best have done so in an
    earlier wave, when they were the best of fewer, or in the place of one that has failed later."""
    ranked, reached = ranking(rung, results), reached_by(rung, results)
    best = ranked[: max(1, reached // rules.reduction)]
    others = {one for a_pass in passes if a_pass.rung == rung + 1 for one in a_pass.trials}.difference(best)
    went_on = f"the best {len(best)} went on" if len(best) > 1 else "the best one went on"
    more = f", and {len(others)} other{'s' * (len(others) > 1)}" if others else ""
    return f"rung {rung + 1}: {ordinal(ranked.index(trial) + 1)} of {reached}, {went_on}{more}"


def ordinal(number: int) -> str:
    """A rank in words: 1st, 2nd, 11th."""
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
