"""Baseline scores: predicting the class frequencies, or the mean, of each model's training rows, or for time series the
last known value."""

import numpy as np

from ...storage.fold_plan import FoldPlan
from ...storage.format.schema import THRESHOLD, Schema
from ...storage.metrics.scoring import Scoring
from ...storage.moments.moments import Moments, parts_merged
from .statistics import CHANGE, CodeSums, load_sums

SMALLEST = 1e-7  # probability, as in the scores of a run


def baseline_scores(scoring: Scoring, plan: FoldPlan) -> dict[str, float]:
    """The out-of-fold scores of a model that ignores the features: for a classification accuracy and log loss, for
    labels that are 0 or 1 those of each and their means, for a regression RMSE of each label and, if the loss is that,
    the mean squared error; nothing for masks. For windows over time series, the model repeats the last known value.
    They follow from the sums by fold code; `fit_plan` must have measured them."""
    schema, sums = scoring.schema, load_sums(plan)
    if schema.classes:
        return _of_classes(sums, plan)
    if schema.task == "multilabel":
        return _of_labels(schema, sums, plan)
    if schema.task == "segmentation":
        return {}
    rows, squares = 0.0, np.zeros(schema.outputs)
    for model in plan.models if schema.windows else ():
        changes = sums[f"{model.array}/{CHANGE}"]
        assert isinstance(changes, Moments)
        held_out = parts_merged(changes, model.held_out)
        rows += float(held_out.count[0])
        squares += held_out.squares + held_out.count * (held_out.mean + held_out.rest) ** 2
    for model in plan.models if not schema.windows else ():
        targets = sums[f"{model.array}/y"]
        assert isinstance(targets, Moments)
        own, held_out = parts_merged(targets, model.train), parts_merged(targets, model.held_out)
        rows += float(held_out.count[0])
        squares += held_out.squares + held_out.count * ((held_out.mean - own.mean) + (held_out.rest - own.rest)) ** 2
    loss = {"loss": float((squares / rows).mean())} if scoring.measure == "mse" else {}
    if schema.dense:
        return {**loss, "rmse": float(np.sqrt((squares / rows).mean()))}
    return loss | schema.by_label("rmse", np.sqrt(squares / rows).tolist())


def baseline_says(schema: Schema) -> str:
    """What the baseline predicts."""
    if schema.windows:
        return "the last known value"
    return "the classes' frequencies" if schema.probabilities else "the mean"


def _of_classes(sums: CodeSums, plan: FoldPlan) -> dict[str, float]:
    rows, hits, losses = 0, 0, 0.0
    for model in plan.models:
        classes = sums[f"{model.array}/classes"]
        assert isinstance(classes, np.ndarray)
        own, held_out = classes[list(model.train)].sum(axis=0), classes[list(model.held_out)].sum(axis=0)
        rows += int(held_out.sum())
        hits += int(held_out[own.argmax()])
        losses -= float(held_out @ np.log(np.maximum(own / own.sum(), SMALLEST)))
    return {"accuracy": hits / rows, "loss": losses / rows}


def _of_labels(schema: Schema, sums: CodeSums, plan: FoldPlan) -> dict[str, float]:
    rows, hits, losses = 0.0, np.zeros(len(schema.labels)), np.zeros(len(schema.labels))
    for model in plan.models:
        targets = sums[f"{model.array}/y"]
        assert isinstance(targets, Moments)
        own, held_out = parts_merged(targets, model.train), parts_merged(targets, model.held_out)
        share, ones = np.clip(own.mean, SMALLEST, 1 - SMALLEST), held_out.mean * held_out.count
        zeros = held_out.count - ones
        rows += float(held_out.count[0])
        hits += np.where(own.mean >= THRESHOLD, ones, zeros)
        losses -= ones * np.log(share) + zeros * np.log1p(-share)
    found = {"accuracy": hits / rows, "loss": losses / rows}
    means = {name: float(values.mean()) for name, values in found.items()}
    return means | {name: value for key in found for name, value in schema.by_label(key, found[key].tolist()).items()}
