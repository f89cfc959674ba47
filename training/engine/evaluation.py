"""Evaluation of a fold's model on its held-out rows."""

from dataclasses import dataclass, field

import torch
from torch import nn
from torchmetrics import MeanMetric, MetricCollection

from ...storage.format import Schema
from ..model.metrics import make_loss_metric, make_metrics, name_metrics
from ..model.objective import Normalizer, Objective, autocast
from ..stream.batch import Batch


@dataclass(eq=False)
class HeldOutEvaluator:
    """Measures a model on held-out rows, if there are any."""

    model: nn.Module
    prepare: Normalizer
    objective: Objective
    schema: Schema
    device: torch.device
    has_rows: bool
    """Whether any rank has held-out rows."""
    metrics: MetricCollection = field(init=False)
    loss: MeanMetric = field(init=False)

    def begin(self) -> None:
        """Begin an evaluation."""
        self.model.eval()
        self.metrics = make_metrics(self.schema).to(self.device)
        self.loss = make_loss_metric().to(self.device)

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        """Add a batch of held-out rows."""
        x, y = batch.x.to(self.device), batch.y.to(self.device)
        with autocast(self.device, self.objective.recipe.precision):
            outputs = self.model(self.prepare(x))
        self.loss.update(self.objective.loss(outputs, y), weight=len(y))
        predicted = self.objective.predict(outputs)
        self.metrics.update(predicted, y.long() if self.schema.classes else y.reshape(predicted.shape).float())

    def scores(self) -> dict[str, float]:
        """Loss and metrics over the held-out rows of all ranks, which must call this together. Empty without rows."""
        if not self.has_rows:
            return {}
        return {"loss": float(self.loss.compute()), **name_metrics(self.schema, self.metrics.compute())}
