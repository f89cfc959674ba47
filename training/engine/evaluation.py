"""Evaluation of a fold's model on its held-out rows."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...storage.format import Schema
from ..model.metrics import count_sums, name_scores, sum_scores
from ..model.objective import Normalizer, Objective, autocast
from ..stream.batch import Batch
from ..zoo.model_errors import errors_of_model
from .process import Process
from .shares import rows_of


@dataclass(eq=False)
class HeldOutEvaluator:
    """Measures a model on held-out rows, if there are any.

    Its sums are kept for each shard of the dataset, whose rows one rank reads in order: their total, and so all that
    depends on it, is the same to the bit at any world size.
    """

    model: nn.Module
    prepare: Normalizer
    objective: Objective
    schema: Schema
    process: Process
    shards: int
    """Of the dataset; 0 if no rank has held-out rows."""
    sums: Tensor = field(init=False)
    """(shards, 2 + sums): the rows, or their weights, their loss, and what the metrics are made of."""

    def begin(self) -> None:
        """Begin an evaluation."""
        self.model.eval()
        self.sums = torch.zeros(
            self.shards, 2 + count_sums(self.schema), dtype=torch.float64, device=self.process.device
        )

    @torch.inference_mode()
    def update(self, batch: Batch, shard: int) -> None:
        """Add a batch of a shard's held-out rows."""
        x, y, *given = (column.to(self.process.device, non_blocking=True) for column in rows_of(batch))
        weight = given[0].double() if given else torch.ones(len(y), dtype=torch.float64, device=y.device)
        with errors_of_model("forward pass"), autocast(self.process.device, self.objective.recipe.precision):
            outputs = self.model(self.prepare(x))
        self.sums[shard, 0] += weight.sum()
        self.sums[shard, 1] += (self.objective.evaluate(outputs, y).double() * weight).sum()
        self.sums[shard, 2:] += sum_scores(self.schema, self.objective.predict(outputs), y, weight)

    def scores(self) -> dict[str, float]:
        """Loss and metrics over the held-out rows of all ranks, which must call this together. Empty without rows."""
        if not self.shards:
            return {}
        rows, *totals = self.process.all_reduce(self.sums).cpu().numpy().sum(axis=0).tolist()
        loss, *means = (total / rows for total in totals)
        return {"loss": loss, **name_scores(self.schema, means)}
