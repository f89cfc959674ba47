"""An estimate as text: facts by name, and the assumptions behind them."""

from ...storage.machine import size_text
from .estimate import ConversionEstimate, DatasetEstimate, Forecast, TrainingEstimate

Facts = list[tuple[str, str]]
FORECAST_COLUMNS = ("nodes", "conversion", "training", "total", "cost")


def conversion_facts(conversion: ConversionEstimate, data: DatasetEstimate) -> Facts:
    """Facts about the sources, the sample and the converting workers."""
    sample = conversion.sample
    rate = sample.source_bytes / (sample.seconds + sample.unpack_seconds)
    return [
        ("sources", f"{size_text(conversion.source_bytes)} in {conversion.sources:,} sources"),
        ("sample", f"{sample.rows:,} rows, {size_text(sample.source_bytes)}"),
        ("conversion", f"{size_text(rate)}/s of sources on one core, measured on this machine"),
        ("Dask worker", f"{size_text(data.dask_worker_bytes)} of memory"),
    ]


def data_facts(data: DatasetEstimate) -> Facts:
    """Facts about the dataset."""
    layout = data.layout
    shard, block = layout.shard_rows * data.row_bytes, layout.block_rows * data.row_bytes
    return [
        ("rows", f"{data.rows:,}"),
        ("dataset", f"{size_text(data.rows * data.row_bytes)} in memory, {size_text(data.stored_bytes)} on disk"),
        ("shards", f"{layout.shards:,} of {size_text(shard)}"),
        ("blocks", f"{layout.blocks:,} of {size_text(block)}, {layout.block_rows:,} rows each"),
    ]


def training_facts(training: TrainingEstimate, data: DatasetEstimate, trainers: int) -> Facts:
    """Facts about the models and the workers that train them; a node has `trainers` training workers."""
    read = training.rows_read * data.stored_bytes / data.rows
    on_node = read / training.seconds_on(trainers)
    return [
        ("models", f"{training.passes.models:,} of {training.parameters:,} parameters, {training.epochs:,} epochs"),
        ("training", f"{1 / training.train_seconds:,.0f} rows/s per model and worker, measured on this machine"),
        ("reading", f"{1 / training.read_seconds:,.0f} rows/s per worker, measured on this machine"),
        ("from storage", f"{size_text(read)} in all epochs, {size_text(on_node)}/s per node"),
        (
            "training worker",
            f"{size_text(training.worker_bytes)} of memory for each of {training.workers:,}, including "
            f"{size_text(training.stream_bytes)} for blocks and batches and {size_text(training.models_bytes)} for "
            f"{training.at_once:,} models",
        ),
        (
            "training node",
            f"{size_text(training.node_bytes)} of memory for up to {training.on_node:,} workers at once, beside the "
            "blocks that stay decoded",
        ),
    ]


def disk_fact(data: DatasetEstimate, conversion: ConversionEstimate | None, left: int) -> tuple[str, str]:
    """Disk space for the dataset, for what a run leaves, and for temporary files of the conversion."""
    scratch = conversion.scratch_bytes if conversion else 0
    return "disk", f"{size_text(data.stored_bytes + left)}" + (
        f", and {size_text(scratch)} during conversion" if scratch else ""
    )


def forecast_row(forecast: Forecast) -> list[str]:
    """The cells of a forecast, under FORECAST_COLUMNS."""
    times = (forecast.conversion, forecast.training, forecast.seconds)
    return [f"{forecast.nodes:,}", *map(time_text, times), "" if forecast.cost is None else f"{forecast.cost:,.2f}"]


def assumptions(conversion: ConversionEstimate | None, training: TrainingEstimate | None, predicts: bool) -> list[str]:
    """The assumptions behind an estimate."""
    lines = []
    if conversion:
        if conversion.source_bytes != conversion.sample.source_bytes:
            lines.append("All sources resemble the sample: rows per byte, classes, time to convert a byte.")
        lines.append("Conversion: each core of each node converts one shard at a time, and storage keeps up.")
        if conversion.sample.packed_bytes:
            lines.append("Compressed and non-UTF-8 sources all have the same size; each is unpacked by one core.")
    if training:
        lines += [
            "Training: each node has one worker per GPU, or one worker per core if it has no GPUs.",
            f"Each worker is as fast as a worker on this machine with {training.batch:,} rows per step, as in the job.",
            f"Training is bound by {training.bound}; reading overlaps with it, at the speed of this machine's memory.",
            "The exchange of gradients between workers is not included.",
            "Scoring a row takes a third of the time of training on it. There is no early stopping.",
        ]
    if predicts:
        lines.append("The prediction of new rows is not included.")
    return [*lines, "Starting Dask and Ray (about half a minute) and merging predictions are not included."]


def time_text(seconds: float) -> str:
    """A duration, e.g. 2.5 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"
