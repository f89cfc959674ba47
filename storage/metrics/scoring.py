"""Which metrics a task has, and how they follow from sums over rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..format.schema import SMALLEST_PROBABILITY, THRESHOLD, Schema
from .classes import class_metrics, label_metrics, marginals
from .masks import mask_columns, mask_metrics
from .names import LOWER_IS_BETTER, RANKED

LossMeasure = Literal["log loss", "mse", "mae", "quantile loss"]
MOST_NAMED = 20  # classes whose own F1 is a metric
SMALLEST_NOISE = 1e-3  # of the mean squared error in a signal-to-noise ratio: an image without errors has 78 dB
MOST_RANKED = 100  # classes or labels of which rows are ranked


@dataclass(frozen=True)
class Scoring:
    """How the predictions of a run are scored.

    The metrics are named as in scikit-learn, and `NAME/LABEL` is that of one label or class. A metric that is not
    defined for some rows, such as AUC where all have the same class, is left out.
    """

    schema: Schema
    measure: LossMeasure = "log loss"
    """What `loss` is; of several targets their mean."""
    quantile: float = 0.5
    """Of the quantile loss."""
    center: tuple[float, ...] = field(default=(), compare=False)
    """A value near the mean of each regression target, from which the sums of targets are counted."""
    own: tuple[tuple[str, bool], ...] = ()
    """The names of the user's metrics, and whether their higher values are better."""

    def higher_is_better(self, metric: str) -> bool:
        """Whether a metric's higher values are the better ones."""
        return dict(self.own).get(metric, metric.partition("/")[0] not in LOWER_IS_BETTER)

    def names(self) -> tuple[str, ...]:
        """All metrics, as far as they are defined for the rows."""
        return (*self._names(), *(name for name, _ in self.own))

    def _names(self) -> tuple[str, ...]:
        schema = self.schema
        if schema.task == "classification":
            named = schema.classes if len(schema.classes) <= MOST_NAMED else ()
            own = [f"f1/{name}" for name in named]
            return ("loss", *schema.hits, "balanced_accuracy", "f1", "mcc", "brier", *self.ranked(), *own)
        if schema.task == "multilabel":
            own = [f"{name}/{label}" for name in ("loss", "accuracy", "f1") for label in schema.labels]
            return ("loss", "accuracy", "subset_accuracy", "f1", "brier", *self.ranked(), *own)
        if schema.dense and schema.dense.classes:
            named = schema.dense.classes if len(schema.dense.classes) <= MOST_NAMED else ()
            return ("loss", "accuracy", "mean_iou", *(f"iou/{name}" for name in named))
        of_images = ("psnr",) if schema.target_name else ("mape",)
        every = ("rmse", "mae", "r2", *of_images, *(["quantile_loss"] if self.measure == "quantile loss" else []))
        by_label = [name for metric in every for name in schema.by_label(metric, [0.0] * len(schema.labels))]
        return ("loss", *dict.fromkeys(["r2", *by_label] if len(schema.labels) > 1 else by_label))

    def ranked(self) -> tuple[str, ...]:
        """The metrics that depend on the order of rows."""
        return RANKED if self.schema.probabilities and self.schema.outputs <= MOST_RANKED else ()

    @property
    def ranked_outputs(self) -> int:
        """The number of classes or labels by which rows are ranked; of two classes that is the second one."""
        outputs = self.schema.outputs
        return 1 if self.schema.task == "classification" and outputs == 2 else outputs

    @property
    def ranked_names(self) -> tuple[str, ...]:
        """The names of the classes or labels by which rows are ranked."""
        names = self.schema.classes if self.schema.task == "classification" else self.schema.labels
        return names[-self.ranked_outputs :]

    def ranked_rows(self, prediction: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The probabilities by which rows are ranked, and which rows have the class or label, both (rows, outputs)."""
        if self.schema.task == "multilabel":
            return prediction, y.reshape(prediction.shape) != 0
        of_class = np.arange(prediction.shape[1]) == y.astype(np.int64)[:, None]
        return prediction[:, -self.ranked_outputs :], of_class[:, -self.ranked_outputs :]

    def of_rows(self, prediction: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """What is averaged over rows, (rows,) float64 each.

        `prediction` (rows, outputs) are probabilities or values, `y` (rows,) or (rows, labels) the truth. Masks are
        as in `mask_columns`.
        """
        if self.schema.task == "classification":
            return _of_classes(self.schema, prediction, y)
        if self.schema.task == "multilabel":
            return _of_labels(self.schema, prediction, y)
        if self.schema.dense and self.schema.dense.classes:
            return mask_columns(self.schema.dense.classes, prediction, y)
        prediction, y = prediction.astype(np.float64), y.reshape(prediction.shape).astype(np.float64)
        if self.schema.dense:
            shape = len(y), self.schema.outputs, self.schema.dense.pixels
            return dict(self._of_vectors(prediction.reshape(shape), y.reshape(shape)))
        return dict(self._of_targets(prediction, y))

    def _of_vectors(self, prediction: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Means over the numbers of each vector or image, (rows, outputs, pixels); and the mean of each number of a
        vector, or channel of an image, for the variance around it. Images have a signal-to-noise ratio, in decibels,
        instead of relative errors: their pixels may be 0."""
        error = prediction - y
        away = y - (np.array(self.center)[:, None] if self.center else 0.0)
        losses = self._losses(error).mean(axis=(1, 2))
        squared = np.square(error).mean(axis=(1, 2))
        yield "loss", losses
        yield "squared", squared
        yield "mae", np.abs(error).mean(axis=(1, 2))
        if self.schema.target_name:
            peak = np.iinfo(str(self.schema.y_dtype)).max
            yield "psnr", 10 * np.log10(peak**2 / np.maximum(squared, SMALLEST_NOISE))
        else:
            yield "relative", (np.abs(error) / np.where(y == 0, 1.0, np.abs(y))).mean(axis=(1, 2))
            yield "zero", (y == 0).any(axis=(1, 2)).astype(np.float64)
        yield "target²", np.square(away).mean(axis=(1, 2))
        for number, column in enumerate(away.mean(axis=2).T):
            yield f"target/{number}", column
        if self.measure == "quantile loss":
            yield "quantile_loss", losses

    def _of_targets(self, prediction: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        error = prediction - y
        yield "loss", self._losses(error).mean(axis=1)
        named = zip(self.schema.by_label("", self.schema.labels), error.T, y.T, strict=True)
        for number, (label, of_label, target) in enumerate(named):
            away = target - (self.center[number] if self.center else 0.0)
            yield f"squared{label}", np.square(of_label)
            yield f"mae{label}", np.abs(of_label)
            yield f"relative{label}", np.abs(of_label) / np.where(target == 0, 1.0, np.abs(target))
            yield f"zero{label}", (target == 0).astype(np.float64)
            yield f"target{label}", away
            yield f"target²{label}", np.square(away)
            if self.measure == "quantile loss":
                yield f"quantile_loss{label}", self._quantile_loss(of_label)

    def _losses(self, error: np.ndarray) -> np.ndarray:
        if self.measure == "quantile loss":
            return self._quantile_loss(error)
        losses: np.ndarray = np.abs(error) if self.measure == "mae" else np.square(error)
        return losses

    def _quantile_loss(self, error: np.ndarray) -> np.ndarray:
        loss: np.ndarray = np.maximum(-self.quantile * error, (1 - self.quantile) * error)
        return loss

    def of_means(self, means: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The metrics from the means of what `of_rows` names, each of any shape; not defined: NaN."""
        if self.schema.probabilities:
            plain = {name: np.asarray(value) for name, value in means.items() if not name.startswith("_")}
            return plain | (label_metrics(self.schema, means) if self.schema.task == "multilabel" else {})
        if self.schema.dense and self.schema.dense.classes:
            return mask_metrics(self.schema.dense.classes, means, MOST_NAMED)
        if self.schema.dense:
            centers = [np.square(means[f"target/{number}"]) for number in range(self.schema.outputs)]
            means = {**means, "total": means["target²"] - np.mean(centers, axis=0)}
        found: dict[str, np.ndarray] = {"loss": np.asarray(means["loss"])}
        for label in self.schema.by_label("", self.schema.labels):
            total = means.get("total")  # of a vector
            if total is None:
                total = means[f"target²{label}"] - np.square(means[f"target{label}"])
            squared = np.asarray(means[f"squared{label}"])
            found[f"rmse{label}"] = np.sqrt(squared)
            found[f"mae{label}"] = np.asarray(means[f"mae{label}"])
            with np.errstate(divide="ignore", invalid="ignore"):
                found[f"r2{label}"] = np.where(np.asarray(total) > 0, 1 - squared / total, np.nan)
            if f"zero{label}" in means:
                found[f"mape{label}"] = np.where(
                    np.asarray(means[f"zero{label}"]) > 0, np.nan, np.asarray(means[f"relative{label}"])
                )
            if f"psnr{label}" in means:
                found[f"psnr{label}"] = np.asarray(means[f"psnr{label}"])
            if f"quantile_loss{label}" in means:
                found[f"quantile_loss{label}"] = np.asarray(means[f"quantile_loss{label}"])
        if len(self.schema.labels) > 1:
            found["r2"] = np.mean([found[f"r2/{label}"] for label in self.schema.labels], axis=0)
        return found

    def class_sums(self, prediction: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Of each class the weight of the rows that are predicted rightly, predicted at all, and true, (3, classes);
        (3, 0) without classes."""
        if self.schema.task != "classification":
            return np.zeros((3, 0))
        return marginals(prediction.argmax(axis=1), y.astype(np.int64), weight, self.schema.outputs)

    def of_classes(self, sums: np.ndarray) -> dict[str, float]:
        """The metrics from the sums of `class_sums`."""
        return class_metrics(self.schema.classes, sums, MOST_NAMED) if self.schema.classes else {}

    def in_order(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The metrics that are defined, in the order of `names`, then all others."""
        known = [name for name in self.names() if name in metrics]
        every = {name: float(metrics[name]) for name in (*known, *metrics)}
        return {name: value for name, value in every.items() if np.isfinite(value) or name == "loss"}


def own_probabilities(schema: Schema, prediction: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probability of what is true of each row, (rows,), or of each label that is 0 or 1, (rows, labels)."""
    if schema.task == "multilabel":
        return np.where(y != 0, prediction, 1 - prediction)
    own: np.ndarray = prediction[np.arange(len(y)), y.astype(np.int64)]
    return own


def log_losses(own: np.ndarray) -> np.ndarray:
    """The log losses, float64, of the probabilities of what is true, of any shape."""
    losses: np.ndarray = -np.log(np.maximum(own.astype(np.float64), SMALLEST_PROBABILITY))
    return losses


def _of_classes(schema: Schema, prediction: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    own = own_probabilities(schema, prediction, y)
    rank = (prediction > own[:, None]).sum(axis=1)
    squares = np.square(prediction.astype(np.float64)).sum(axis=1) - 2.0 * own + 1  # of p - 1 for the own class
    return {
        "loss": log_losses(own),
        **{name: (rank < most).astype(np.float64) for name, most in schema.hits.items()},
        "brier": squares / 2 if schema.outputs == 2 else squares,
    }


def _of_labels(schema: Schema, prediction: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """A label is predicted from a probability of 0.5 on."""
    said, true = prediction >= THRESHOLD, y != 0
    right = said == true
    own = own_probabilities(schema, prediction, y).astype(np.float64)
    losses = log_losses(own)
    sums = {"_hit": said & true, "_said": said, "_true": true}
    return {
        "loss": losses.mean(axis=1),
        "accuracy": right.mean(axis=1),
        "subset_accuracy": right.all(axis=1).astype(np.float64),
        "brier": np.square(1 - own).mean(axis=1),
        **schema.by_label("loss", losses.T),
        **schema.by_label("accuracy", right.T.astype(np.float64)),
        **{
            name: row
            for key, of_key in sums.items()
            for name, row in schema.by_label(key, of_key.T.astype(float)).items()
        },
    }
