"""How rows are split into folds, as frozen values that are checked before anything is read."""

from typing import ClassVar, Literal

from pydantic import Field

from ...storage.options import Options

Kind = Literal["kfold", "contiguous", "stratified", "group", "stratified-group", "time", "column"]
COLUMN_OPTIONS = {
    "group": "group_column",
    "stratified-group": "group_column",
    "time": "order_column",
    "column": "fold_column",
}
"""The column option of each kind of split that needs one."""
ALSO = {"time": "group_column"}
"""The option for an additional column, by kind of split."""
ONCE = "contiguous", "time", "column"
"""Kinds of split that are identical in every repeat."""
MOST_FOLDS = 100  # per repeat: time needs two codes a fold, and one for the holdout, in a byte
MOST_REPEATS = 100


class Split(Options):
    """Which rows are held out from which model.

    kfold: random; contiguous: consecutive ranges of rows; stratified: the same distribution of the classes, of the
    regression target, or of 0/1 labels in each fold; group, stratified-group: all rows with the same value of `column`
    stay together; time: fold f is evaluated on a range of `column`'s values and trains on all earlier rows, except for
    a `gap` in the column's units and, with a `group_column`, except for the groups on which it is evaluated; column:
    the user's own folds, where -1 means never held out.

    The split is repeated `repeats` times with different folds; a fraction `holdout` of the rows is hidden from every
    model and scores all of them together.
    """

    kind: Kind = Field(default="stratified")
    folds: int = Field(default=5)
    seed: int = Field(default=0)
    repeats: int = Field(default=1, ge=1, le=MOST_REPEATS)
    holdout: float = Field(default=0.0)
    column: str | None = Field(default=None)
    gap: float = Field(default=0.0, ge=0)
    group_column: str | None = Field(default=None)

    @property
    def arrays(self) -> int:
        """Number of arrays of codes, one byte per row: one per repeat, or one per model for a time split with
        groups."""
        return self.folds if self.group_column else self.repeats


class SplitOptions(Options):
    """The split that a user requests; its kind may follow from the data and the given column."""

    panel: ClassVar[str] = "Folds"

    folds: int = Field(default=5, description="Number of folds.")
    split: Literal["auto"] | Kind = Field(
        default="auto",
        description="Kind of split: kfold, contiguous, stratified, group, stratified-group, time or column; auto: the "
        "kind whose column is given, otherwise stratified for classes and 0/1 labels, kfold for regression; time for "
        "windows over time series.",
    )
    repeats: int = Field(
        default=1, ge=1, le=MOST_REPEATS, description="Number of times to repeat the split, with different folds."
    )
    holdout: float = Field(
        default=0.0, description="Fraction of rows hidden from every model, e.g. 0.33; used to score the ensemble."
    )
    group_column: str | None = Field(
        default=None,
        description="Column for group splits: rows with the same value stay in the same fold. With a time split, "
        "models do not train on the groups of their held-out rows.",
    )
    order_column: str | None = Field(
        default=None, description="Column for time splits: each fold trains on earlier rows only."
    )
    gap: float = Field(
        default=0.0, ge=0, description="Gap between training and held-out rows of a time split, in the column's units."
    )
    fold_column: str | None = Field(
        default=None, description="Column with your own fold numbers; -1 marks rows that are never held out."
    )

    @property
    def columns(self) -> dict[str, str]:
        """The given columns, by option."""
        named = {option: getattr(self, option) for option in dict.fromkeys(COLUMN_OPTIONS.values())}
        return {option: column for option, column in named.items() if column}


def options_of(split: Split) -> dict[str, object]:
    """The options, by name, that produce a split."""
    shared = {name: getattr(split, name) for name in Split.model_fields.keys() & SplitOptions.model_fields.keys()}
    column = {COLUMN_OPTIONS[split.kind]: split.column} if split.kind in COLUMN_OPTIONS else {}
    return {**shared, "split": split.kind, **column}
