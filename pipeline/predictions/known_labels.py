"""Scores of predictions of new rows, as far as their source has labels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ...storage.format import Schema
from ..target.labels import class_codes, truths
from .columns import side_values
from .scores import MergedScores, Scorer

Arrays = Mapping[str, np.ndarray]


@dataclass
class SourceScores:
    """The scores of predictions, added batch by batch. `schema` is that of the source; the one of the run is in the
    scorer's scoring. Rows whose label is missing, or not one of the run's classes, are not scored."""

    scorer: Scorer
    schema: Schema
    merged: MergedScores | None = None
    unit: float = 0.0
    """The mean weight of the first batch."""

    def add(self, arrays: Arrays, prediction: np.ndarray) -> None:
        """Add rows with their arrays in the source and their `prediction` (rows, outputs)."""
        of_run = self.scorer.scoring.schema
        labels = known_labels(of_run, self.schema, arrays)
        weights = self._weights(of_run, arrays)
        if labels is None or weights is None:
            return
        known = np.isfinite(labels).all(axis=1) & np.isfinite(weights)
        if not known.any():
            return
        y = labels[known] if len(of_run.labels) > 1 else labels[known, 0]
        if self.merged is None:
            center = tuple(np.atleast_1d(y.mean(axis=0)).tolist())
            self.scorer = replace(self.scorer, scoring=replace(self.scorer.scoring, center=center))
            self.unit = float(weights[known].mean()) or 1.0
        truth = {"y": y} | ({of_run.weights: weights[known]} if of_run.weights else {})
        found = MergedScores.of(self.scorer.scoring, prediction[known], truth, arrays["id"][known], self.unit)
        if self.merged is None:
            self.merged = found
        else:
            self.merged.add(found)

    def _weights(self, of_run: Schema, arrays: Arrays) -> np.ndarray | None:
        """The weights of rows, (rows,): 1 if the run has none, and None if the source lacks those of the run."""
        if of_run.weights is None:
            return np.ones(len(arrays["id"]))
        texts = texts_of(str(of_run.role("weight")), self.schema, arrays)
        return None if texts is None else numbers_in(texts)

    def to_json(self) -> dict[str, Any]:
        """`rows`, `scores` and `intervals`, as of out-of-fold predictions; empty if no row has labels."""
        return self.merged.to_json(self.scorer.own) if self.merged else {}


def known_labels(of_run: Schema, source: Schema, arrays: Arrays) -> np.ndarray | None:
    """The labels of rows of a source as the run's models predict them: codes of classes, 0 or 1, or values, (rows,
    labels) float64, with NaN for missing and unknown ones. None if the source lacks one of the columns."""
    texts = [texts_of(name, source, arrays) for name in of_run.labels]
    there = [one for one in texts if one is not None]
    if not there or len(there) < len(texts):
        return None
    return np.stack([truth_in(of_run, one) for one in there], axis=1)


def texts_of(name: str, source: Schema, arrays: Arrays) -> pa.Array | None:
    """The values of a label or a side column of a source as text, or None if it has no such column."""
    if name in source.labels:
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
