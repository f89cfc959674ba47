"""Choose the split for the user's options, and check it against the dataset's schema."""

from collections.abc import Collection

from ...storage.errors import UsageError
from ...storage.format.schema import Schema
from ...storage.options import flag_of
from .columns import find_column
from .split import ALSO, COLUMN_OPTIONS, MOST_FOLDS, ONCE, Kind, Split, SplitOptions
from .windows import check_window_split

MOST_HOLDOUT_MODELS = 255  # all of them predict each of its rows, and are counted in a byte


def choose_split(schema: Schema, options: SplitOptions, seed: int) -> Split:
    """Choose the split for the user's options. The kind and the columns default to the roles that columns were given at
    conversion. Raises UsageError."""
    named, roles = options.columns, role_columns(schema)
    kind = options.split
    if kind == "auto":
        if schema.windows:  # whose groups are series: each model should know the past of all of them
            roles.pop("group_column", None)
        kind = automatic_kind(schema, named or roles)
        if not named:
            kind = "stratified-group" if kind == "group" and schema.task == "classification" else kind
            fitting = (COLUMN_OPTIONS.get(kind), ALSO.get(kind))
            named = {option: column for option, column in roles.items() if option in fitting}
    wanted, also = COLUMN_OPTIONS.get(kind), ALSO.get(kind)
    if wanted and wanted not in named:
        if wanted not in roles:
            raise UsageError(f"--split {kind} needs a column; add {flag_of(SplitOptions, wanted)} COLUMN")
        named = {**named, wanted: roles[wanted]}
    if other := [option for option in named if option not in (wanted, also)]:
        flag = flag_of(SplitOptions, other[0])
        raise UsageError(f"{flag} cannot be used with --split {kind}; remove it, or choose another kind of split")
    if options.gap and kind != "time":
        raise UsageError(f"--gap {options.gap:g}: only --split time has a gap; remove the option")
    shared = {name: getattr(options, name) for name in ("folds", "repeats", "holdout", "gap")}
    column, group_column = named.get(wanted or ""), named.get(also or "")
    split = Split(kind=kind, seed=seed, column=column, group_column=group_column, **shared)
    check_split(split, schema)
    return split


def automatic_kind(schema: Schema, columns: Collection[str]) -> Kind:
    """The kind of split implied by the given column options; without any, the default for the task."""
    for kind in ("column", "time", "group"):
        if COLUMN_OPTIONS[kind] in columns:
            return kind
    return "stratified" if schema.probabilities else "kfold"


def role_columns(schema: Schema) -> dict[str, str]:
    """The columns with a role in splits, by the option that would name them."""
    roles = {"group_column": "group", "order_column": "time", "fold_column": "fold"}
    found = {option: schema.role(role) for option, role in roles.items()}
    return {option: column for option, column in found.items() if column}


def check_split(split: Split, schema: Schema) -> None:
    """Raise UsageError for a split that is not possible with this schema."""
    kind = split.kind
    if schema.windows:
        check_window_split(split, schema.windows)
    if kind == "stratified-group" and schema.task != "classification":
        raise UsageError(f"--split {kind} needs classes; use --split group")
    if kind == "stratified" and (not schema.labels or schema.dense):
        what = "a label" if not schema.labels else f"a class or a number per row, but '{schema.labels[0]}' is none"
        raise UsageError(f"--split {kind} needs {what}; use --split kfold")
    fewest = 1 if split.holdout or kind in ("time", "column") else 2
    if not fewest <= split.folds <= MOST_FOLDS:
        raise UsageError(f"--folds {split.folds}: must be between {fewest} and {MOST_FOLDS}")
    if split.repeats > 1 and (kind in ONCE or split.folds == 1):
        raise UsageError(
            f"--repeats {split.repeats}: --split {kind} with {split.folds} folds is always the same; use --repeats 1"
        )
    if not (split.holdout == 0 or 0.001 <= split.holdout <= 0.9):
        raise UsageError(f"--holdout {split.holdout:g}: must be between 0.001 and 0.9, e.g. 0.33 for a third")
    if split.holdout and kind == "column":
        raise UsageError(
            "--holdout: with --split column, the column decides which rows are held out; remove the option"
        )
    if split.holdout and split.folds * split.repeats > MOST_HOLDOUT_MODELS:
        raise UsageError(
            f"--holdout with {split.folds} folds and {split.repeats} repeats: at most {MOST_HOLDOUT_MODELS} models are "
            "supported; use fewer folds or repeats"
        )
    for column in filter(None, (split.column, split.group_column)):
        find_column(schema, column)
