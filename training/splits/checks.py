"""Checks of a plan's row counts: errors, and warnings before training."""

from collections.abc import Sequence

import numpy as np

from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.fold_plan import FoldPlan, code_array
from .assignments import Assignment
from .split import Split

UNEVEN = 2  # times as many rows in the largest fold of a group split as in the smallest
NAMED = 5  # classes that get a warning of their own


def check_counts(assignment: Assignment, totals: dict[str, np.ndarray], least: int, split: Split) -> None:
    """Raise UsageError unless every model has held-out rows and at least `least` training rows, and the holdout, if
    any, is not empty.

    `totals` are the rows of each code, (codes,), in each array.
    """
    for number, rows in enumerate(assignment.models):
        held_out, trained = (int(totals[rows.array][list(codes)].sum()) for codes in (rows.held_out, rows.train))
        if not held_out:
            raise UsageError(f"fold {number} has no rows, because there are too few groups or rows; use fewer folds")
        if trained < least:
            remedies = ["a smaller --batch-size"]
            remedies += ["fewer --folds", "a smaller --gap"] if split.kind == "time" else []
            remedies += ["no --group-column, which excludes groups from training"] if split.group_column else []
            raise UsageError(
                f"fold {number} trains on {trained:,} rows, but a batch needs at least {least}; use {either(remedies)}"
            )
    if assignment.holdout and not totals[code_array(0)][list(assignment.holdout)].any():
        raise UsageError(
            f"--holdout {split.holdout:g}: the holdout has no rows, because there are too few groups or rows; use a "
            "larger fraction, or fewer --folds"
        )


def either(choices: Sequence[str]) -> str:
    """Join choices as `one, another or the last`."""
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def plan_warnings(dataset: Dataset, plan: FoldPlan) -> list[str]:
    """Warnings about the folds of a dataset before training, one line each."""
    split = Split.model_validate(plan.manifest.details["split"])
    held_out = [int(plan.counts(rows.array, rows.held_out).sum()) for rows in plan.models]
    folds = len(held_out) // split.repeats
    lines = rare_classes(dataset.schema.classes, dataset.class_totals, folds)
    for column in filter(None, (split.column, split.group_column)):
        if column in dataset.schema.features:
            lines.append(
                f"the folds are split by '{column}', which is also a feature; to exclude it from the features, "
                "convert with --group, --time or --fold"
            )
    if split.kind in ("group", "stratified-group"):
        lines += uneven_folds(held_out, folds, plan.manifest.details.get("largest_group", 0.0))
    return lines


def rare_classes(names: Sequence[str], rows: Sequence[int], folds: int) -> list[str]:
    """One line for each class with fewer rows than folds, the rarest first, and one line for any further classes."""
    rare = sorted((count, name) for name, count in zip(names, rows, strict=True) if count < folds)
    lines = [
        f"class '{name}' has {count:,} row{'' if count == 1 else 's'}, fewer than the {folds} folds, so it is missing "
        "from the held-out rows of some folds; use fewer --folds, or merge it with another class"
        for count, name in rare[:NAMED]
    ]
    return lines + [f"{len(rare) - NAMED:,} more classes have fewer rows than the {folds} folds"] * (len(rare) > NAMED)


def uneven_folds(held_out: Sequence[int], folds: int, largest_group: float) -> list[str]:
    """One line if, in any repeat of a group split, the largest fold has more than twice the rows of the smallest.

    `held_out` are the held-out rows of all models, `largest_group` is the share of the rows in one bucket of groups.
    """
    repeats = [held_out[first : first + folds] for first in range(0, len(held_out), folds)]
    sizes = max(repeats, key=lambda sizes: max(sizes) / min(sizes))
    most, fewest = max(sizes), min(sizes)
    if most <= UNEVEN * fewest:
        return []
    first = repeats.index(sizes) * folds
    return [
        f"fold {first + sizes.index(most)} holds out {most:,} rows, but fold {first + sizes.index(fewest)} only "
        f"{fewest:,}: the largest group has {largest_group:.1%} of the rows, and groups are never split; use fewer "
        "--folds, or a --group-column with smaller groups"
    ]
