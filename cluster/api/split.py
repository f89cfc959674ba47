"""Assigning the rows of a dataset to folds, and keeping that with the dataset by name."""

import re

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import ConflictError, UsageError
from ...storage.fold_plan import FoldPlan, open_plan
from ...storage.format import MANIFEST, PLANS
from ...storage.places.place import Place
from ...training.splits.checks import plan_warnings
from ...training.splits.choose import choose_split
from ...training.splits.plan import make_plan
from ...training.splits.split import Split
from ..dask.executor import job_executor
from ..listener import Listener
from ..requests import Session, SplitRequest, TrainRequest
from .entry import entry


class SplitCall(SplitRequest, Session):
    """The keywords of `foldstream.split_rows`."""


@entry(SplitCall, SplitRequest)
def split_rows(request: SplitRequest, session: Session) -> FoldPlan:
    """Assign every row of a dataset to folds, and keep that with the dataset as a named plan, or open it.

    Args:
        dataset: Dataset to split.
        name: Name of the plan.
        split: kfold (at random); contiguous (consecutive ranges of rows); stratified (the same distribution of the
            classes, of the target, or of several targets that are 0 or 1, in each fold); group or stratified-group (all
            rows with one value of `group_column` together); time (along `order_column`: each fold trains on earlier
            rows, less a `gap` in the column's units, and with a `group_column` less the groups of its held-out rows);
            or column (the folds that `fold_column` names, -1 for rows that are never held out).
        overwrite: Replace another plan of that name.
        **options: All other options of `foldstream split`; `foldstream split --help` describes them.

    Returns:
        The plan.

    Raises:
        UsageError: The data cannot be split so.
        ConflictError: There is another plan of that name.

    Example:
        >>> plan = fs.split_rows("trips.zarr", "weekly", split="time", order_column="day", gap=7)
    """
    return assign_folds(request, session)


def assign_folds(request: SplitRequest, session: Session) -> FoldPlan:
    """Make or open the plan of a request; see `split_rows`."""
    opened, name = open_dataset(str(request.dataset)), request.name
    wanted = choose_split(opened.schema, request, request.seed)
    root = plan_place(opened, name)
    if (root / MANIFEST).exists() and not request.overwrite and named_split(opened, name) != wanted:
        raise ConflictError(f"{root} holds another plan; choose another name, or replace it with --overwrite")
    with job_executor(session.listener, session.client) as executor:
        plan = make_plan(opened, wanted, root, executor=executor, progress=session.listener.progress)
    warn_of_plan(opened, plan, session.listener)
    return plan


def warn_of_plan(dataset: Dataset, plan: FoldPlan, listener: Listener) -> None:
    """Announce what the user should know about the folds of a dataset before training."""
    for line in plan_warnings(dataset, plan):
        listener.announce("warning", line)


def plan_place(dataset: Dataset, name: str) -> Place:
    """Where a dataset keeps its fold plan of that name. Raises UsageError for what is no name."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UsageError(f"'{name}' is not a valid name for a plan; use letters, digits, dashes and dots")
    return dataset.place / PLANS / name


def split_of(request: TrainRequest, dataset: Dataset) -> Split:
    """The split that a training asks for: that of a plan of its dataset, or its own. Raises UsageError."""
    return named_split(dataset, request.plan) if request.plan else choose_split(dataset.schema, request, request.seed)


def named_split(dataset: Dataset, name: str) -> Split:
    """The split of a dataset's plan. Raises UsageError where there is none of that name."""
    place = plan_place(dataset, name)
    if not (place / MANIFEST).exists():
        there = (dataset.place / PLANS).names() or ["none"]
        raise UsageError(
            f"{dataset.place} has no plan '{name}', it has {', '.join(there)}; 'foldstream split' makes one"
        )
    return Split.model_validate(open_plan(place).manifest.details["split"])
