"""The record of a search in `search.json`: its definition, the candidates that were drawn, and the passes that were
decided. It is written before anything of it trains. Results are read from the folders of the candidates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf, isfinite
from statistics import fmean
from typing import Any, Self

from ...storage.errors import ConflictError, RunError
from ...storage.fold_plan import open_plan
from ...storage.places.json_files import read_json, same_json, write_json
from ...storage.places.place import Place
from ...training.run import (
    SEARCH,
    RunFold,
    RunJob,
    describe_divergence,
    folds_of,
    has_reached,
    read_rung,
)
from ...training.search import SearchOptions
from ..runs.grid import candidate_folder, check_folder
from ..runs.run import OTHER_DATA
from .plan import Outcome, Pass, Results, Rules, Rung, ranking, verdicts

GROWS = "trials"  # what may be increased


@dataclass(frozen=True)
class Trial:
    """A candidate: the settings that were drawn for it, the wave in which this was done, and the `failure` that keeps
    these settings from being trained at all."""

    settings: dict[str, Any]
    wave: int
    failure: str = ""


@dataclass(frozen=True)
class SearchRecord:
    """The state of a search, apart from its results.

    `definition` has the options of the search, `metrics` those by which candidates are compared, and whether their
    higher values are better.
    """

    definition: dict[str, Any]
    rules: Rules
    metrics: dict[str, bool]
    trials: tuple[Trial, ...] = ()
    passes: tuple[Pass, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    """What the report says, once the search is finished."""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "rules": asdict(self.rules)} | {
            "trials": [vars(trial) for trial in self.trials],
            "passes": [asdict(one) for one in self.passes],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        rules = {**value["rules"], "rungs": tuple(Rung(**rung) for rung in value["rules"]["rungs"])}
        return cls(
            **{
                **value,
                "rules": Rules(**rules),
                "trials": tuple(Trial(**trial) for trial in value["trials"]),
                "passes": tuple(Pass(one["rung"], tuple(one["trials"])) for one in value["passes"]),
            }
        )

    def names(self) -> dict[int, str]:
        """The names of the candidates that can be trained, by their numbers."""
        return {number: trial_name(number) for number, trial in enumerate(self.trials) if not trial.failure}

    def settings_of(self, name: str) -> dict[str, Any]:
        """What was drawn for a candidate."""
        return next(trial.settings for number, trial in enumerate(self.trials) if trial_name(number) == name)


def finishers(root: Place, record: SearchRecord) -> list[str]:
    """The names of the candidates that have trained to the end."""
    return [trial_name(number) for number in ranking(len(record.rules.rungs) - 1, read_results(root, record))]


def all_failed(root: Place, record: SearchRecord) -> RunError:
    """The error for a search without a candidate that has trained to the end."""
    failures = [result.failure for result in read_results(root, record).values() if result.failure]
    return RunError(
        f"{root}: all {len(record.trials)} candidates of the search have failed, the first because of: {failures[0]}; "
        "start a new search with another space"
    )


def trial_name(number: int) -> str:
    """The name of a candidate, and of its folder."""
    return f"trial-{number:02}"


def stage_name(record: SearchRecord, number: int) -> str:
    """The name of a pass in the journal; they are numbered from 1."""
    one = record.passes[number - 1]
    count = f"{len(one.trials)} candidates train" if len(one.trials) > 1 else "1 candidate trains"
    return f"pass {number}: {count} to rung {one.rung + 1}, {record.rules.rungs[one.rung]}"


def read_search(root: Place) -> SearchRecord | None:
    """The record of the search in a folder; None if there is none."""
    return SearchRecord.from_json(read_json(root / SEARCH)) if (root / SEARCH).exists() else None


def write_search(root: Place, record: SearchRecord) -> None:
    """Commit a record."""
    write_json(root / SEARCH, record.to_json())


def new_record(
    options: SearchOptions, rules: Rules, metrics: Mapping[str, bool], fixed: Mapping[str, Any]
) -> SearchRecord:
    """The record of a search before its first candidate. `fixed` is what the candidates have in common beside the
    search: the data, the training, and the settings that are not searched."""
    definition = {**options.model_dump(exclude={GROWS, "rungs"}), "width": rules.width, **fixed}
    return SearchRecord(definition, rules, dict(metrics))


def claim(root: Place, wanted: SearchRecord) -> SearchRecord:
    """The record with which a search goes on: that of its folder, possibly for more candidates, or the new one.

    Raises ConflictError if the folder contains another search, or a run.
    """
    found = read_search(root)
    if found is None:
        check_folder(root, (), "search")
        return wanted
    old, new = found.definition, wanted.definition
    differences = [
        OTHER_DATA if name == "identity" else f"{name} was {shown(old.get(name))} and is now {shown(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if not same_json(old.get(name), new.get(name))
    ]
    if found.rules.rungs != wanted.rules.rungs:
        differences.append(f"the rungs were {ladder(found.rules)} and are now {ladder(wanted.rules)}")
    if differences:
        raise ConflictError(
            f"{root} already contains another search: {'; '.join(differences[:4])}; choose another folder, or use the "
            "same options as that search"
        )
    if wanted.rules.trials < found.rules.trials:
        raise ConflictError(
            f"{root} is a search of {found.rules.trials} trials, which can be increased but not reduced to "
            f"{wanted.rules.trials}; use {found.rules.trials} or more, or choose another folder"
        )
    return replace(found, rules=wanted.rules)


def shown(value: Any) -> str:
    """An option of a search in a message."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {shown(one)}" for name, one in value.items()) + "}"
    return str(value)


