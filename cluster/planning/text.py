"""What a job will need, in words: facts by name, and what they take for granted."""

from .estimate import ConversionEstimate, DatasetEstimate, Forecast, TrainingEstimate

Facts = list[tuple[str, str]]
FORECAST_COLUMNS = ("nodes", "conversion", "training", "both", "cost")


def conversion_facts(conversion: ConversionEstimate, data: DatasetEstimate) -> Facts:
    """Sources, the sample, and the workers that convert."""
    sample = conversion.sample
    rate = sample.source_bytes / (sample.seconds + sample.unpack_seconds)
    return [
        ("sources", f"{size_text(conversion.source_bytes)}, {conversion.sources:,} of them"),
        ("sample", f"{sample.rows:,} rows of {size_text(sample.source_bytes)}"),
        ("conversion", f"{size_text(rate)} of sources a second by one core, measured here"),
        ("a Dask worker", f"{size_text(data.dask_worker_bytes)} of memory"),
    ]


def data_facts(data: DatasetEstimate) -> Facts:
    """The dataset."""
    layout = data.layout
    shard, block = layout.shard_rows * data.row_bytes, layout.block_rows * data.row_bytes
    return [
        ("rows", f"{data.rows:,}"),
        ("dataset", f"{size_text(data.rows * data.row_bytes)}, on disk {size_text(data.stored_bytes)}"),
        ("shards", f"{layout.shards:,} of {size_text(shard)}"),
        ("blocks", f"{layout.blocks:,} of {size_text(block)}, {layout.block_rows:,} rows"),
    ]


def training_facts(training: TrainingEstimate, data: DatasetEstimate, trainers: int) -> Facts:
    """Models, and the workers that train them, of which a node has `trainers`."""
    read = training.rows_read * data.stored_bytes / data.rows
    on_node = read / training.seconds_on(trainers)
    return [
        ("models", f"{training.passes.models:,} of {training.parameters:,} parameters, {training.epochs:,} epochs"),
        ("training", f"{1 / training.train_seconds:,.0f} rows a second and model by one worker, measured here"),
        ("reading", f"{1 / training.read_seconds:,.0f} rows a second by one worker, measured here"),
        ("from storage", f"{size_text(read)} in all epochs, {size_text(on_node)} a second for each node"),
        (
            "a training worker",
            f"{size_text(training.worker_bytes)} of memory as one of {training.workers:,}: "
            f"{size_text(training.stream_bytes)} of it for blocks and batches, {size_text(training.models_bytes)} for "
            f"{training.at_once:,} models",
        ),
    ]


def disk_fact(data: DatasetEstimate, conversion: ConversionEstimate | None, left: int) -> tuple[str, str]:
    """Room for the dataset, for what a run leaves, and for what is there only while the sources are converted."""
    scratch = conversion.scratch_bytes if conversion else 0
    return "disk", f"{size_text(data.stored_bytes + left)}" + (
        f", and {size_text(scratch)} until all is converted" if scratch else ""
    )


def forecast_row(outlook: Forecast) -> list[str]:
    """The cells under FORECAST_COLUMNS."""
    times = (outlook.conversion, outlook.training, outlook.seconds)
    return [f"{outlook.nodes:,}", *map(time_text, times), "" if outlook.cost is None else f"{outlook.cost:,.2f}"]


def assumptions(conversion: ConversionEstimate | None, training: TrainingEstimate | None, predicts: bool) -> list[str]:
    """What the figures take for granted."""
    lines = []
    if conversion:
        if conversion.source_bytes != conversion.sample.source_bytes:
            lines.append("All sources are like the sample: rows to a byte, classes, time to convert a byte.")
        lines.append("Conversion: each core of each node takes one shard after the other; storage keeps up with them.")
        if conversion.sample.packed_bytes:
            lines.append("Sources that are compressed or not UTF-8 are equally large, and one core unpacks each.")
    if training:
        lines += [
            "Training: each core of each node is a worker, or each GPU where there are some.",
            f"Each is as fast as one was here with {training.batch:,} rows of a batch, as the job's workers have.",
            f"It is bound by {training.bound}: reading goes on beside it, as fast as from this machine's memory.",
            "The exchange of gradients between workers is not counted.",
            "Scoring a row takes a third of the time of training on it. No model stops early.",
        ]
    if predicts:
        lines.append("The prediction of new rows is not counted.")
    return [*lines, "The starts of Dask and Ray, half a minute, are not counted, nor is the merging of predictions."]


def size_text(size: float) -> str:
    """Bytes, as in 1.05 TB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.2f} TB"


def time_text(seconds: float) -> str:
    """A time, as in 2.5 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"
