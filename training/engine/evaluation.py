"""Evaluation of a fold's model on its held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ...storage.metrics.own import OwnMetric
from ...storage.metrics.ranking import RankSums
from ...storage.metrics.sample import RowSample
from ...storage.metrics.scoring import Scoring
from ..model.ensemble import as_stored
from ..model.objective import Normalizer, Objective, autocast
from ..stream.batch import Batch
from ..stream.device import to_device
from ..zoo.model_errors import errors_of_model
from .process import Process
from .shares import rows_of


@dataclass(eq=False)
class HeldOutEvaluator:
    """Measures a model on held-out rows, if there are any.

    Its sums are kept for each shard of the dataset, whose rows one rank reads in order: their total, and so all that
    depends on it, is the same to the bit at any world size. The order of rows is counted in integers.
    """

    model: nn.Module
    prepare: Normalizer
    objective: Objective
    scoring: Scoring
    own: Sequence[OwnMetric]
    process: Process
    shards: int
    """Of the dataset; 0 if no rank has held-out rows."""
    sums: list[np.ndarray | None] = field(init=False)
    """For each shard that this rank has read, the weights of the rows, the sums of what is averaged times the weights,
    and the sums by class: (1 + columns + 3 * classes,) float64."""
    names: tuple[str, ...] = field(init=False)
    """Of what is averaged."""
    ranks: RankSums = field(init=False)
    samples: list[RowSample] = field(init=False)
    """Samples of the rows read so far, of which the user's metrics are computed."""

    def begin(self) -> None:
        """Begin an evaluation."""
        self.model.eval()
        self.sums, self.names, self.samples = [None] * self.shards, (), []
        self.ranks = RankSums(self.scoring.ranked_outputs)

    @torch.inference_mode()
    def update(self, batch: Batch, shard: int) -> None:
        """Add a batch of a shard's held-out rows."""
        x, y, *given = rows_of(batch)
        with errors_of_model("forward pass"), autocast(self.process.device, self.objective.recipe.precision):
            outputs = self.model(self.prepare(to_device(x, self.process.device)))
        predicted = self.objective.predict(outputs)
        prediction, truth = predicted.cpu().numpy(), y.cpu().numpy()
        weight = given[0].cpu().numpy().astype(np.float64) if given else np.ones(len(truth))
        columns = self.scoring.of_rows(prediction, truth)
        self.names = tuple(columns)
        classes = self.scoring.class_sums(prediction, truth, weight)
        added = np.concatenate([[weight.sum()], (np.stack([*columns.values()]) * weight).sum(axis=1), classes.ravel()])
        before = self.sums[shard]
        self.sums[shard] = added if before is None else before + added
        if self.scoring.ranked():
            multiples = weight / self.objective.mean_weight if given else None
            self.ranks.add(*self.scoring.ranked_rows(prediction, truth), multiples)
        if self.own:
            stored = as_stored(predicted, self.scoring.schema).cpu().numpy()
            self._sample(RowSample.of(batch.id.cpu().numpy(), stored, truth, weight))

    def _sample(self, rows: RowSample) -> None:
        """Add rows to those that are sampled, which are bounded only now and then, because that sorts all of them."""
        self.samples.append(rows)
        if sum(len(one.rows) for one in self.samples) > 2 * rows.most:
            self.samples = [RowSample.union(self.samples)]

    def scores(self) -> dict[str, float]:
        """The metrics over the held-out rows of all ranks, which must call this together. Empty without rows."""
        if not self.shards:
            return {}
        keys, counts, level = self.ranks.parts()
        read = {str(shard): torch.from_numpy(sums) for shard, sums in enumerate(self.sums) if sums is not None}
        bins = {"keys": torch.from_numpy(keys.astype(np.int64)), "counts": torch.from_numpy(counts), "level": level}
        state = {"sums": read, "names": list(self.names), "ranks": bins, "sample": _stored(self.samples)}
        everyone = self.process.gather(state)
        found = self._metrics(everyone) if everyone else None
        return found if found and self.process.world_size == 1 else self.process.broadcast(found, 0)

    def _metrics(self, everyone: list[dict[str, Any]]) -> dict[str, float]:
        """The metrics of what all ranks have read."""
        by_shard = {int(shard): sums for rank in everyone for shard, sums in rank["sums"].items()}
        total = np.sum([by_shard[shard].cpu().numpy() for shard in sorted(by_shard)], axis=0)
        names = next(rank["names"] for rank in everyone if rank["names"])
        means = dict(zip(names, total[1 : 1 + len(names)] / total[0], strict=True))
        found = self.scoring.of_means(means) | self.scoring.of_classes(total[1 + len(names) :].reshape(3, -1))
        ranks = RankSums(self.scoring.ranked_outputs)
        for bins in (rank["ranks"] for rank in everyone):
            ranks.merge(bins["keys"].cpu().numpy().astype(np.uint64), bins["counts"].cpu().numpy(), bins["level"])
        if self.own:
            sample = RowSample.union([_restored(rank["sample"]) for rank in everyone if rank["sample"]])
            with errors_of_model("metric"):
                found |= {metric.name: np.float64(metric(sample)) for metric in self.own}
        return self.scoring.in_order(found | (ranks.metrics()[0] if self.scoring.ranked() else {}))


def _stored(samples: list[RowSample]) -> dict[str, Any]:
    """A rank's sample as the ranks exchange it."""
    if not samples:
        return {}
    sample = vars(RowSample.union(samples))
    return {name: torch.from_numpy(value) if name != "total" else value for name, value in sample.items()}


def _restored(state: dict[str, Any]) -> RowSample:
    return RowSample(**{name: value if name == "total" else value.cpu().numpy() for name, value in state.items()})
