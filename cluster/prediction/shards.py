"""The prediction of shards with the models of a run, which are loaded once in each process."""

from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import groupby
from operator import itemgetter

import numpy as np
import pyarrow as pa

from ...pipeline.predictions.receipts import Tally
from ...storage.tasks import Progress
from ...training.model.prediction import Models, predict_shards
from .plan import PredictionPlan
from .rate import RowRate


class ShardPredictor:
    """Predicts the shards of a plan's dataset."""

    def __init__(self, plan: PredictionPlan) -> None:
        self.opened = plan.open()

    @cached_property
    def models(self) -> Models:
        return self.opened.members.load(self.opened.plan.ensemble)

    def rows(self, shard: int, tally: Tally) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """The rows of a shard, batch by batch, with their arrays and predictions. They are added to the tally."""
        for _, arrays, predictions in predict_shards(self.models, self.opened.dataset, [shard]):
            tally.count(arrays, predictions)
            yield arrays, predictions

    def tables(self, tally: Tally, progress: Progress) -> Iterator[pa.Table]:
        """All rows as tables, one for each batch."""
        layout, form = self.opened.dataset.layout, self.opened.form
        rate = RowRate(layout.rows, progress)
        every = predict_shards(self.models, self.opened.dataset, range(layout.shards))
        for _, batches in groupby(every, key=itemgetter(0)):
            of_shard = self.opened.tally()
            for _, arrays, predictions in batches:
                of_shard.count(arrays, predictions)
                yield form.table(arrays, predictions)
                rate.add(len(predictions))
            tally.add(of_shard.to_arrays())


@lru_cache(1)
def shard_predictor(plan: PredictionPlan) -> ShardPredictor:
    """The predictor of a plan, with its models, for all tasks of a worker."""
    return ShardPredictor(plan)
