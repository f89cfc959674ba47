"""The plan of a prediction: what to predict with which run. Tasks carry it, and it needs neither torch nor Ray."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ...pipeline.predictions.columns import names_of_rows
from ...pipeline.predictions.form import PredictedForm
from ...pipeline.predictions.known_labels import LabelScale, SourceScores
from ...pipeline.predictions.receipts import Tally
from ...pipeline.predictions.scores import Scorer
from ...pipeline.predictions.unknown import UnknownCategories
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError
from ...storage.format.schema import Schema
from ...storage.places.locate import locate
from ...training.settings import own_metrics, scoring_of
from ..requests import PredictRequest
from .members import Members, read_members


@dataclass(frozen=True)
class PredictionPlan:
    """Predict the `dataset` with the models of the `run`, or of an ensemble of runs, combined by `ensemble`. Columns
    are as in `PredictedForm`. `scale` is that of the labels if predictions are scored."""

    run: str
    dataset: str
    ensemble: str
    names: tuple[str, ...]
    id: str | None
    proba: bool
    scale: LabelScale | None

    @classmethod
    def of(cls, request: PredictRequest, members: Members, dataset: Dataset) -> Self:
        """The plan for a request whose source has become a dataset."""
        # Scores of rows that the models were trained on say nothing.
        schema = members.schema
        known = not members.identities.isdisjoint((dataset.identity, *dataset.earlier))
        scale = None if known else LabelScale.of(dataset, schema)
        names = check_columns(request, schema, names_of_rows(dataset.schema, request.id))
        return cls(str(members.root.root), dataset.reference, request.ensemble, names, request.id, request.proba, scale)

    def open(self) -> "OpenPlan":
        """Read what the plan names."""
        members, dataset = read_members(locate(self.run)), open_dataset(self.dataset)
        return OpenPlan(self, members, dataset, PredictedForm(members.schema, dataset, self.names, self.id, self.proba))


@dataclass(frozen=True)
class OpenPlan:
    """A plan with what predicts, its dataset and the form of the predictions."""

    plan: PredictionPlan
    members: Members
    dataset: Dataset
    form: PredictedForm

    def tally(self) -> Tally:
        """An empty tally."""
        job, scale = self.members.job, self.plan.scale
        scorer = Scorer(scoring_of(job.schema, job.config), own_metrics(job.config))
        scores = SourceScores(scorer, self.dataset.schema, scale) if scale else None
        return Tally(UnknownCategories(self.members.schema), scores)


def check_columns(request: PredictRequest, schema: Schema, rows: Sequence[str]) -> tuple[str, ...]:
    """The names of the first columns: of what identifies the rows, by default `rows`, of the labels,
    and for images of the class's probability unless that of every class follows.

    Raises UsageError for a wrong number of names, and for two columns of the same name.
    """
    probability = ("probability",) if schema.image and schema.classes and not request.proba else ()
    usual = (*rows, *schema.labels, *probability)
    names = tuple(request.columns or usual)
    if len(names) != len(usual):
        raise UsageError(f"--columns {','.join(names)}: {len(usual)} names are needed, e.g. {','.join(usual)}")
    every = (*names, *(f"probability_{name}" for name in schema.classes if request.proba))
    if twice := [name for name in names if every.count(name) > 1]:
        raise UsageError(
            f"two columns would have the name '{twice[0]}'; give {len(usual)} other names, e.g. "
            f"--columns {','.join(f'{name}_{i}' for i, name in enumerate(usual, 1))}"
        )
    return names


def check_same_features(expected: Schema, found: Schema, source: str | Path) -> None:
    """Raise UsageError unless a dataset has the columns and the sample shape that a run was trained on."""
    if not expected.table:  # then those of the source do not matter
        found = replace(found, table=None)
    kinds = [
        (one.features, one.sample_shape, one.categories, one.dates, one.table, one.tokens, one.windows)
        for one in (expected, found)
    ]
    if kinds[0] != kinds[1]:
        features = expected.tabular.features
        missing = [name for name in features if name not in found.tabular.features]
        difference = f"its samples have shape {found.sample_shape}, but the run expects {expected.sample_shape}"
        if missing:
            difference = f"it is missing {', '.join(missing[:5])}" + (
                f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            )
        elif features != found.tabular.features:
            difference = "the columns or their order differ"
        elif expected.sample_shape == found.sample_shape:
            difference = "its categories or dates have different codes, or its token ids another meaning"
            if expected.windows != found.windows:
                difference = "its windows have other lengths, horizons or series"
        raise UsageError(
            f"{source} does not have the run's columns: {difference}; predict the source files directly, or convert "
            "them with --like and the dataset that the run was trained on"
        )
