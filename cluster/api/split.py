"""Assigning the rows of a dataset to folds, and keeping that with the dataset by name."""

import re
from pathlib import Path

from distributed import Client

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import ConflictError, UsageError
from ...storage.fold_plan import PLANS, FoldPlan, open_plan
from ...storage.format import MANIFEST
from ...storage.places.place import Place
from ...training.splits.plan import make_plan
from ...training.splits.split import Split, choose_split
from ..dask.executor import _task_executor
from ..listener import SILENT, Listener


def split_rows(
    dataset: str | Path,
    name: str = "default",
    *,
    folds: int = 5,
    split: str = "auto",
    seed: int = 0,
    repeats: int = 1,
    holdout: float = 0.0,
    group_column: str | None = None,
    order_column: str | None = None,
    gap: float = 0.0,
    fold_column: str | None = None,
    overwrite: bool = False,
    listener: Listener = SILENT,
    client: Client | None = None,
) -> FoldPlan:
    """Assign every row of a dataset to folds and keep that with the dataset as the plan `name`, or open it.

    `split` is kfold, stratified (alike in each class), group or stratified-group (all rows with one value of
    `group_column` together), time (along `order_column`, each fold trained on earlier rows, less a `gap` in the
    column's units), or column (the folds that `fold_column` names, -1 for rows that are never held out). `repeats`
    times over, each with other folds; a share `holdout` of the rows is seen by no model. Raises UsageError where the
    data cannot be split so, ConflictError where there is another plan of that name.
    """
    opened = open_dataset(dataset)
    columns = group_column, order_column, gap, fold_column
    wanted = choose_split(opened.schema, split, folds, seed, repeats, holdout, *columns)
    root = plan_place(opened, name)
    if (root / MANIFEST).exists() and not overwrite and named_split(opened, name) != wanted:
        raise ConflictError(f"{root} holds another plan; choose another name, or replace it with --overwrite")
    with _task_executor(opened.rows, listener, client) as executor:
        return make_plan(opened, wanted, root, executor=executor, progress=listener.progress)


def plan_place(dataset: Dataset, name: str) -> Place:
    """Where a dataset keeps its fold plan of that name. Raises UsageError for what is no name."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UsageError(f"«{name}» is no name for a plan; use letters, digits, dashes and dots")
    return dataset.place / PLANS / name


def named_split(dataset: Dataset, name: str) -> Split:
    """The split of a dataset's plan. Raises UsageError where there is none of that name."""
    place = plan_place(dataset, name)
    if not (place / MANIFEST).exists():
        there = (dataset.place / PLANS).names() or ["none"]
        raise UsageError(
            f"{dataset.place} has no plan «{name}», it has {', '.join(there)}; «foldstream split» makes one"
        )
    return Split.from_json(open_plan(place).manifest.details["split"])
