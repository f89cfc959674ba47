"""The facts about a complete run, as JSON: the three forms of the report contain exactly these."""

import platform
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from statistics import fmean, stdev
from typing import Any

from ...storage.dataset import Dataset
from ...storage.fold_plan import FoldPlan, open_plan
from ...storage.metrics.names import in_usual_order
from ...storage.options import Options
from ...storage.programs.own_code import ROOT
from ...training.config import TrainingOptions
from ...training.run import RunFolder, RunJob, read_result
from ...training.settings import usual_recipe
from ...training.splits.split import options_of
from ..requests import SplitRequest, TrainRequest, words_of
from ..runs.status import Phase, run_status
from .recipe import recipe_facts

VERSIONS = ("foldstream", "torch", "ray", "zarr", "numpy")
PLAN = "again"  # of folds that have a seed of their own
ALWAYS_SPLIT = {"split", "folds"}
"""Split options that the command always includes, even if they have their default values."""
NOT_SCORES = ("seconds", "read_bytes", CACHE_HITS := "cache_hit_rate")  # of an epoch's figures
TIMES = ("data_wait", "compute", "evaluate", "checkpoint")
"""The activities on which a rank spends its time."""


def run_facts(
    run: RunFolder, job: RunJob, dataset: Dataset, merged: Mapping[str, Any], baseline: Mapping[str, float]
) -> dict[str, Any]:
    """Collect the facts of a run whose folds are done. `merged` holds the reports of its merged predictions by part:
    `out_of_fold` and, for a split with a holdout, `holdout`; `baseline` are the scores of a model that ignores the
    features."""
    plan = open_plan(run.folds)
    results = [read_result(run.fold(fold)) for fold in range(len(plan.models))]
    reports = {part: {**report, **class_scores(job, report)} for part, report in merged.items()}
    for report in reports.values():
        report["scores"] = {name: report["scores"][name] for name in in_usual_order(report["scores"])}
    return {
        "run": str(run.root),
        "command": command(job, run),
        "data": dataset.facts(),
        "model": {"name": job.config.model.rpartition("/")[2], "hash": code_hash(job), "settings": settings(job)},
        "recipe": recipe_facts(job, dataset),
        "seconds": seconds_of([phase for fold in run_status(run.root).folds for phase in fold.phases]),
        "folds": (folds := [fold_facts(plan, result) for result in results]),
        "spread": spread([fold["scores"] for fold in folds]),
        **reports,
        "baseline": dict(baseline),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
    }


def code_hash(job: RunJob) -> str | None:
    """The hash of the user's file in which the model is defined, or None."""
    return job.code.get(job.config.model.rpartition(ROOT)[2].rpartition(":")[0])


def settings(job: RunJob) -> dict[str, Any]:
    """The `--set` settings that differ from the model's default recipe, and the model's own settings."""
    usual = usual_recipe(job.config.model)
    differing = {name: value for name, value in job.config.recipe.model_dump().items() if value != getattr(usual, name)}
    groups: dict[str, dict[str, float]] = differing.pop("groups", {})
    some = {f"{name}.{pattern}": value for pattern, values in groups.items() for name, value in values.items()}
    return differing | some | dict(job.config.model_settings)


def command(job: RunJob, run: RunFolder) -> str:
    """The command that reproduces the run, bit for bit, in another folder."""
    config, data = job.config, {"dataset": job.dataset, "run": f"{run.root}-again"}
    options = {**config.part(TrainingOptions), "workers": config.shares, "settings": settings(job)}
    options |= {"shares": 1} if config.shares == 1 else {}
    always, first = {*TrainingOptions.model_fields, "workers"}, ""
    if config.split.seed != config.seed:  # the folds are those of a plan
        plan = {"dataset": job.dataset, "name": PLAN, "seed": config.split.seed, **options_of(config.split)}
        first = _shell("split", SplitRequest.model_validate(plan), {"name", *ALWAYS_SPLIT, "seed"}) + " && "
        options["plan"] = PLAN
    else:
        options |= options_of(config.split)
        always |= ALWAYS_SPLIT
    lengths = [{**data, **options, "epochs": epochs} for epochs in (*config.restarts, config.epochs)]
    return first + " && ".join(_shell("train", TrainRequest.model_validate(one), always) for one in lengths)


def _shell(command: str, request: Options, always: Iterable[str]) -> str:
    return shlex.join(["foldstream", command, *words_of(request, always)])


def seconds_of(phases: Iterable[Phase]) -> float | None:
    """Seconds in which at least one fold was trained, in all attempts; None if the record does not have them, as that
    of a grid's candidate."""
    total, until = 0.0, 0.0
    spans = sorted((phase.start, phase.stop) for phase in phases if phase.state != "waiting" and phase.stop is not None)
    for start, stop in spans:
        total += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return total if spans else None


def fold_facts(plan: FoldPlan, result: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a fold: rows, final scores, curves of its scores by epoch, and resources used."""
    fold, history = result["fold"], result["history"]
    rows = plan.models[fold]
    floats = [name for name, value in history[-1].items() if isinstance(value, float) and name not in NOT_SCORES]
    named = [name for name in floats if all(name in epoch for epoch in history)]
    ranks = [rank for epoch in history for rank in epoch["ranks"]]
    seconds = sum(epoch["seconds"] for epoch in history)
    hit_rates = [epoch[CACHE_HITS] for epoch in history if CACHE_HITS in epoch]
    return {
        "fold": fold,
        "training_rows": int(plan.counts(rows.array, rows.train).sum()),
        "held_out_rows": int(plan.counts(rows.array, rows.held_out).sum()),
        "epochs": len(history),
        "scores": {name: result["metrics"][name] for name in named},
        "curves": {name: [epoch[name] for epoch in history] for name in named},
        "seconds": seconds,
        "rows_per_second": sum(epoch["rows"] for epoch in history) / seconds,
        "read_bytes": int(sum(epoch["read_bytes"] for epoch in history)),
        CACHE_HITS: fmean(hit_rates) if hit_rates else None,
        "spent": {name: sum(rank[name] for rank in ranks) for name in TIMES},
        "weights": result.get("weights", "–"),
    }


def spread(scores: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over the folds, for each score that all folds have."""
    common = [name for name in scores[0] if all(name in of_fold for of_fold in scores)]
    by_name = {name: [of_fold[name] for of_fold in scores] for name in common}
    return {
        name: {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else 0.0}
        for name, values in by_name.items()
    }


def class_scores(job: RunJob, report: Mapping[str, Any]) -> dict[str, Any]:
    """Rows, precision, recall and F1 of each class, from the confusion counts; empty if there are no classes."""
    if not job.schema.classes:
        return {}
    true, chosen, hit = (dict.fromkeys(range(len(job.schema.classes)), 0) for _ in range(3))
    for truth, most_probable, rows in report["confusion"]:
        true[truth] += rows
        chosen[most_probable] += rows
        hit[truth] += rows * (truth == most_probable)
    return {"by_class": list(_by_class(job.schema.classes, true, chosen, hit))}


def _by_class(
    names: Sequence[str], true: Mapping[int, int], chosen: Mapping[int, int], hit: Mapping[int, int]
) -> Iterator[dict[str, Any]]:
    """Precision, recall and F1. A score is None if its denominator is zero: the class has no rows, or was never
    predicted."""
    for code, name in enumerate(names):
        either = true[code] + chosen[code]
        yield {
            "name": name,
            "rows": true[code],
            "precision": hit[code] / chosen[code] if chosen[code] else None,
            "recall": hit[code] / true[code] if true[code] else None,
            "f1": 2 * hit[code] / either if either else None,
        }
