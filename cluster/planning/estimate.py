"""Estimate what a job needs from measurements of a sample: rows, bytes, memory, hours and cost.

Nothing here does I/O, runs models or reads a clock.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...storage.format.layout import Layout, choose_layout
from ...training.model.optimizer import MODEL_BYTES
from ...training.splits.split import Split

SCORING = 1 / 3  # time to score a row, relative to training on it: only the forward pass
DASK_BYTES = 300 << 20  # memory of a Dask worker process
TEXT_BYTES = 32 << 20  # text that a Dask worker reads at once: a piece and a copy of it
TRAINING_BYTES = 700 << 20  # memory of a training worker process, with torch and Ray
STORED_MODEL_BYTES = 4  # for each parameter
CHECKPOINT_BYTES = 12  # for each parameter: its value and two moments
PREDICTION_BYTES = 4


@dataclass(frozen=True)
class DatasetEstimate:
    """A dataset, existing or expected. A row of all arrays takes `row_bytes` in memory; all rows take `stored_bytes` on
    disk."""

    layout: Layout
    row_bytes: int
    stored_bytes: int

    @property
    def rows(self) -> int:
        return self.layout.rows

    @property
    def dask_worker_bytes(self) -> int:
        """Memory of a Dask worker that converts it: the process, a shard, and the text of some rows."""
        return DASK_BYTES + self.layout.shard_rows * self.row_bytes + TEXT_BYTES


@dataclass(frozen=True)
class ConversionSample:
    """What a single worker needed to convert part of the sources: source bytes, rows, bytes on disk, seconds.

    Sources that are compressed or not UTF-8 also need `unpack_seconds`, and `packed_bytes` in the work folder.
    """

    source_bytes: int
    rows: int
    stored_bytes: int
    seconds: float
    unpack_seconds: float = 0.0
    packed_bytes: int = 0


@dataclass(frozen=True)
class ConversionEstimate:
    """The conversion of sources like the sample into a number of shards. With shuffling, `spilled_bytes` are kept in
    the work folder in the meantime."""

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
        """Peak bytes in the work folder."""
        return round(self.sample.packed_bytes * self.factor) + self.spilled_bytes

    def seconds_on(self, workers: int) -> float:
        """Seconds with this many workers. Each shard is a task, and so is each source to be unpacked."""
        return self.factor * (
            self.sample.seconds * math.ceil(self.shards / workers) / self.shards
            + self.sample.unpack_seconds * math.ceil(self.sources / workers) / self.sources
        )


def estimate_data(
    sample: ConversionSample, source_bytes: int, x_bytes: int, row_bytes: int, padded: bool = False
) -> DatasetEstimate:
    """Estimate the dataset of sources that are like the sample. A row of `x` takes `x_bytes`, which may be mostly
    padding."""
    factor = source_bytes / sample.source_bytes
    layout = choose_layout(max(1, round(sample.rows * factor)), x_bytes, padded)
    return DatasetEstimate(layout, row_bytes, round(sample.stored_bytes * factor))


@dataclass(frozen=True)
class Passes:
    """The number of models, and how many times per epoch all of them together train on and score all rows."""

    models: int
    trained: float
    scored: float


def epoch_passes(split: Split, refit: bool, candidates: int) -> Passes:
    """The passes of a split's models and, with `refit`, of the model trained on all rows except the holdout, for all
    candidates.

    For a time split this is an upper bound: its models train on earlier rows only.
    """
    seen = 1 - split.holdout
    if split.folds == 1:
        return Passes(candidates * (1 + refit), candidates * (1 + refit) * seen, candidates * split.holdout)
    models = split.folds * split.repeats
    trained = models * seen * (split.folds - 1) / split.folds + refit * seen
    return Passes(candidates * (models + refit), candidates * trained, candidates * split.repeats * seen)


@dataclass(frozen=True)
class TrainingEstimate:
    """Training with a number of `workers`. Each processes `batch` rows of a global batch, trains `at_once` models of
    `parameters` parameters, and holds blocks and batches in `stream_bytes`. A node has up to `on_node` workers, of all
    runs.

    A worker needs `train_seconds` to train one model on a row and `read_seconds` to read a row. In each epoch all rows
    are read `reads` times for training, and once for scoring.
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
    on_node: int = 1

    @property
    def models_bytes(self) -> int:
        return self.at_once * self.parameters * MODEL_BYTES

    @property
    def worker_bytes(self) -> int:
        """Memory of a training worker."""
        return TRAINING_BYTES + self.stream_bytes + self.models_bytes

    @property
    def node_bytes(self) -> int:
        """Memory of a node for its workers, without the blocks that stay decoded."""
        return self.on_node * self.worker_bytes

    @property
    def rows_read(self) -> int:
        return self.rows * self.epochs * (self.reads + 1)

    @property
    def computing(self) -> float:
        """Seconds of computing for a single worker."""
        return self.rows * self.epochs * (self.passes.trained + SCORING * self.passes.scored) * self.train_seconds

    @property
    def reading(self) -> float:
        """Seconds of reading for a single worker."""
        return self.rows_read * self.read_seconds

    @property
    def bound(self) -> str:
        """The bottleneck."""
        return "computing" if self.computing >= self.reading else "reading"

    def seconds_on(self, workers: int) -> float:
        """Seconds with this many workers, which read while they compute."""
        return max(self.computing, self.reading) / workers

    def bytes_left(self, outputs: int, split: Split, keep: int) -> int:
        """Bytes that the run leaves on disk: weights and `keep` checkpoints of each model, a fold code for each row in
        each array of codes, and predictions with `outputs` values per row, in parts and merged."""
        models = self.passes.models * self.parameters * (STORED_MODEL_BYTES + keep * CHECKPOINT_BYTES)
        return models + self.rows * (split.arrays + outputs * PREDICTION_BYTES * (split.repeats + 1))


@dataclass(frozen=True)
class Forecast:
    """Seconds that a job takes on a number of nodes, and the price of a node-hour, if known."""

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
    """Forecast the job for each number of nodes. A node has `cores` Dask workers, or `trainers` training workers."""
    return [
        Forecast(
            count,
            conversion.seconds_on(count * cores) if conversion else 0.0,
            training.seconds_on(count * trainers) if training else 0.0,
            price,
        )
        for count in nodes
    ]
