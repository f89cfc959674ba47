"""The folds of a dataset of predictions: those of the runs, whose models have not seen the rows of a fold."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ...storage.blocks.reader import BlockReader
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.fold_plan import FoldPlan, ModelRows, open_plan
from ...storage.format.manifest import MANIFEST, PLAN_OF_RUNS, PLANS
from ...storage.options import flag_of
from .assignments import Assignment
from .split import Split, SplitOptions, options_of


@dataclass(frozen=True)
class Copied(Assignment):
    """The codes of the plan at a location, which is one of the same rows in the same layout."""

    plan: str
    largest_group: float = 0.0

    @classmethod
    def of(cls, plan: FoldPlan) -> Self:
        return cls(str(plan.place), plan.manifest.details["largest_group"])

    @property
    def models(self) -> tuple[ModelRows, ...]:
        return open_plan(self.plan).models

    @property
    def holdout(self) -> tuple[int, ...]:
        return open_plan(self.plan).holdout.held_out

    @property
    def purged(self) -> tuple[int, ...]:
        return tuple(open_plan(self.plan).manifest.details.get("purged", ()))

    def codes(self, dataset: Dataset, shard: int) -> list[np.ndarray]:
        plan = open_plan(self.plan)
        names = [spec.name for spec in plan.manifest.arrays]
        found = BlockReader(plan, names).read(plan.layout.blocks_of(shard))
        return [found[name] for name in names]


def plan_of_runs(dataset: Dataset) -> FoldPlan | None:
    """The folds of the runs whose predictions are features of a dataset; None for other datasets. Raises UsageError if
    they are missing."""
    if not dataset.schema.stacked:
        return None
    place = dataset.place / PLANS / PLAN_OF_RUNS
    if not (place / MANIFEST).exists():
        raise UsageError(
            f"{dataset.place} lacks the folds of the runs whose predictions it has; repeat the 'foldstream stack' "
            "command"
        )
    return open_plan(place)


def split_in(plan: FoldPlan) -> Split:
    """The split of a plan."""
    return Split.model_validate(plan.manifest.details["split"])


def split_of_runs(plan: FoldPlan, options: SplitOptions) -> Split:
    """The split of the runs. Raises UsageError for options that ask for another one."""
    split = split_in(plan)
    own, given = options_of(split), options.part(SplitOptions)
    usual = SplitOptions().part(SplitOptions)
    differ = [name for name in given if given[name] not in (usual[name], own.get(name))]
    if differ:
        name = differ[0]
        raise UsageError(
            f"{flag_of(SplitOptions, name)} {given[name]}: the features are predictions of models that were trained "
            "with the folds of their runs, so only these folds keep held-out rows unseen; remove the option, or train "
            "the runs again with it"
        )
    return split
