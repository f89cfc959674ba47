"""What a job will need, before anything runs: a sample of its sources is converted and its model is tried, here, for
some seconds; the rest is arithmetic (`estimate.py`). Neither Dask nor Ray is started.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ...pipeline.csv.dialect import CsvOptions
from ...pipeline.sample import SourceSample, sample_images, sample_texts
from ...pipeline.tables.sources import find_sources
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import FoldstreamError, RowError, SourceError, UsageError
from ...storage.format import MANIFEST, Layout
from ...storage.machine import keep_freed_memory, parse_bytes, this_machine
from ...storage.object_path import locate
from ...storage.reader import BlockReader
from ...storage.tasks import SerialExecutor
from ...storage.writer import commit, create_arrays, write_shard
from ...training.config import TrainConfig
from ...training.model.trial import Costs, try_rows
from ...training.run import RunJob
from ...training.splits.split import choose_split
from ...training.stream.batch import Rank
from ...training.stream.filters import EveryRow
from ...training.stream.fused import FusedStream
from ...training.stream.order import LANE_STEP, Mixing, lane_count
from ...training.stream.single import TrainStream
from ..api.job_file import CONVERSIONS, load_job_file
from ..api.split import named_split
from ..api.train import configure, train
from ..listener import Listener
from ..ray.job_cluster import usual_workers
from ..runs.grid import expand_grid
from .estimate import Conversion, Data, Outlook, Sample, Training, epoch_passes, estimate_data, look_ahead
from .text import Facts, assumptions, conversion_facts, data_facts, disk_fact, training_facts

ANY_MEMORY = 1 << 60
TRIAL_BLOCKS = 16  # of 2 MB: two for each of 8 lanes
SPLIT = ("split", "folds", "seed", "repeats", "holdout", "group_column", "order_column", "gap", "fold_column")


@dataclass(frozen=True)
class JobPlan:
    """What a job needs, by name; how long it takes on so many nodes; and what that takes for granted."""

    facts: Facts
    outlooks: list[Outlook]
    assumptions: list[str]


def plan_job(
    path: str | Path,
    nodes: Sequence[int],
    cores: int | None = None,
    price: float | None = None,
    source_bytes: str | int | None = None,
) -> JobPlan:
    """What the job in a TOML file will need on so many nodes of so many `cores`, this machine's by default.

    `price` is that of a node for an hour. `source_bytes` ("1TB") is the size of all sources, where those that are here
    are only some of them. Raises what `run_job` raises for sources that are not there and options that do not fit.
    """
    tables, bound = load_job_file(Path(path)), parse_bytes(source_bytes, "--source-bytes")
    table = next(iter(CONVERSIONS.keys() & tables), None)
    if table is None and "train" not in tables:
        raise UsageError(f"{path} neither converts nor trains: there is nothing to plan")
    if table is None and bound:
        raise UsageError(f"--source-bytes {source_bytes}: {path} has no sources; leave the option out")
    cores = cores or this_machine().cores
    trainers = torch.cuda.device_count() or cores
    keep_freed_memory()
    conversion, training, left = None, None, 0
    with tempfile.TemporaryDirectory(prefix="foldstream-plan-") as name:
        if table and (bound or not (locate(tables[table]["out"]) / MANIFEST).exists()):
            dataset, data, conversion = try_conversion(table, tables[table], bound, Path(name))
        else:
            dataset = open_dataset(tables[table]["out"] if table else tables["train"]["dataset"])
            data = measure(dataset)
        if "train" in tables:
            training, left = try_training(tables["train"], dataset, data, Path(name))
    facts = [
        *(conversion_facts(conversion, data) if conversion else []),
        *data_facts(data),
        *(training_facts(training, data, trainers) if training else []),
        disk_fact(data, conversion, left),
    ]
    outlooks = look_ahead(nodes, cores, trainers, conversion, training, price)
    return JobPlan(facts, outlooks, assumptions(conversion, training, "predict" in tables))


def try_conversion(
    table: str, values: Mapping[str, Any], bound: int | None, folder: Path
) -> tuple[Dataset, Data, Conversion]:
    """Convert a sample of the sources. Returns its dataset, that which all of the sources will make, and their
    conversion. They have `bound` bytes, where that is given."""
    places = [values["sources"]] if isinstance(values["sources"], str) else values["sources"]
    texts = table == "convert.csv"
    copies = folder / "sources"
    copies.mkdir()
    if texts:
        taken = sample_texts(find_sources(places), CsvOptions(**values.get("csv", {})), copies)
    else:
        taken = sample_images(places, copies)
    total = bound or taken.total
    if total is None:
        raise UsageError(
            f"{places[0]} has more than {taken.sources - 1:,} images; say how large all of them are, as in "
            "--source-bytes 1TB"
        )
    dataset, seconds = convert_sample(table, values, taken, folder)
    made = measure(dataset)
    unpacking = seconds.pop("open", 0.0) if taken.packed else 0.0
    sample = Sample(taken.bytes, dataset.rows, made.stored_bytes, sum(seconds.values()), unpacking, taken.packed)
    data = estimate_data(sample, total, dataset.schema.arrays()[0].row_bytes, made.row_bytes)
    sources = max(1, round(taken.sources * total / taken.total)) if taken.total else data.rows
    spilled = data.stored_bytes if texts and values.get("shuffle") is not None else 0
    return dataset, data, Conversion(sample, total, sources, data.layout.shards, spilled)


def convert_sample(
    table: str, values: Mapping[str, Any], sample: SourceSample, folder: Path
) -> tuple[Dataset, dict[str, float]]:
    """Convert a sample as the job says, in this process, twice: the first time compiled code is loaded. Returns the
    dataset and the seconds of each stage of the second time."""
    options = {**values, "sources": list(sample.places), "dask": None, "report": None, "client": SerialExecutor()}
    if "labels" in values:
        options["on_error"] = "skip"  # it names images that are not in the sample
    for out in (folder / "first", folder / "second"):
        clock = StageClock()
        with told_of(sample.origins | {str(out): values["out"]}):
            dataset = CONVERSIONS[table](**{**options, "out": str(out), "listener": Listener(clock)})
    return dataset, clock.seconds


@dataclass
class StageClock:
    """Hears how far work is, and knows the seconds of each stage."""

    begun: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, stage: str, done: int, total: int, remark: str = "") -> None:
        now = perf_counter()
        self.seconds[stage] = now - self.begun.setdefault(stage, now)


@contextmanager
def told_of(origins: Mapping[str, str]) -> Iterator[None]:
    """Inside, errors name what copies were made of."""
    try:
        yield
    except FoldstreamError as error:
        text = str(error)
        for copy, origin in origins.items():
            text = text.replace(copy, origin)
        raise (SourceError if isinstance(error, RowError) else type(error))(text) from None


def measure(dataset: Dataset) -> Data:
    """The measures of a dataset that is there."""
    stored = sum(sum(entry.lengths.values()) for entry in dataset.manifest.shards)
    return Data(dataset.layout, sum(spec.row_bytes for spec in dataset.manifest.arrays), stored)


def try_training(values: Mapping[str, Any], dataset: Dataset, data: Data, folder: Path) -> tuple[Training, int]:
    """What training takes on `data`, by a trial on a `dataset` that is like it; and the bytes that the run leaves.

    Raises UsageError for what cannot be trained, or not in the memory that is given.
    """
    bound = signature(train).bind(**values)
    bound.apply_defaults()
    options = bound.arguments
    split = (
        named_split(dataset, options["plan"])
        if options["plan"]
        else choose_split(dataset.schema, *(options[name] for name in SPLIT))
    )
    workers, epochs = options["workers"] or usual_workers(), options["epochs"]
    shared = {name: options[name] for name in ("model", "batch_size", "seed", "window", "refit")}
    common = TrainConfig(split=split, epochs=epochs, lanes=lane_count(workers), shares=workers, **shared)
    candidates = expand_grid(options["settings"] or {})
    configs, parameters = configure(candidates, common, dataset.schema)
    passes = epoch_passes(split, common.refit, len(candidates))
    fused = options["fold_mode"] != "runs"
    at_once, reads = (passes.models, 1) if fused else (1, passes.models)
    rank = Rank(0, workers, parse_bytes(options["memory"], "--memory") or ANY_MEMORY)
    stream = stream_bytes(replace_layout(dataset, data), common, at_once, rank)
    tried = dataset if dataset.layout == data.layout else with_blocks(dataset, data.layout.block_rows, folder / "tried")
    batch, costs = time_rows(tried, next(iter(configs.values())), workers)
    training = Training(
        data.rows, epochs, passes, parameters, workers, batch, at_once, reads, stream, costs.training, costs.reading
    )
    return training, training.bytes_left(dataset.schema.outputs, split.repeats, options["keep"])


def replace_layout(dataset: Dataset, data: Data) -> Dataset:
    """A dataset that is not there, of which only the layout and the arrays are known."""
    return Dataset(dataset.place, replace(dataset.manifest, layout=data.layout, shards=()), "")


def with_blocks(dataset: Dataset, block_rows: int, root: Path) -> Dataset:
    """The rows of a sample again and again in blocks of so many rows: its own are smaller, and slower to read."""
    specs = dataset.manifest.arrays
    rows = BlockReader(dataset, tuple(spec.name for spec in specs)).read(range(dataset.layout.blocks))
    layout = Layout(TRIAL_BLOCKS * block_rows, block_rows, TRIAL_BLOCKS)
    numbers = np.arange(layout.rows) % dataset.rows
    create_arrays(root, layout, specs, {})
    written = write_shard(root, layout, specs, 0, {spec.name: rows[spec.name][numbers] for spec in specs})
    commit(root, replace(dataset.manifest, layout=layout, shards=(written.entry,)), written.checksums)
    return open_dataset(root)


def stream_bytes(dataset: Dataset, config: TrainConfig, models: int, rank: Rank) -> int:
    """Memory of a worker's stream for so many models at once. Raises UsageError if the rank may not have as much."""
    mixing = Mixing(config.batch_size, config.lanes, config.window, config.seed)
    every = EveryRow(dataset.layout)
    if models == 1:
        return TrainStream(dataset, every, mixing, rank).memory_needed
    return FusedStream(dataset, dict.fromkeys(range(models), every), mixing, rank).memory_needed


def time_rows(dataset: Dataset, config: TrainConfig, workers: int) -> tuple[int, Costs]:
    """The rows of a batch that one of so many workers gets, and what a row costs it: it has one core, or a GPU, and
    decodes every block in every epoch."""
    if dataset.rows < LANE_STEP:
        raise UsageError(f"there are {dataset.rows} rows to try the training with, and it takes {LANE_STEP}")
    rows = max(LANE_STEP, min(config.batch_size // workers, dataset.rows) // LANE_STEP * LANE_STEP)
    own = replace(config, batch_size=rows, lanes=LANE_STEP, shares=1)
    job = RunJob(str(dataset.place), dataset.identity, dataset.schema, dataset.statistics, own, None)
    needed = stream_bytes(dataset, own, 1, Rank(memory=ANY_MEMORY, threads=1))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if torch.cuda.is_available() else 1)
    try:
        return rows, try_rows(job, Rank(memory=needed, threads=1))
    finally:
        torch.set_num_threads(threads)
