"""What a dataset of predictions consists of, decided before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...storage.dataset import open_dataset
from ...storage.errors import UsageError
from ...storage.format.layout import Layout
from ...storage.format.schema import Schema, StackForm


@dataclass(frozen=True)
class StackedRun:
    """A run: where it is, the hash of its results, its name in the columns, and its predictions of all rows that are
    held out from a model, and of those that no model has seen, if there are any."""

    place: str
    stamp: str
    name: str
    oof: str
    holdout: str | None


@dataclass(frozen=True)
class StackRequest:
    """The predictions of `runs` become features of the rows of a `dataset` with an `identity`, beside those that they
    have, or as the `only` ones."""

    dataset: str
    identity: str
    runs: tuple[StackedRun, ...]
    only: bool

    def to_json(self) -> dict[str, Any]:
        """What identifies the conversion; stored with it."""
        return {
            "stack": [vars(run) for run in self.runs],
            "sources": [self.dataset],
            "identity": self.identity,
            "only": self.only,
        }


@dataclass(frozen=True)
class StackSpec:
    """What the conversion writes. No row is skipped."""

    layout: Layout
    schema: Schema
    request: dict[str, Any]
    source_bytes: int
    skipped: int = 0
    skipped_rows: Sequence[int] = ()


def specify_stack(request: StackRequest) -> StackSpec:
    """Specify a dataset. Raises UsageError for features to which columns cannot be added."""
    dataset = open_dataset(request.dataset)
    outputs = dataset.schema.classes or dataset.schema.labels
    if dataset.schema.dense:
        outputs = tuple(str(number) for number in range(dataset.schema.outputs))
    columns = tuple(f"{run.name}/{output}" for run in request.runs for output in outputs)
    places, stamps = zip(*((run.place, run.stamp) for run in request.runs), strict=True)
    form = StackForm(places, stamps, columns, request.only, dataset.schema)
    return StackSpec(dataset.layout, stacked_schema(form), request.to_json(), dataset.stored_bytes)


def stacked_schema(form: StackForm) -> Schema:
    """The schema of rows with predictions as features: further columns of tables and beside images."""
    base, names = form.base, form.columns
    if form.only:
        stored = {column.name for column in base.beside}
        roles = {role: tuple(name for name in named if name in stored) for role, named in base.roles.items()}
        dtype = "float32" if base.probabilities else "float64"
        plain = replace(
            base, features=names, sample_shape=(len(names),), x_dtype=dtype, roles=roles, left_out={}, formats={}
        )
        plain = replace(plain, categories={}, dates={}, image=None, table=None, tokens=None, windows=None)
        return replace(plain, encoded=False, stacked=form)
    if twice := [name for name in names if name in base.tabular.features]:
        raise UsageError(f"the dataset already has a column '{twice[0]}'; rename the folder of the run")
    if base.tokens or base.windows:
        what = "sequences of token ids" if base.tokens else "windows over time series"
        raise UsageError(f"samples are {what}, to which no columns can be added; use --only, for the predictions alone")
    if len(base.sample_shape) == 1:
        features = (*base.features, *names)
        dtype = np.result_type(base.x_dtype, np.float32).name
        return replace(base, features=features, sample_shape=(len(features),), x_dtype=dtype, stacked=form)
    table = base.table or Schema((), (0,), "float64")
    features = (*table.features, *names)
    return replace(base, table=replace(table, features=features, sample_shape=(len(features),)), stacked=form)
