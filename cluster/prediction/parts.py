"""Predict in parts: each task predicts a shard, and writes its part and its receipt.

Whoever is killed, the same call resumes: parts that are there as their receipts say are not predicted again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from ...pipeline.predictions.outputs import Output
from ...pipeline.predictions.receipts import Facts, Tally, finished_shards, read_receipt, write_receipt
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress
from .plan import OpenPlan, PredictionPlan
from .rate import RowRate


@dataclass(frozen=True)
class PartTask:
    """Predict one shard and write its part to the `output`, and its receipt to the folder `work`."""

    plan: PredictionPlan
    output: Output
    work: Place
    shard: int


def predict_part(task: PartTask) -> None:
    """Run a task."""
    from .shards import shard_predictor  # torch, which the process that hands out tasks may not need

    predictor = shard_predictor(task.plan)
    tally = predictor.opened.tally()
    facts = task.output.write(task.shard, predictor.rows(task.shard, tally), predictor.opened.form)
    write_receipt(task.work, task.shard, facts, tally)


@dataclass(frozen=True)
class Parts:
    """The parts of a prediction. Their receipts are in the folder `work`."""

    opened: OpenPlan
    output: Output
    work: Place

    def predict(self, executor: Executor, progress: Progress) -> tuple[list[Facts], Tally]:
        """Predict all shards that are left. Returns the facts of all parts, and the tally of all rows."""
        layout, form = self.opened.dataset.layout, self.opened.form
        self.output.begin(form)
        finished = set(finished_shards(self.work, partial(self.output.is_written, form=form)))
        left = [shard for shard in range(layout.shards) if shard not in finished]
        sizes = [stop - start for start, stop in map(layout.shard_range, range(layout.shards))]
        rate = RowRate(layout.rows, progress, sum(sizes[shard] for shard in finished))
        tasks = [PartTask(self.opened.plan, self.output, self.work, shard) for shard in left]

        def ended() -> Iterator[int]:
            yield from finished
            for position, _ in executor.map(predict_part, tasks):
                rate.add(sizes[left[position]])
                yield left[position]

        facts, tally = list[Facts](), self.opened.tally()
        for shard in in_order(ended()):
            part, counted = read_receipt(self.work, shard)
            facts.append(part)
            tally.add(counted)
        return facts, tally


def in_order(numbers: Iterable[int]) -> Iterator[int]:
    """Yield the numbers from 0, each once it and all before it have come."""
    early, wanted = set[int](), 0
    for number in numbers:
        early.add(number)
        while wanted in early:
            early.remove(wanted)
            yield wanted
            wanted += 1
