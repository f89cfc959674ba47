"""Batches of a dataset for a custom training loop, without Ray: `fs.stream` and `fs.normalizer`."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..storage.compiled import load_numba
from ..storage.dataset import Dataset, open_dataset
from ..storage.errors import UsageError, check_choice
from ..storage.fold_plan import FoldPlan, open_plan
from ..storage.format.manifest import MANIFEST
from ..storage.machine import check_bytes
from ..storage.options import as_texts
from ..storage.places.locate import Location, locate
from ..storage.tasks import SerialExecutor, silent
from .fitted.inputs import plan_inputs
from .fitted.statistics import fit_plan, fitted_statistics
from .fitted.strategies import parse_fill, parse_option, parse_sample, parse_scaling
from .model.objective import Normalizer
from .run import RunFolder
from .settings import plan_sampling
from .splits.choose import check_split
from .splits.plan import make_plan
from .splits.split import Split
from .stream.batch import Rank, Transform
from .stream.filters import Both, EveryRow, RowFilter, SubsetFilter, held_out_rows, training_rows
from .stream.order import Mixing, lane_count
from .stream.rows import RowStream
from .stream.sampling import draw
from .stream.single import TrainStream

load_numba()


def stream(
    dataset: str | Path | Dataset,
    *,
    batch_size: int = 256,
    fold: int | None = None,
    folds: int | Location = 5,
    split: str = "train",
    rows: np.ndarray | None = None,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    epoch: int = 0,
    window: int = 8,
    lanes: int | None = None,
    drop_last: bool = False,
    sample: str | Sequence[str] = (),
    weighted: bool = False,
    memory: str | int | None = None,
    cache: str | int | None = None,
    threads: int | None = None,
    transform: Transform | None = None,
    device: str | torch.device = "cpu",
) -> TrainStream | RowStream:
    """Stream a dataset as batches `(x, y, id)` of tensors with the dataset's dtypes, without Ray. The `x` of images
    with columns beside them is a dict of `image` and `table`, (rows, columns) float64.

    Args:
        dataset: A dataset, or its location.
        batch_size: Rows per batch; for `split="train"`, rows of the global batch that the ranks share.
        fold: With `split="train"`, stream the rows that the model of this fold trains on, and with `split="test"` its
            held-out rows. None: all rows.
        folds: The number of folds (stratified for classification), or the location of a run or of a fold plan whose
            folds are used.
        split: `"train"` shuffles the rows, and each rank gets its share of every global batch. `"test"` yields each
            row exactly once, in the order of the dataset.
        rows: A subset to restrict the stream to: a boolean mask over all rows, or row indices. With `split="train"`,
            repeated indices are repeated in each epoch.
        rank: The rank of this process among `world_size` processes.
        world_size: The number of processes that share the batches. It must divide `lanes`.
        seed: The seed for shuffling, and for the folds if `folds` is a number.
        epoch: The first epoch. Each subsequent iteration of a training stream yields the next epoch.
        window: Blocks of each lane that are shuffled together.
        lanes: Lanes of the shuffle. None: the smallest multiple of 8 that `world_size` divides. Streams with the same
            number of lanes see the same global batches at any world size.
        drop_last: Drop the last batch of an epoch if it is not full. Otherwise it has fewer rows; with several ranks,
            some ranks may get none of them.
        sample: Draw the rows of each epoch with replacement, like `train --sample`: `"balanced"`, `"weight"`, or class
            factors such as `["yes=3"]`.
        weighted: Yield `(x, y, id, weight)`, with the sample weights from the weight column.
        memory: Memory limit of the stream, e.g. `"2GB"`. None: an eighth of the machine's memory.
        cache: Limit on the local disk space for caching blocks of a dataset in an object store. None: a tenth of the
            free space.
        threads: Threads that read and decode. None: one per core for local data, 16 for data in an object store.
        transform: A function applied to each training batch. It receives the batch and a torch.Generator seeded by the
            batch's position.
        device: The device of the batches, e.g. "cuda"; copying overlaps with computation on earlier batches.

    Returns:
        An iterable over batches. It prefetches in its own threads; to wrap it in a torch.utils.data.DataLoader, use
        `batch_size=None` and `num_workers=0`.

    Raises:
        UsageError: Arguments are out of range or incompatible, or the folds belong to another dataset.
        DatasetError: The dataset or the fold plan does not exist, is incomplete or is damaged.

    Example:
        >>> normalize, model = fs.normalizer("flowers.zarr", fold=0), torch.nn.Linear(4, 3)
        >>> for x, y, id in fs.stream("flowers.zarr", fold=0, batch_size=16):
        ...     loss = torch.nn.functional.cross_entropy(model(normalize(x)), y.long())
    """
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    _check_arguments(opened, split, rank, world_size, weighted)
    selected = _select(opened, None if fold is None else _folds(opened, folds, seed), fold, split, rows)
    reader = Rank(rank, world_size, check_bytes(memory, "memory"), threads, check_bytes(cache, "cache"))
    if split == "test":
        return RowStream(opened, selected, reader, batch_size, torch.device(device), weighted)
    selected = _draw(opened, selected, sample, seed)
    mixing = Mixing(batch_size, lanes or lane_count(world_size), window, seed, batch_size if drop_last else 1)
    return _begun(TrainStream(opened, selected, mixing, reader, epoch, transform, torch.device(device), weighted))


def normalizer(
    dataset: str | Path | Dataset,
    *,
    fold: int | None = None,
    folds: int | Location = 5,
    seed: int = 0,
    missing: str = "mean",
    normalize: Sequence[str] = (),
) -> nn.Module:
    """Create a module that turns stored rows into scaled float32 inputs for a model, without missing values.

    Args:
        dataset: A dataset, or its location.
        fold: Standardize with the statistics of the rows that the model of this fold trains on; the first call computes
            them in one pass over the data. None: all rows.
        folds: The folds, as for `stream`.
        seed: The seed for the folds if `folds` is a number.
        missing: How to fill missing values: "mean" or "median" of these rows, or "constant=0"; the prefix "indicator+"
            adds an indicator input for each column that has missing values in these rows.
        normalize: How to scale columns, e.g. "minmax", "age=none" or "imagenet"; by default "standard", except for
            categories, which remain codes.

    Returns:
        A module that takes rows as stored in the dataset, (rows, *sample_shape), and returns float32 of the same shape
        (plus indicators), in which each channel has mean 0 and standard deviation 1 over these rows. For images with
        columns beside them, both are dicts of `image` and `table`. Move it to the device of the rows with
        `.to(device)`.

    Raises:
        UsageError: The fold does not exist, the folds belong to another dataset, or the options do not match the data.
        DatasetError: The dataset or the fold plan does not exist or is incomplete.

    Example:
        >>> normalize = fs.normalizer("flowers.zarr")
        >>> x, y, id = next(iter(fs.stream("flowers.zarr", split="test")))
        >>> normalize(x).shape == x.shape
        True
    """
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    medians = parse_option("missing", parse_fill, missing).value == "median"
    for scaling in normalize:
        parse_option("normalize", parse_scaling, scaling)
    statistics = opened.statistics
    if fold is not None or medians:
        plan = _folds(opened, folds, seed)
        model = len(plan.models) if fold is None else _check_fold(plan, fold)
        fit_plan(opened, plan, SerialExecutor(), silent, medians=medians)
        statistics = fitted_statistics(plan, model)
    return Normalizer(plan_inputs(opened.schema, statistics, missing, normalize, codes=True))


def _begun(stream: TrainStream) -> TrainStream:
    """The stream, whose first blocks are on their way if they are in an object store."""
    stream.read_ahead()
    return stream


def _check_arguments(dataset: Dataset, split: str, rank: int, world_size: int, weighted: bool) -> None:
    check_choice("split", split, ("train", "test"))
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} is out of range; it must be between 0 and {world_size - 1}")
    if weighted and dataset.schema.weights is None:
        raise UsageError("weighted=True: the dataset has no weight column; convert it with --weight COLUMN")


def _select(
    dataset: Dataset, plan: FoldPlan | None, fold: int | None, split: str, rows: np.ndarray | None
) -> RowFilter:
    """The rows that the model of a fold trains on, or its held-out rows for the split `test`, restricted to a
    subset."""
    selected: RowFilter = EveryRow(dataset.layout)
    if plan is not None and fold is not None:
        _check_fold(plan, fold)
        selected = held_out_rows(plan, fold) if split == "test" else training_rows(plan, fold)
    return selected if rows is None else Both(dataset.layout, selected, SubsetFilter(dataset.layout, rows))


def _draw(dataset: Dataset, rows: RowFilter, sample: str | Sequence[str], seed: int) -> RowFilter:
    """Rows drawn according to `sample`; unchanged without it."""
    samples = as_texts(sample)
    for text in samples:
        parse_option("sample", parse_sample, text)
    return draw(dataset, {0: rows}, plan_sampling(dataset.schema, samples), seed)[0]


def _check_fold(plan: FoldPlan, fold: int) -> int:
    if not 0 <= fold < (count := len(plan.models)):
        raise UsageError(f"fold {fold} is out of range; it must be between 0 and {count - 1}")
    return fold


def _folds(dataset: Dataset, folds: int | Location, seed: int) -> FoldPlan:
    """Open the fold plan of a run or at a location, or create one with the given number of folds.

    New folds are stratified for classification, and periods of time for windows over time series.
    """
    if not isinstance(folds, int):
        root = locate(folds)
        plan = open_plan(root if (root / MANIFEST).exists() else RunFolder(root).folds)
        if plan.manifest.details["dataset"] != dataset.identity:
            raise UsageError(
                f"the folds of {folds} belong to a different dataset than {dataset.place}; "
                "choose a run on this dataset, or a number of folds"
            )
        return plan
    if form := dataset.schema.windows:
        split = Split(kind="time", column=form.time, folds=folds, seed=seed)
    else:
        split = Split(kind="stratified" if dataset.schema.probabilities else "kfold", folds=folds, seed=seed)
    check_split(split, dataset.schema)
    # One byte per row, computed again by each process: small compared with the data, and removed with the process.
    scratch = Path(_scratch().name) / f"{dataset.identity[:16]}-{split.kind}-{folds}-{seed}"
    return make_plan(dataset, split, scratch)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="foldstream-folds-")
