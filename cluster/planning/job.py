"""Estimate what a job needs before it runs: convert a sample of its sources and try its model in this process for a
few seconds; the rest is arithmetic (`estimate.py`). Neither Dask nor Ray is started.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ...pipeline.csv.options import CsvOptions
from ...pipeline.sample import SourceSample, sample_images, sample_texts
from ...pipeline.tables.sources import find_sources
from ...storage.blocks.reader import BlockReader
from ...storage.blocks.shards import Rows
from ...storage.blocks.writer import commit, create_arrays, write_shard
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import FoldstreamError, RowError, SourceError, UsageError
from ...storage.format.layout import Layout
from ...storage.format.manifest import MANIFEST
from ...storage.machine import Sharing, check_bytes, keep_freed_memory, this_machine
from ...storage.places.locate import locate
from ...storage.programs.loading import prepare_code
from ...storage.tasks import SerialExecutor
from ...training.config import TrainConfig
from ...training.model.row_costs import RowCosts, measure_row_costs
from ...training.run import RunJob, mixing_of
from ...training.stream.batch import Rank
from ...training.stream.filters import EveryRow
from ...training.stream.fused import FusedStream
from ...training.stream.order import LANE_STEP, lane_count
from ...training.stream.single import TrainStream
from ..api.conversion import convert_sources
from ..api.job_file import load_job_file, parse_job
from ..api.split import split_of
from ..api.training import check_candidates
from ..api.training_request import (
    callback_factories,
    candidates_of,
    code_of,
    common_config,
    configure,
    search_of,
    settle,
)
from ..listener import Listener
from ..requests import AdoptRequest, ConvertImagesRequest, ConvertTablesRequest, Session, TrainRequest
from ..runs.workers import shares_of
from .estimate import (
    ConversionEstimate,
    ConversionSample,
    DatasetEstimate,
    Forecast,
    TrainingEstimate,
    epoch_passes,
    estimate_data,
    forecast_times,
)
from .text import Facts, assumptions, conversion_facts, data_facts, disk_fact, training_facts

ANY_MEMORY = 1 << 60
TRIAL_BLOCKS = 16  # of 2 MB: two for each of 8 lanes


@dataclass(frozen=True)
class JobEstimate:
    """What a job needs, as facts by name; forecasts for different numbers of nodes; and the underlying assumptions."""

    facts: Facts
    forecasts: list[Forecast]
    assumptions: list[str]


def estimate_job(
    path: str | Path,
    nodes: Sequence[int],
    cores: int | None = None,
    price: float | None = None,
    source_bytes: str | int | None = None,
) -> JobEstimate:
    """Estimate what the job in a TOML file needs on each number of nodes with `cores` cores (default: this machine's).

    `price` is the price of a node-hour. `source_bytes` ("1TB") is the size of all sources, if only some of them are
    available. Raises the same errors as `run_job` for missing sources and invalid options.
    """
    job, bound = parse_job(load_job_file(Path(path))), check_bytes(source_bytes, "--source-bytes")
    if job.convert is None and job.train is None:
        raise UsageError(
            f"{path} neither converts nor trains, so there is nothing to estimate; add one of these tables"
        )
    if job.convert is None and bound:
        raise UsageError(f"--source-bytes {source_bytes}: {path} has no sources; remove the option")
    cores = cores or this_machine().cores
    trainers = torch.cuda.device_count() or cores
    keep_freed_memory()
    conversion, training, left = None, None, 0
    with tempfile.TemporaryDirectory(prefix="foldstream-plan-") as name:
        if isinstance(job.convert, AdoptRequest):
            dataset = open_adopted(job.convert)
            data = measure_dataset(dataset)
        elif job.convert and (bound or not (locate(str(job.convert.out)) / MANIFEST).exists()):
            dataset, data, conversion = measure_conversion(job.convert, bound, Path(name))
        else:
            dataset = open_dataset(str(job.convert.out if job.convert else job.train.dataset if job.train else ""))
            data = measure_dataset(dataset)
        if job.train:
            training, left = measure_training(job.train, dataset, data, Path(name), trainers)
    facts = [
        *(conversion_facts(conversion, data) if conversion else []),
        *data_facts(data),
        *(training_facts(training, data, trainers) if training else []),
        disk_fact(data, conversion, left),
    ]
    forecasts = forecast_times(nodes, cores, trainers, conversion, training, price)
    return JobEstimate(facts, forecasts, assumptions(conversion, training, job.predict is not None))


def open_adopted(request: AdoptRequest) -> Dataset:
    """The dataset of arrays in place. Raises UsageError if it does not exist yet: without a conversion there is nothing
    to estimate from a sample."""
    if not (locate(str(request.out)) / MANIFEST).exists():
        raise UsageError(
            f"{request.out} does not exist yet; make it with 'foldstream adopt', then estimate the training"
        )
    return open_dataset(str(request.out))


def measure_conversion(
    request: ConvertTablesRequest | ConvertImagesRequest, bound: int | None, folder: Path
) -> tuple[Dataset, DatasetEstimate, ConversionEstimate]:
    """Convert a sample of the sources. Returns its dataset, and estimates of the full dataset and of its conversion.
    `bound`, if given, is the total size of the sources in bytes."""
    copies = folder / "sources"
    copies.mkdir()
    if isinstance(request, ConvertTablesRequest):
        taken = sample_texts(find_sources(request.places), CsvOptions.model_validate(request.csv), copies)
    else:
        taken = sample_images(request.places, copies)
    total = bound or taken.total
    if total is None:
        raise UsageError(
            f"{request.places[0]} has more than {taken.sources - 1:,} images, too many to list; give their total size, "
            "e.g. --source-bytes 1TB"
        )
    dataset, seconds = convert_sample(request, taken, folder)
    made = measure_dataset(dataset)
    unpacking = seconds.pop("open", 0.0) if taken.packed else 0.0
    sample = ConversionSample(
        taken.bytes, len(dataset), made.stored_bytes, sum(seconds.values()), unpacking, taken.packed
    )
    padded = dataset.schema.tokens is not None
    data = estimate_data(sample, total, dataset.schema.row_bytes, made.row_bytes, padded)
    sources = max(1, round(taken.sources * total / taken.total)) if taken.total else data.rows
    spills = isinstance(request, ConvertTablesRequest) and request.shuffle is not None
    return (
        dataset,
        data,
        ConversionEstimate(sample, total, sources, data.layout.shards, data.stored_bytes if spills else 0),
    )


def convert_sample(
    request: ConvertTablesRequest | ConvertImagesRequest, sample: SourceSample, folder: Path
) -> tuple[Dataset, dict[str, float]]:
    """Convert a sample with the job's options in this process, twice, because the first time loads compiled code.
    Returns the dataset and the seconds of each stage of the second conversion."""
    here: dict[str, Any] = {"sources": sample.places, "dask": None, "report": None}
    if isinstance(request, ConvertImagesRequest) and request.labels is not None:
        here["on_error"] = "skip"  # it names images that are not in the sample
    for out in (folder / "first", folder / "second"):
        clock = StageClock()
        own = request.model_copy(update={**here, "out": str(out)})
        session = Session(listener=Listener(clock), client=SerialExecutor())
        with original_names(sample.origins | {str(out): str(request.out)}):
            dataset = convert_sources(own, session)
    return dataset, clock.seconds


@dataclass
class StageClock:
    """A progress listener that measures the seconds of each stage."""

    started: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, stage: str, done: int, total: int, remark: str = "") -> None:
        now = perf_counter()
        self.seconds[stage] = now - self.started.setdefault(stage, now)


@contextmanager
def original_names(origins: Mapping[str, str]) -> Iterator[None]:
    """In this context, errors name the original sources instead of their copies."""
    try:
        yield
    except FoldstreamError as error:
        text = str(error)
        for copy, origin in origins.items():
            text = text.replace(copy, origin)
        raise (SourceError if isinstance(error, RowError) else type(error))(text) from None


def measure_dataset(dataset: Dataset) -> DatasetEstimate:
    """The sizes of an existing dataset."""
    stored = sum(sum(entry.lengths.values()) for entry in dataset.manifest.shards)
    return DatasetEstimate(dataset.layout, sum(spec.row_bytes for spec in dataset.manifest.arrays), stored)


def measure_training(
    request: TrainRequest, dataset: Dataset, data: DatasetEstimate, folder: Path, trainers: int
) -> tuple[TrainingEstimate, int]:
    """Estimate training on `data`, with up to `trainers` workers on a node, by a trial on a similar `dataset`; also the
    bytes that the run leaves on disk.

    Raises UsageError if the model cannot be trained on the data or does not fit into the given memory.
    """
    callback_factories(request)
    request = settle(request, dataset.schema, data.rows)
    prepare_code(code_of(request), request.assets)
    candidates, split = candidates_of(request), split_of(request, dataset)
    workers = request.workers or shares_of(0)
    common = common_config(request, dataset, split, lane_count(workers), workers)
    configs = configure(candidates, common)
    parameters = check_candidates(request, candidates, configs, dataset)
    count = search_of(request).total if request.search else len(candidates)  # as if none of a search was stopped
    passes = epoch_passes(split, common.refit, count)
    fused = request.fold_mode != "runs"
    at_once, reads = (passes.models, 1) if fused else (1, passes.models)
    on_node = min(trainers, workers if fused else workers * passes.models)
    rank = Rank(0, workers, request.memory_bytes or ANY_MEMORY, sharing=Sharing(ranks=on_node))
    stream = stream_bytes(replace_layout(dataset, data), common, at_once, rank)
    tried = dataset if dataset.layout == data.layout else reblock(dataset, data.layout.block_rows, folder / "tried")
    batch, costs = time_rows(tried, next(iter(configs.values())), workers)
    training = TrainingEstimate(
        data.rows,
        common.epochs,
        passes,
        parameters,
        workers,
        batch,
        at_once,
        reads,
        stream,
        costs.training,
        costs.reading,
        on_node,
    )
    return training, training.bytes_left(dataset.schema.outputs, split, request.keep)


def replace_layout(dataset: Dataset, data: DatasetEstimate) -> Dataset:
    """A dataset that does not exist yet, of which only the layout and the arrays are known."""
    return Dataset(dataset.place, replace(dataset.manifest, layout=data.layout, shards=()), "")


def reblock(dataset: Dataset, block_rows: int, root: Path) -> Dataset:
    """Repeat the rows of a sample in blocks of `block_rows`, because its own blocks are smaller and slower to read."""
    specs, blocks = dataset.manifest.arrays, range(dataset.layout.blocks)
    reader = BlockReader(dataset, tuple(spec.name for spec in specs))
    rows = reader.read(blocks)
    layout = Layout(TRIAL_BLOCKS * block_rows, block_rows, TRIAL_BLOCKS)
    numbers = np.arange(layout.rows) % len(dataset)
    place = locate(root)
    create_arrays(place, layout, specs, {})
    behind = dataset.manifest.behind
    arrays: dict[str, Rows] = {spec.name: rows[spec.name][numbers] for spec in specs}
    if dataset.schema.encoded:
        files = [file for block in blocks for file in reader.files(block)]
        arrays["x"] = [files[number] for number in numbers]
    written = write_shard(place, layout, specs, 0, arrays, behind)
    commit(place, replace(dataset.manifest, layout=layout, shards=(written.entry,)), written.blocks)
    return open_dataset(place)


def stream_bytes(dataset: Dataset, config: TrainConfig, models: int, rank: Rank) -> int:
    """Memory of a worker's stream for `models` models at once. Raises UsageError if it exceeds the rank's limit."""
    mixing = mixing_of(config)
    every = EveryRow(dataset.layout)
    if models == 1:
        return TrainStream(dataset, every, mixing, rank).memory_needed
    return FusedStream(dataset, dict.fromkeys(range(models), every), mixing, rank).memory_needed


def time_rows(dataset: Dataset, config: TrainConfig, workers: int) -> tuple[int, RowCosts]:
    """The rows of a batch that one of `workers` workers gets, and the cost of a row, for a worker with one core or one
    GPU that decodes every block in every epoch."""
    if len(dataset) < LANE_STEP:
        raise UsageError(f"the sample has only {len(dataset)} rows; the training trial needs at least {LANE_STEP}")
    rows = max(LANE_STEP, min(config.batch_size // workers, len(dataset)) // LANE_STEP * LANE_STEP)
    own = config.model_copy(update={"batch_size": rows, "lanes": LANE_STEP, "shares": 1})
    job = RunJob(str(dataset.place), dataset.identity, dataset.schema, own)
    needed = stream_bytes(dataset, own, 1, Rank(memory=ANY_MEMORY, threads=1))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if torch.cuda.is_available() else 1)
    try:
        return rows, measure_row_costs(job, Rank(memory=needed, threads=1))
    finally:
        torch.set_num_threads(threads)
