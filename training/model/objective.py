"""A model's input from stored rows, its loss and its predictions; and how a model is created and seeded."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...storage.format.arrays import IMAGE, TABLE
from ...storage.format.schema import Schema
from ...storage.format.statistics import Statistics
from ..config import Recipe, TrainConfig
from ..fitted.class_weights import class_weights, pos_weights
from ..fitted.inputs import Inputs, by_name, plan_inputs, varies
from ..run import RunJob
from ..seeding import seed_of
from ..settings import SCALED, measure_of
from ..zoo.factory import build_model, load_factory, takes_schema
from .losses import class_losses, label_losses, mask_losses, mean_of_own, own_loss, quantile_loss, weighted_mean
from .optimizer import freeze

SMALL = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.bool)


class Normalizer(nn.Module):
    """Turns stored rows into a model's input, on the model's device: float32, as `Inputs` plans it, or a dict
    of several inputs. Images with columns beside them are a dict of both. Token ids stay as they are, as int64.

    Numbers are subtracted in float64, because a float32 near 1.7e9 has steps of 128. Small integers of images need no
    more than float32; those of tables and series may be stored as another type because of a held-out value, which must
    change no bit.
    """

    mean: Tensor
    scale: Tensor
    filled: Tensor
    kept: Tensor
    hot_channels: Tensor
    hot_codes: Tensor
    marked: Tensor

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.table = Normalizer(inputs.table) if inputs.table else None
        shape = (1, len(inputs.center), *([1] * (len(inputs.shape) - 1)))
        for name, values in (("mean", inputs.center), ("scale", inputs.scale), ("filled", inputs.filled)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64).reshape(shape))
        hot = [(channel, code) for channel, count in inputs.one_hot for code in range(count)]
        channels = {
            "kept": inputs.kept,
            "hot_channels": [channel for channel, _ in hot],
            "hot_codes": [code for _, code in hot],
            "marked": inputs.marked,
            **{f"group_{number}": group.places for number, group in enumerate(inputs.groups.values())},
        }
        for name, numbers in channels.items():
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        if self.inputs.schema.vocabulary:
            assert isinstance(x, Tensor)
            return x.to(torch.int64)
        image, columns = (x[IMAGE], x[TABLE]) if isinstance(x, dict) else (x, None)
        if self.table is not None:
            return {IMAGE: self._whole(image), **by_name(self.table(columns))}
        whole = self._whole(image)
        parts = dict[str, Tensor]()
        for number, (name, group) in enumerate(self.inputs.groups.items()):
            part = whole.index_select(1, self.get_buffer(f"group_{number}"))
            parts[name] = part.to(torch.int64) if group.codes else part
        return parts or whole

    def _whole(self, x: Tensor) -> Tensor:
        """The input as one tensor."""
        if x.dtype in SMALL and len(self.inputs.shape) > 1 and not self.inputs.windows:
            scaled = (x.to(torch.float32) - self.mean.to(torch.float32)) * self.scale.to(torch.float32)
        else:
            scaled = ((x.to(torch.float64) - self.mean) * self.scale).to(torch.float32)
            scaled = torch.where(torch.isnan(scaled), self.filled.to(torch.float32), scaled)
        parts = [scaled]
        if self.inputs.one_hot:
            codes = scaled.index_select(1, self.hot_channels)
            wanted = self.hot_codes.reshape(-1, *([1] * (codes.ndim - 2)))
            parts = [scaled.index_select(1, self.kept), (codes == wanted).to(torch.float32)]
        if self.inputs.marked:
            parts.append(torch.isnan(x.index_select(1, self.marked)).to(torch.float32))
        return torch.cat(parts, dim=1) if len(parts) > 1 else scaled


class Objective(nn.Module):
    """The loss, and the conversion between a model's outputs and the targets' own units."""

    center: Tensor
    spread: Tensor
    weights: Tensor | None

    def __init__(
        self, schema: Schema, statistics: Statistics, recipe: Recipe, class_weight: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.schema, self.recipe, self.mean_weight = schema, recipe, statistics.weight
        self.own = own_loss(recipe.loss) if ":" in recipe.loss else None
        given = class_weights(schema, statistics, class_weight), pos_weights(schema, statistics, recipe.pos_weight)
        weights = [values for values in given if values is not None]
        self.register_buffer("weights", torch.from_numpy(np.prod(weights, axis=0)).float() if weights else None)
        by_channel = -1, *[1] * (len(schema.output_shape) - 1)
        targets = statistics.y_mean, statistics.y_std
        mean, std = (np.array(values, np.float64).reshape(by_channel) for values in targets)
        self.register_buffer("center", torch.from_numpy(mean))
        self.register_buffer("spread", torch.from_numpy(np.where(varies(std, np.abs(mean)), std, 1.0)))

    def forward(self, outputs: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean loss of `outputs` (rows, outputs) against the labels `y`, (rows,) or (rows, labels), to train on; of
        masks, (rows, classes, height, width) against codes (rows, height, width).

        Labels may be probabilities of classes, (rows, classes) in floating point. With weights of classes, or of rows,
        (rows,), it is the mean of each row's weighted loss, so that a batch counts by its weights; the mean weight of
        all training rows counts as 1. Regression targets are standardized first, for the user's own loss too.
        """
        shares = None if weight is None else (weight / self.mean_weight).float()
        if self.own:
            return mean_of_own(self.own, outputs, self.targets(outputs, y), shares)
        if shares is None:
            return self._losses(self.recipe, outputs, y, self.weights, "mean")
        return weighted_mean(self._losses(self.recipe, outputs, y, self.weights, "none"), shares)

    def in_units(self, loss: float) -> float:
        """A mean loss in the units of the target, as held-out rows are scored: a standardized one is scaled, where that
        is all it takes; see `trained_loss`."""
        if self.schema.task != "regression" or self.schema.outputs > 1 or self.recipe.loss not in SCALED:
            return loss
        return loss * float(self.spread) ** (2 if measure_of(self.schema, self.recipe) == "mse" else 1)

    def targets(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What a loss compares outputs with: codes of classes (rows,) or (rows, height, width) int64; labels that are 0
        or 1, or standardized targets, (rows, labels) float32."""
        if self.schema.task == "classification":
            return labels_of(y)
        if self.schema.task == "segmentation":
            return y.long()
        if self.schema.task == "multilabel":
            return y.float()
        return ((y.reshape(outputs.shape).double() - self.center) / self.spread).float()

    def _losses(self, recipe: Recipe, outputs: Tensor, y: Tensor, weights: Tensor | None, reduction: str) -> Tensor:
        """The loss of each row or output, or their mean, by torch's `reduction`."""
        targets = self.targets(outputs, y)
        if self.schema.task == "classification":
            return class_losses(recipe, outputs, targets, weights, reduction)
        if self.schema.task == "multilabel":
            return label_losses(recipe, outputs, targets, weights, reduction)
        if self.schema.task == "segmentation":
            return mask_losses(recipe, outputs, targets, reduction)
        if recipe.loss == "quantile":
            return quantile_loss(outputs, targets, recipe.quantile, reduction)
        name = "mse_loss" if recipe.loss == "auto" else recipe.loss
        loss: Tensor = getattr(functional, name)(outputs, targets, reduction=reduction)
        return loss

    def predict(self, outputs: Tensor) -> Tensor:
        """Probabilities (rows, outputs) float32, of classes by softmax and of labels by sigmoid, or values in the
        targets' own units (rows, labels) float64: near 1.7e9, float32 would round them to multiples of 128. Of masks,
        probabilities of the classes of each pixel, (rows, classes, height, width), and of images their values."""
        if self.schema.task in ("classification", "segmentation"):
            return torch.softmax(outputs.float(), dim=1)
        if self.schema.task == "multilabel":
            return torch.sigmoid(outputs.float())
        return outputs.double() * self.spread + self.center


def labels_of(y: Tensor) -> Tensor:
    """Codes of classes as `cross_entropy` takes them, or probabilities of classes as they are."""
    return y if y.ndim == 2 else y.long()


def make_objective(job: RunJob, statistics: Statistics) -> Objective:
    """The objective of a run's model that trains on rows with these statistics."""
    return Objective(job.schema, statistics, job.config.recipe, job.config.class_weights)


def make_inputs(schema: Schema, config: TrainConfig, statistics: Statistics) -> Inputs:
    """The plan of the inputs of a model that trains on rows with these statistics."""
    codes = takes_schema(config.model)
    return plan_inputs(schema, statistics, config.missing, config.scalings, codes, config.inputs)


def make_model(job: RunJob, fold: int, inputs: Inputs) -> nn.Module:
    """Create the fold's model with its initial weights, which are the same on every rank."""
    config = job.config
    load_factory(config.model)  # before the seed is set: a module that is imported may draw random numbers
    torch.manual_seed(seed_of(config.seed, fold))
    model = build_model(config.model, inputs, job.schema.outputs, config.model_settings)
    freeze(model, config.recipe)
    return model


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context of mixed precision; it has no effect for float32."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
