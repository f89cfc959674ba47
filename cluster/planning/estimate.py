"""What a job will need, by arithmetic alone: from what a sample of it took to rows, bytes, memory, hours and cost.

Nothing here reads, runs or looks at a clock.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...storage.format import Layout, choose_layout
from ...training.model.optimizer import MODEL_BYTES
from ...training.splits.split import Split

SCORING = 1 / 3  # of the time of training on a row: the forward pass alone
DASK_BYTES = 300 << 20  # of a Dask worker's own process
TEXT_BYTES = 32 << 20  # that a Dask worker reads at once: a piece, and a copy of it
TRAINING_BYTES = 700 << 20  # of a training worker's own process, with torch and Ray
STORED_MODEL_BYTES = 4  # of each parameter
CHECKPOINT_BYTES = 12  # of each parameter: itself, two moments
PREDICTION_BYTES = 4


@dataclass(frozen=True)
class DatasetEstimate:
    """A dataset that is there or will be. A row of all its arrays has `row_bytes`, decoded; all rows have
    `stored_bytes` on disk."""

    layout: Layout
    row_bytes: int
    stored_bytes: int

    @property
    def rows(self) -> int:
        return self.layout.rows

    @property
    def dask_worker_bytes(self) -> int:
        """Memory of a Dask worker that makes it: itself, a shard, the text of some of its rows."""
        return DASK_BYTES + self.layout.shard_rows * self.row_bytes + TEXT_BYTES


@dataclass(frozen=True)
class Sample:
    """What one worker took to convert a part of the sources: bytes of these, rows, bytes of them on disk, seconds.

    Sources that are compressed or not UTF-8 take `unpack_seconds` before, and `packed_bytes` in the work folder.
    """

    source_bytes: int
    rows: int
    stored_bytes: int
    seconds: float
    unpack_seconds: float = 0.0
    packed_bytes: int = 0


@dataclass(frozen=True)
class Conversion:
    """The conversion of sources that are like the sample into so many shards. With `spilled_bytes` they are shuffled,
    and lie in the work folder meanwhile."""

    sample: ConversionSample
    source_bytes: int
    sources: int
    shards: int
    spilled_bytes: int = 0

    @property
    def factor(self) -> float:
        return self.source_bytes / self.sample.source_bytes

    @property
    def scratch_bytes(self) -> int:
        """In the work folder, at most."""
        return round(self.sample.packed_bytes * self.factor) + self.spilled_bytes

    def seconds_on(self, workers: int) -> float:
        """With so many workers: a shard is one task, and so is a source that is unpacked."""
        return self.factor * (
            self.sample.seconds * math.ceil(self.shards / workers) / self.shards
            + self.sample.unpack_seconds * math.ceil(self.sources / workers) / self.sources
        )


def estimate_data(sample: ConversionSample, source_bytes: int, x_bytes: int, row_bytes: int) -> DatasetEstimate:
    """The dataset of sources that are like the sample. `x_bytes` are those of a row of `x`."""
    factor = source_bytes / sample.source_bytes
    layout = choose_layout(max(1, round(sample.rows * factor)), x_bytes)
    return DatasetEstimate(layout, row_bytes, round(sample.stored_bytes * factor))


@dataclass(frozen=True)
class Passes:
    """All models, and how often they all together train on all rows and score all rows in an epoch."""

    models: int
    trained: float
    scored: float


def epoch_passes(split: Split, refit: bool, candidates: int) -> Passes:
    """The passes of the models of a split, and of one more that trains on all rows but the holdout, for each of some
    candidates.

    The models of a time split train on earlier rows only: of them it is more than they need.
    """
    seen = 1 - split.holdout
    if split.folds == 1:
        return Passes(candidates * (1 + refit), candidates * (1 + refit) * seen, candidates * split.holdout)
    models = split.folds * split.repeats
    trained = models * seen * (split.folds - 1) / split.folds + refit * seen
    return Passes(candidates * (models + refit), candidates * trained, candidates * split.repeats * seen)


@dataclass(frozen=True)
class Training:
    """Training with so many `workers`, each with `batch` rows of a batch, `at_once` models of so many `parameters`, and
    blocks and batches in `stream_bytes`.

    One worker takes `train_seconds` to train one model on a row, and `read_seconds` to read a row. In each epoch all
    rows are read `reads` times to train on them, and once to score them.
    """

    rows: int
    epochs: int
    passes: Passes
    parameters: int
    workers: int
    batch: int
    at_once: int
    reads: int
    stream_bytes: int
    train_seconds: float
    read_seconds: float

    @property
    def models_bytes(self) -> int:
        return self.at_once * self.parameters * MODEL_BYTES

    @property
    def worker_bytes(self) -> int:
        """Memory of each worker."""
        return TRAINING_BYTES + self.stream_bytes + self.models_bytes

    @property
    def rows_read(self) -> int:
        return self.rows * self.epochs * (self.reads + 1)

    @property
    def computing(self) -> float:
        """Seconds of one worker."""
        return self.rows * self.epochs * (self.passes.trained + SCORING * self.passes.scored) * self.train_seconds

    @property
    def reading(self) -> float:
        """Seconds of one worker."""
        return self.rows_read * self.read_seconds

    @property
    def bound(self) -> str:
        """What takes longer."""
        return "computing" if self.computing >= self.reading else "reading"

    def seconds_on(self, workers: int) -> float:
        """With so many workers, which read while they compute."""
        return max(self.computing, self.reading) / workers

    def bytes_left(self, outputs: int, repeats: int, keep: int) -> int:
        """What the run has on disk in the end: weights and `keep` checkpoints of each model, a code of each row in each
        repeat, and predictions of so many `outputs` in parts and merged."""
        models = self.passes.models * self.parameters * (STORED_MODEL_BYTES + keep * CHECKPOINT_BYTES)
        return models + self.rows * (repeats + outputs * PREDICTION_BYTES * (repeats + 1))


@dataclass(frozen=True)
class Forecast:
    """What a job takes on so many nodes: seconds, and the price of a node-hour if there is one."""

    nodes: int
    conversion: float
    training: float
    price: float | None = None

    @property
    def seconds(self) -> float:
        return self.conversion + self.training

    @property
    def cost(self) -> float | None:
        return None if self.price is None else self.nodes * self.seconds / 3600 * self.price


def forecast_times(
    nodes: Sequence[int],
    cores: int,
    trainers: int,
    conversion: ConversionEstimate | None,
    training: TrainingEstimate | None,
    price: float | None,
) -> list[Forecast]:
    """The outlook on each number of nodes, which have `cores` Dask workers or `trainers` training workers each."""
    return [
        Forecast(
            count,
            conversion.seconds_on(count * cores) if conversion else 0.0,
            training.seconds_on(count * trainers) if training else 0.0,
            price,
        )
        for count in nodes
    ]
