"""Assign the rows of a dataset to folds, and save the plan with the dataset under a name."""

import re

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import ConflictError, UsageError
from ...storage.fold_plan import FoldPlan, open_plan
from ...storage.format.manifest import MANIFEST, PLANS
from ...storage.places.place import Place
from ...training.splits.checks import plan_warnings
from ...training.splits.choose import choose_split
from ...training.splits.copied import plan_of_runs, split_in, split_of_runs
from ...training.splits.plan import make_plan
from ...training.splits.split import Split, SplitOptions
from ..dask.executor import job_executor
from ..listener import Listener
from ..requests import Keywords, Session, SplitRequest, TrainRequest
from .entry import entry


class SplitCall(SplitRequest, Keywords):
    """The keywords of `foldstream.split_rows`."""


@entry(SplitCall, SplitRequest)
def split_rows(request: SplitRequest, session: Session) -> FoldPlan:
    """Assign every row of a dataset to folds and save them with the dataset as a named plan, or open an existing plan.

    Args:
        dataset: Dataset to split.
        name: Name of the plan.
        split: "kfold" (random); "contiguous" (consecutive ranges of rows); "stratified" (each fold has the same
            distribution of classes, of the regression target, or of several 0/1 labels); "group" or "stratified-group"
            (all rows with the same value of `group_column` stay together); "time" (along `order_column`: each fold
            trains on earlier rows, except for a `gap` in the column's units and, with a `group_column`, except for the
            groups of its held-out rows); or "column" (fold numbers from `fold_column`, -1 for rows that are never held
            out).
        overwrite: Replace an existing plan of that name.
        **options: All other options of `foldstream split`; see `foldstream split --help`.

    Returns:
        The plan.

    Raises:
        UsageError: The dataset cannot be split this way.
        ConflictError: A different plan of that name exists.

    Example:
        >>> plan = fs.split_rows("flowers.zarr", "ten", split="stratified", folds=10)
        >>> len(plan.models)
        10
    """
    return assign_folds(request, session)


def assign_folds(request: SplitRequest, session: Session) -> FoldPlan:
    """Create or open the plan of a request; see `split_rows`."""
    opened, name = open_dataset(str(request.dataset)), request.name
    wanted = wanted_split(opened, request, request.seed)
    root = plan_place(opened, name)
    if (root / MANIFEST).exists() and not request.overwrite and named_split(opened, name) != wanted:
        raise ConflictError(f"{root} already contains a different plan; choose another name, or use --overwrite")
    with job_executor(session.listener, session.client) as executor:
        plan = make_plan(opened, wanted, root, executor=executor, progress=session.listener.progress)
    warn_of_plan(opened, plan, session.listener)
    return plan


def warn_of_plan(dataset: Dataset, plan: FoldPlan, listener: Listener) -> None:
    """Warn about anything unusual in the folds of a dataset before training."""
    for line in plan_warnings(dataset, plan):
        listener.announce("warning", line)


def plan_place(dataset: Dataset, name: str) -> Place:
    """Where a dataset stores the fold plan of that name. Raises UsageError for an invalid name."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UsageError(f"'{name}' is not a valid plan name; use letters, digits, dashes and dots")
    return dataset.place / PLANS / name


def split_of(request: TrainRequest, dataset: Dataset) -> Split:
    """The split to train with: that of a named plan of the dataset, or the one in the request. Raises UsageError."""
    return named_split(dataset, request.plan) if request.plan else wanted_split(dataset, request, request.seed)


def wanted_split(dataset: Dataset, options: SplitOptions, seed: int) -> Split:
    """The split that options ask for; on a dataset of predictions, that of their runs. Raises UsageError."""
    if plan := plan_of_runs(dataset):
        return split_of_runs(plan, options)
    return choose_split(dataset.schema, options, seed)


def named_split(dataset: Dataset, name: str) -> Split:
    """The split of a dataset's plan. Raises UsageError if there is no plan of that name."""
    place = plan_place(dataset, name)
    if not (place / MANIFEST).exists():
        there = (dataset.place / PLANS).names() or ["none"]
        raise UsageError(
            f"{dataset.place} has no plan '{name}' (available: {', '.join(there)}); create it with 'foldstream split'"
        )
    return split_in(open_plan(place))
