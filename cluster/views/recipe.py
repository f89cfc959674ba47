"""The settings of a run, with their defaults: what to look at first, and everything else."""

from collections.abc import Mapping
from typing import Any

from ...storage.dataset import Dataset
from ...training.config import TrainingOptions
from ...training.fitted.inputs import usual_fill
from ...training.run import RunJob
from ...training.settings import usual_recipe
from ...training.splits.split import SplitOptions, options_of

MAIN = ("epochs", "batch_size", "folds", "split", "optimizer", "lr", "weight_decay", "scheduler", "seed")
"""Settings that are always shown; the others only if they are not at their default."""
NOT_SHOWN = {"model", "asset"}


def recipe_facts(job: RunJob, dataset: Dataset) -> list[dict[str, Any]]:
    """All settings of a run as `name`, `value` and whether it is the `default`: first those that are set and the main
    ones, with `main`, then the others."""
    own = {name: {"value": value, "default": False} for name, value in job.config.model_settings.items()}
    for pattern, values in job.config.recipe.groups.items():
        own |= {f"{name}.{pattern}": {"value": value, "default": False} for name, value in values.items()}
    usual = defaults(job, dataset)
    given = {name: {"value": value, "default": value == usual.get(name)} for name, value in every_setting(job).items()}
    every = [{"name": name, **facts, "value": in_words(facts["value"])} for name, facts in {**own, **given}.items()]
    for fact in every:
        fact["main"] = not fact["default"] or fact["name"] in MAIN
    order = {name: number for number, name in enumerate(MAIN)}
    return sorted(every, key=lambda fact: (not fact["main"], order.get(fact["name"], len(MAIN))))


def every_setting(job: RunJob) -> dict[str, Any]:
    """The settings of the training, the split and the recipe."""
    options = {name: getattr(job.config, name) for name in TrainingOptions.model_fields if name not in NOT_SHOWN}
    recipe = job.config.recipe.model_dump(exclude={"groups"})
    return {**options, **options_of(job.config.split), "seed": job.config.seed, **recipe}


def defaults(job: RunJob, dataset: Dataset) -> Mapping[str, Any]:
    """The values that settings have if nothing is given; the split and the fill follow from the data."""
    fields = {**TrainingOptions.model_fields, **SplitOptions.model_fields}
    return {
        **{name: field.default for name, field in fields.items()},
        "split": "stratified" if job.schema.probabilities else "kfold",
        "missing": usual_fill(dataset.schema, dataset.statistics),
        **usual_recipe(job.config.model).model_dump(),
    }


def in_words(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value in (None, "") else f"{value:g}" if isinstance(value, float) else str(value)
