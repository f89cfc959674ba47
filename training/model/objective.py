"""From stored rows to a model's input, from its output to a loss and a prediction; and the seeds of all of it."""

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


class Preparation(nn.Module):
    """From stored rows to what a model sees, on the model's device: float32, each channel centred and scaled."""

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
    """The loss, and how targets and outputs relate to the labels' own units."""

    schema: Schema
    statistics: Statistics
    recipe: Recipe
    device: torch.device

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss of `outputs` (rows, outputs) against labels (rows,) or (rows, labels).

        Quantities are centred and scaled first.
        """
        if self.schema.task == "classification":
            return functional.cross_entropy(outputs, y.long(), label_smoothing=self.recipe.label_smoothing)
        name = "mse_loss" if self.recipe.loss == "auto" else self.recipe.loss
        centre, scale = self.units
        loss: Tensor = getattr(functional, name)(outputs, ((y.reshape(outputs.shape) - centre) / scale).float())
        return loss

    def predict(self, outputs: Tensor) -> Tensor:
        """Probabilities (rows, classes), or values in the labels' units (rows, labels), float32."""
        if self.schema.task == "classification":
            return torch.softmax(outputs.float(), dim=1)
        centre, scale = self.units
        return (outputs.double() * scale + centre).float()

    @cached_property
    def units(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each label, (labels,) float64; 1 for a label that does not vary."""
        std = torch.tensor(self.statistics.y_std, dtype=torch.float64, device=self.device)
        mean = torch.tensor(self.statistics.y_mean, dtype=torch.float64, device=self.device)
        return mean, torch.where(std > 0, std, 1.0)


def make_model(job: RunJob, fold: int) -> nn.Module:
    """The fold's model with its first weights, the same on every rank."""
    torch.manual_seed(seed_of(job.config.seed, fold))
    schema, config = job.schema, job.config
    return build_model(config.model, schema.sample_shape, schema.outputs, config.model_settings)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision, or none for float32."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