def ladder(rules: Rules) -> str:
    """The rungs in words."""
    return ", ".join(map(str, rules.rungs))


def search_status(root: Place) -> list[dict[str, Any]]:
    """What has become of the candidates of a search so far: the `name`, `settings`, last `rung` reached, from 1, the
    mean `score` of its folds there, the `state` and `why` it was stopped. Empty for a run that is no search."""
    if (record := read_search(root)) is None:
        return []
    results = read_results(root, record)
    found = verdicts(record.rules, len(record.trials), record.passes, results)
    return [
        {"name": trial_name(number), "settings": trial.settings, "rung": verdict.rung + 1}
        | {"score": score_at(record, results.get((number, verdict.rung)))}
        | {"state": verdict.state, "why": verdict.reason}
        for number, (trial, verdict) in enumerate(zip(record.trials, found, strict=True))
    ]


def score_at(record: SearchRecord, outcome: Outcome | None) -> float | None:
    """The first metric of a candidate at a rung, as it is; None if it has none there."""
    if outcome is None or not outcome.scores or not isfinite(outcome.scores[0]):
        return None
    return outcome.scores[0] * (1 if next(iter(record.metrics.values())) else -1)


def read_results(root: Place, record: SearchRecord) -> Results:
    """The results of all candidates at the rungs that they have reached."""
    return {
        (number, rung): result
        for number in range(len(record.trials))
        for rung, result in enumerate(_results_of(root, record, number))
        if result
    }


def _results_of(root: Place, record: SearchRecord, number: int) -> Iterator[Outcome | None]:
    """The result of a candidate at each rung, as far as it has one."""
    if failure := record.trials[number].failure:
        yield Outcome(failure=failure)
        return
    run = candidate_folder(root, trial_name(number))
    passed = [one.rung for one in record.passes if number in one.trials]
    if not run.job.exists():
        return
    job, models = RunJob.from_json(read_json(run.job)), len(open_plan(run.folds).models)
    rungs = record.rules.rungs
    for rung in rungs[: len(passed)]:
        count = rung.folds_of(models)
        refit = range(models, models + (job.config.refit and rung is rungs[-1]))
        yield outcome_of(folds_of(job, run, range(count)), folds_of(job, run, refit), rung.epochs, record.metrics)


def outcome_of(
    folds: Sequence[RunFold], refit: Sequence[RunFold], epochs: int, metrics: Mapping[str, bool]
) -> Outcome | None:
    """The result of a candidate after so many epochs: each metric is the mean over `folds`. None as long as one of
    them, or the `refit` that trains along, has something left to train."""
    every = [*folds, *refit]
    found = [read_rung(one.run.fold(one.fold), epochs) for one in every]
    if not all(result or has_reached(one, epochs) for one, result in zip(every, found, strict=True)):
        return None
    reached = [result for result in found if result]
    for result in reached:
        if "reason" in result:
            return Outcome(failure=describe_divergence(result))
    scores = [result["metrics"] for result in reached[: len(folds)]]
    return Outcome(tuple(_mean(scores, name, higher) for name, higher in metrics.items()))


def _mean(folds: list[dict[str, float]], name: str, higher_is_better: bool) -> float:
    """The mean of a metric over folds, as a number of which higher is better; the worst if a fold does not have it."""
    if not all(name in fold for fold in folds):
        return -inf
    return fmean(fold[name] for fold in folds) * (1 if higher_is_better else -1)
