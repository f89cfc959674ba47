"""Metrics of predicted masks, from pixel counts of each row: pixel accuracy, and the intersection over union of each
class. Counts are whole numbers, so their sums are exact in any order."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..format.dense import IGNORED
from ..format.schema import SMALLEST_PROBABILITY

KINDS = "_hit", "_said", "_true"
"""The pixels of a class that are predicted rightly, predicted at all, and true."""


def mask_columns(classes: Sequence[str], prediction: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """What is averaged over rows, (rows,) float64 each: of each class the numbers of `KINDS`, `_hit/CLASS` and so on;
    and of probabilities `loss`, the mean log loss of a row's pixels.

    `prediction` are codes of classes, (rows, height, width) uint8, or probabilities, (rows, classes, height, width);
    `y` are the true codes. Pixels whose true code is IGNORED do not count.
    """
    known = y != IGNORED
    codes = prediction if prediction.ndim == y.ndim else prediction.argmax(axis=1)
    rows = np.broadcast_to(np.arange(len(y)).reshape(-1, *[1] * (y.ndim - 1)), y.shape)
    own, said = rows * len(classes) + np.where(known, y, 0), rows * len(classes) + codes
    counts = [
        np.bincount(where, minlength=len(y) * len(classes)).reshape(len(y), len(classes)).astype(np.float64)
        for where in (own[known & (codes == y)], said[known], own[known])
    ]
    found = {
        f"{kind}/{name}": count
        for kind, of_kind in zip(KINDS, counts, strict=True)
        for name, count in zip(classes, of_kind.T, strict=True)
    }
    return found if prediction.ndim == y.ndim else {"loss": _log_losses(prediction, y, known), **found}


def _log_losses(probability: np.ndarray, y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mean log loss of the pixels of each row that count, (rows,); 0 if there are none."""
    own = np.take_along_axis(probability, np.where(known, y, 0)[:, None].astype(np.int64), axis=1)[:, 0]
    losses = -np.log(np.maximum(own.astype(np.float64), SMALLEST_PROBABILITY)) * known
    pixels = tuple(range(1, y.ndim))
    found: np.ndarray = losses.sum(axis=pixels) / np.maximum(known.sum(axis=pixels), 1)
    return found


def mask_metrics(classes: Sequence[str], means: Mapping[str, Any], most_named: int) -> dict[str, np.ndarray]:
    """Pixel accuracy, the mean intersection over union of the classes that are predicted or true, and that of each of
    up to `most_named` classes, from the means of `mask_columns`; not defined: NaN."""
    hit, said, true = (np.stack([np.asarray(means[f"{kind}/{name}"]) for name in classes]) for kind in KINDS)
    either, pixels = said + true - hit, true.sum(axis=0)
    overlap = np.where(either > 0, hit / np.where(either > 0, either, 1.0), np.nan)
    there = (either > 0).sum(axis=0)
    total = np.where(either > 0, overlap, 0.0).sum(axis=0)
    found = {
        "accuracy": np.where(pixels > 0, hit.sum(axis=0) / np.where(pixels > 0, pixels, 1.0), np.nan),
        "mean_iou": np.where(there > 0, total / np.maximum(there, 1), np.nan),
    }
    if "loss" in means:
        found = {"loss": np.asarray(means["loss"]), **found}
    named = zip(classes, overlap, strict=True) if len(classes) <= most_named else ()
    return found | {f"iou/{name}": value for name, value in named}
