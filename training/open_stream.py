"""A dataset as batches for a training loop of one's own, without Ray: `fs.stream` and `fs.normalizer`."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from torch import nn

from ..storage.dataset import Dataset, open_dataset
from ..storage.errors import UsageError, check_choice
from ..storage.fold_plan import FoldPlan, open_plan
from ..storage.format import MANIFEST
from ..storage.machine import parse_bytes
from ..storage.object_path import AnyPath, locate
from .model.objective import Preparation
from .run import RunFolder
from .splits.plan import make_plan
from .splits.split import Split, check_split
from .stream.batch import Rank, Transform
from .stream.filters import Both, EveryRow, RowFilter, SubsetFilter, held_out_rows, training_rows
from .stream.order import Mixing, lane_count
from .stream.rows import RowStream
from .stream.single import TrainStream


def stream(
    dataset: str | Path | Dataset,
    *,
    batch_size: int = 256,
    fold: int | None = None,
    folds: int | str | AnyPath = 5,
    split: str = "train",
    rows: np.ndarray | None = None,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    epoch: int = 0,
    window: int = 8,
    lanes: int | None = None,
    memory: str | int | None = None,
    cache: str | int | None = None,
    threads: int | None = None,
    transform: Transform | None = None,
) -> TrainStream | RowStream:
    """Stream a dataset as batches `(x, y, id)` of tensors in the dataset's dtypes.

    `split="train"` mixes the rows: global batches of `batch_size` rows, of which each rank gets its share; an
    iteration is an epoch, the next one the next. With a `fold`, the rows of that fold are left out; `folds` is their
    number, or the run or the fold plan whose folds are meant. `split="test"` gives the other rows, or without a fold
    all of them, each once, in the dataset's order. `rows` restricts both to a subset: a boolean for every row, or row
    numbers.

    `window` blocks of each of `lanes` lanes are mixed at once. `memory` bounds what is held ("2GB"; else an
    eighth of the machine's), `cache` what is kept on local disk of a dataset in an object store (else a tenth of what
    is free). `transform` gets each batch of the training split and a torch.Generator that is seeded by the batch's
    position.
    Raises UsageError for what does not fit together.
    """
    check_choice("split", split, ("train", "test"))
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank}: it must be from 0 to {world_size - 1}")
    chosen: RowFilter = EveryRow(opened.layout)
    if fold is not None:
        plan = _folds(opened, folds, seed)
        count = len(plan.models)
        if not 0 <= fold < count:
            raise UsageError(f"fold {fold}: it must be from 0 to {count - 1}")
        chosen = held_out_rows(plan, fold) if split == "test" else training_rows(plan, fold)
    if rows is not None:
        chosen = Both(opened.layout, chosen, SubsetFilter(opened.layout, rows))
    place = Rank(rank, world_size, parse_bytes(memory, "memory"), threads, parse_bytes(cache, "cache"))
    if split == "test":
        return RowStream(opened, chosen, place, batch_size)
    mixing = Mixing(batch_size, lanes or lane_count(world_size), window, seed)
    return TrainStream(opened, chosen, mixing, place, epoch, transform)


def normalizer(dataset: str | Path | Dataset) -> nn.Module:
    """A module that makes of stored rows, on the device where they are, centred and scaled float32 by channel."""
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    return Preparation(opened.statistics, opened.schema.sample_shape)


def _folds(dataset: Dataset, folds: int | str | AnyPath, seed: int) -> FoldPlan:
    """The fold plan of a run or at a place, or one that is made now: stratified where there are classes."""
    if not isinstance(folds, int):
        place = locate(folds)
        plan = open_plan(place if (place / MANIFEST).exists() else RunFolder(place).folds)
        if plan.manifest.details["dataset"] != dataset.identity:
            raise UsageError(f"the folds of {folds} belong to another dataset than {dataset.place}")
        return plan
    split = Split("stratified" if dataset.schema.task == "classification" else "kfold", folds, seed)
    check_split(split, dataset.schema)
    # A byte a row, computed again in each process: small beside the data, and gone with the process.
    root = Path(_scratch().name) / f"{dataset.identity[:16]}-{split.kind}-{folds}-{seed}"
    return make_plan(dataset, split, root)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="foldstream-folds-")
