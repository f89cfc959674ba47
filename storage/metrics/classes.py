"""Metrics of predicted classes and labels, from sums by class: balanced accuracy, F1, Matthews' correlation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..format.schema import Schema


def marginals(chosen: np.ndarray, truth: np.ndarray, weight: np.ndarray, classes: int) -> np.ndarray:
    """Of each class the weight of the rows that are predicted rightly, predicted at all, and true, (3, classes).

    `chosen` and `truth` are class codes, (rows,) int64.
    """
    hits = np.where(chosen == truth, weight, 0.0)
    return np.stack([np.bincount(truth, hits, classes), *(np.bincount(c, weight, classes) for c in (chosen, truth))])


def class_metrics(classes: Sequence[str], sums: np.ndarray, most_named: int) -> dict[str, float]:
    """Balanced accuracy, macro F1, Matthews' correlation coefficient and the F1 of each of up to `most_named` classes,
    from the sums of `marginals`.

    As in scikit-learn, balanced accuracy is the mean recall of the classes that occur, and classes that neither occur
    nor are predicted do not count for macro F1. The multiclass correlation is Gorodkin's (2004).
    """
    hits, chosen, true = sums
    occur, either = true > 0, (chosen + true) > 0
    f1 = 2 * hits / np.where(either, chosen + true, 1.0)
    rows = true.sum()
    # For k classes: (c s - sum(p t)) / sqrt((s^2 - sum(p^2)) (s^2 - sum(t^2))), with c rows predicted rightly of s.
    spread = (rows**2 - chosen @ chosen) * (rows**2 - true @ true)
    found = {
        "balanced_accuracy": float((hits[occur] / true[occur]).mean()) if occur.any() else np.nan,
        "f1": float(f1[either].mean()) if either.any() else np.nan,
        "mcc": float((hits.sum() * rows - chosen @ true) / np.sqrt(spread)) if spread > 0 else 0.0,
    }
    named = zip(classes, f1, either, strict=True) if len(classes) <= most_named else ()
    return found | {f"f1/{name}": float(value) if counts else np.nan for name, value, counts in named}


def label_metrics(schema: Schema, means: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The F1 of each label that is 0 or 1, and their mean, from the shares of rows where it is rightly predicted,
    predicted and true; 0 for a label that is neither predicted nor true, as in scikit-learn."""
    found = {}
    for label in schema.labels:
        hit, said, true = (np.asarray(means[f"{name}/{label}"]) for name in ("_hit", "_said", "_true"))
        found[f"f1/{label}"] = 2 * hit / np.where(said + true > 0, said + true, 1.0)
    return found | {"f1": np.mean(list(found.values()), axis=0)}
