"""How rows become folds, as a frozen value that is checked before anything is read."""

from dataclasses import dataclass
from typing import Any, Self

from ...storage.errors import UsageError, check_choice
from ...storage.format import Schema
from .columns import find_column

KINDS = ("kfold", "stratified", "group", "stratified-group", "time", "column")
COLUMN_OPTIONS = {
    "group": "--group-column",
    "stratified-group": "--group-column",
    "time": "--order-column",
    "column": "--fold-column",
}
"""The option that names the column of a kind that has one."""
MOST_FOLDS = 100  # of a repeat: time needs two codes a fold, and one for the holdout, in a byte
MOST_REPEATS = 100
MOST_HOLDOUT_MODELS = 255  # all of them predict each of its rows, and are counted in a byte


@dataclass(frozen=True)
class Split:
    """Which rows are held out from which model.

    kfold: by position; stratified: alike in each class; group, stratified-group: all rows with one value of `column`
    stay together; time: fold f is tried on a stretch of `column`'s values and trains on all earlier ones, less a
    `gap` in the column's own units; column: the user's own folds, where -1 is never held out.

    `repeats` times over with other folds each; a share `holdout` of the rows is seen by no model and scores all of
    them together.
    """

    kind: str = "stratified"
    folds: int = 5
    seed: int = 0
    repeats: int = 1
    holdout: float = 0.0
    column: str | None = None
    gap: float = 0.0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**value)


def choose_split(
    schema: Schema,
    kind: str,
    folds: int,
    seed: int,
    repeats: int,
    holdout: float,
    group_column: str | None,
    order_column: str | None,
    gap: float,
    fold_column: str | None,
) -> Split:
    """The split that options ask for, `kind` "auto" by the column that they name. Raises UsageError."""
    given = {"--group-column": group_column, "--order-column": order_column, "--fold-column": fold_column}
    named = {option: column for option, column in given.items() if column}
    if kind == "auto":
        kind = "stratified" if schema.task == "classification" else "kfold"
        for fitting, option in (("group", "--group-column"), ("time", "--order-column"), ("column", "--fold-column")):
            kind = fitting if option in named else kind
    check_choice("--split", kind, KINDS)
    wanted = COLUMN_OPTIONS.get(kind)
    if wanted and wanted not in named:
        raise UsageError(f"--split {kind} needs {wanted} COLUMN")
    if other := [option for option in named if option != wanted]:
        raise UsageError(f"--split {kind} takes no {other[0]}; leave it out, or choose another kind")
    if gap and kind != "time":
        raise UsageError(f"--gap {gap:g}: only --split time has a gap")
    split = Split(kind, folds, seed, repeats, holdout, named.get(wanted or ""), gap)
    check_split(split, schema)
    return split


def check_split(split: Split, schema: Schema) -> None:
    """Raise UsageError for a split that data with this schema cannot have."""
    kind = split.kind
    if kind.startswith("stratified") and schema.task != "classification":
        other = "group" if split.column else "kfold"
        raise UsageError(f"--split {kind} needs classes; use --split {other} for a regression")
    fewest = 1 if split.holdout or kind in ("time", "column") else 2
    if not fewest <= split.folds <= MOST_FOLDS:
        raise UsageError(f"--folds {split.folds}: it must be from {fewest} to {MOST_FOLDS}")
    if not 1 <= split.repeats <= MOST_REPEATS:
        raise UsageError(f"--repeats {split.repeats}: it must be from 1 to {MOST_REPEATS}")
    if split.repeats > 1 and (kind in ("time", "column") or split.folds == 1):
        raise UsageError(f"--repeats {split.repeats}: --split {kind} with {split.folds} folds is the same each time")
    if not (split.holdout == 0 or 0.001 <= split.holdout <= 0.9):
        raise UsageError(f"--holdout {split.holdout:g}: it must be from 0.001 to 0.9, as in 0.33 for a third")
    if split.holdout and kind == "column":
        raise UsageError("--holdout: with --split column, the column says what is held out")
    if split.holdout and split.folds * split.repeats > MOST_HOLDOUT_MODELS:
        raise UsageError(
            f"--holdout with {split.folds} folds, {split.repeats} times: at most {MOST_HOLDOUT_MODELS} models can be "
            "counted in a byte; use fewer folds or repeats"
        )
    if split.gap < 0:
        raise UsageError(f"--gap {split.gap:g}: it must not be below 0")
    if split.column:
        find_column(schema, split.column)
