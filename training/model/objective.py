"""A model's input from stored rows, its loss and its predictions; and how a model is created and seeded."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...storage.format import Schema, Statistics
from ..config import Recipe
from ..run import RunJob
from ..seeding import seed_of
from ..zoo.factory import build_model


class Normalizer(nn.Module):
    """Turns stored rows into a model's input, on the model's device: float32, with each channel standardized."""

    mean: Tensor
    scale: Tensor

    def __init__(self, statistics: Statistics, sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        shape = (1, len(statistics.mean), *([1] * (len(sample_shape) - 1)))
        std = torch.tensor(statistics.std, dtype=torch.float64)
        scale = torch.where(std > 0, 1 / std, torch.ones_like(std))
        self.register_buffer("mean", torch.tensor(statistics.mean, dtype=torch.float32).reshape(shape))
        self.register_buffer("scale", scale.to(torch.float32).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.float32) - self.mean) * self.scale


@dataclass(frozen=True)
class Objective:
    """The loss, and the conversion between a model's outputs and the targets' own units."""

    schema: Schema
    statistics: Statistics
    recipe: Recipe
    device: torch.device

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss of `outputs` (rows, outputs) against the labels `y`, (rows,) or (rows, labels).

        Regression targets are standardized first.
        """
        if self.schema.task == "classification":
            return functional.cross_entropy(outputs, y.long(), label_smoothing=self.recipe.label_smoothing)
        name = "mse_loss" if self.recipe.loss == "auto" else self.recipe.loss
        center, scale = self.units
        loss: Tensor = getattr(functional, name)(outputs, ((y.reshape(outputs.shape) - center) / scale).float())
        return loss

    def predict(self, outputs: Tensor) -> Tensor:
        """Probabilities (rows, classes), or values in the targets' own units (rows, labels), float32."""
        if self.schema.task == "classification":
            return torch.softmax(outputs.float(), dim=1)
        center, scale = self.units
        return (outputs.double() * scale + center).float()

    @cached_property
    def units(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each target, (labels,) float64. The latter is 1 for a constant target."""
        std = torch.tensor(self.statistics.y_std, dtype=torch.float64, device=self.device)
        mean = torch.tensor(self.statistics.y_mean, dtype=torch.float64, device=self.device)
        return mean, torch.where(std > 0, std, 1.0)


def make_model(job: RunJob, fold: int) -> nn.Module:
    """Create the fold's model with its initial weights, which are the same on every rank."""
    torch.manual_seed(seed_of(job.config.seed, fold))
    schema, config = job.schema, job.config
    return build_model(config.model, schema.sample_shape, schema.outputs, config.model_settings)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context of mixed precision; it has no effect for float32."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
