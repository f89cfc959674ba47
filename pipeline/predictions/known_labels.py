"""Scores of predictions of new rows, as far as their source has labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from ...storage.blocks.reader import BlockReader, block_runs
from ...storage.dataset import Dataset
from ...storage.format.arrays import TABLE
from ...storage.format.schema import Schema
from ...storage.metrics.scoring import Scoring
from ..target.labels import class_codes, truths
from .columns import side_values
from .scores import MergedScores, Scorer

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class LabelScale:
    """Values near the means of the labels, from which sums are counted, and near the mean weight of rows. Sums can only
    be added up if they have the same."""

    center: tuple[float, ...]
    unit: float

    @classmethod
    def of(cls, dataset: Dataset, of_run: Schema) -> "LabelScale | None":
        """That of the first rows of a dataset that have labels; None if there are none."""
        names = [spec.name for spec in dataset.manifest.arrays if spec.name not in ("x", TABLE)]
        reader = BlockReader(dataset, names)
        for blocks in block_runs(dataset, range(dataset.layout.blocks)):
            found = rows_with_labels(of_run, dataset.schema, reader.read(blocks))
            if found is None or len(found.y):
                return found and found.scale()
        return None


class RowsWithLabels(NamedTuple):
    """Which rows of a batch have labels, (rows,) bool, and of these the labels, (rows,) or (rows, labels), and the
    weights, (rows,)."""

    which: np.ndarray
    y: np.ndarray
    weights: np.ndarray

    def scale(self) -> LabelScale:
        """The scale of these rows."""
        channels = (0, 2, 3) if self.y.ndim == 4 else 0
        center = np.zeros(0) if self.y.ndim == 3 else np.atleast_1d(self.y.mean(axis=channels))  # masks have no mean
        return LabelScale(tuple(center.tolist()), float(self.weights.mean()) or 1.0)


@dataclass
class SourceScores:
    """The scores of predictions, added batch by batch. `schema` is that of the source; the one of the run is in the
    scorer's scoring. Rows whose label is missing, or not one of the run's classes, are not scored."""

    scorer: Scorer
    schema: Schema
    scale: LabelScale
    merged: MergedScores | None = None

    @property
    def scoring(self) -> Scoring:
        """How rows are scored, with the scale of their labels."""
        return replace(self.scorer.scoring, center=self.scale.center)

    def add(self, arrays: Arrays, prediction: np.ndarray) -> None:
        """Add rows with their arrays in the source and their `prediction` (rows, outputs)."""
        of_run = self.scorer.scoring.schema
        found = rows_with_labels(of_run, self.schema, arrays)
        if found is None or not len(found.y):
            return
        truth = {"y": found.y} | ({of_run.weights: found.weights} if of_run.weights else {})
        rows = arrays["id"][found.which]
        self.merge(MergedScores.of(self.scoring, prediction[found.which], truth, rows, self.scale.unit))

    def merge(self, found: MergedScores) -> None:
        """Add the scores of other rows."""
        if self.merged is None:
            self.merged = found
        else:
            self.merged.add(found)

    def to_json(self) -> dict[str, Any]:
        """`rows`, `scores` and `intervals`, as of out-of-fold predictions; empty if no row has labels."""
        return self.merged.to_json(self.scorer.own) if self.merged else {}


def rows_with_labels(of_run: Schema, source: Schema, arrays: Arrays) -> RowsWithLabels | None:
    """The rows of a source that have all labels of a run, and a weight if the run has some. None if the source lacks
    one of the columns."""
    labels = known_labels(of_run, source, arrays)
    weights = _weights(of_run, source, arrays)
    if labels is None or weights is None:
        return None
    known = np.isfinite(labels).all(axis=1) & np.isfinite(weights)
    if of_run.dense:
        y = labels[known].reshape(-1, *of_run.dense.shape)
    else:
        y = labels[known] if len(of_run.labels) > 1 else labels[known, 0]
    return RowsWithLabels(known, y, weights[known])


def _weights(of_run: Schema, source: Schema, arrays: Arrays) -> np.ndarray | None:
    """The weights of rows, (rows,): 1 if the run has none, and None if the source lacks those of the run."""
    if of_run.weights is None:
        return np.ones(len(arrays["id"]))
    texts = texts_of(str(of_run.role("weight")), source, arrays)
    return None if texts is None else numbers_in(texts)


def known_labels(of_run: Schema, source: Schema, arrays: Arrays) -> np.ndarray | None:
    """The labels of rows of a source as the run's models predict them: codes of classes, 0 or 1, or values, (rows,
    labels) float64, with NaN for missing and unknown ones. None if the source lacks one of the columns."""
    names: Sequence[str] = of_run.labels
    if of_run.dense:
        if source.labels == of_run.labels and source.dense == of_run.dense:
            return arrays["y"].reshape(len(arrays["y"]), -1)
        names = [f"{of_run.labels[0]}_{number}" for number in range(of_run.outputs)]
    texts = [texts_of(name, source, arrays) for name in names]
    there = [one for one in texts if one is not None]
    if not there or len(there) < len(texts):
        return None
    return np.stack([truth_in(of_run, one) for one in there], axis=1)


def texts_of(name: str, source: Schema, arrays: Arrays) -> pa.Array | None:
    """The values of a label or a side column of a source as text, or None if it has no such column."""
    if name in source.labels and not source.dense:
        stored = arrays["y"].reshape(len(arrays["y"]), -1)[:, source.labels.index(name)]
        if source.classes:
            return pa.array(source.classes).take(pa.array(stored.astype(np.int64)))
        return pa.array(stored).cast(pa.string())
    column = next((column for column in source.named if column.name == name), None)
    return column and side_values(column, arrays[column.array]).cast(pa.string())


def truth_in(schema: Schema, texts: pa.Array) -> np.ndarray:
    """Labels from text: codes of classes, 0 or 1, or values, (rows,) float64; NaN for others."""
    if not schema.probabilities:
        return numbers_in(texts)
    codes = class_codes(texts, pa.array(schema.classes)) if schema.classes else truths(texts)
    found: np.ndarray = codes.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def numbers_in(texts: pa.Array) -> np.ndarray:
    """Numbers from text, (rows,) float64; NaN for what is none."""
    found: np.ndarray = pd.to_numeric(texts.to_pandas(), errors="coerce").to_numpy(np.float64)
    return found
