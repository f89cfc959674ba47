"""Check every byte of a dataset, and rewrite damaged shards from the source, one task per shard."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..storage.blocks.reader import BlockReader
from ..storage.blocks.shards import shard_key
from ..storage.dataset import Dataset, open_dataset, open_rows
from ..storage.errors import ConflictError, DamagedError, SourceError
from ..storage.foreign.format import rows_in
from ..storage.format.manifest import MANIFEST, WORK
from ..storage.format.sequences import TOKENIZER
from ..storage.format.windows import WINDOWED
from ..storage.places.json_files import content_hash
from ..storage.places.locate import locate
from ..storage.places.place import Place
from ..storage.programs.own_code import copy_code
from ..storage.tasks import Executor, Progress, silent
from .adopt.files import changed_files
from .images.convert import list_sources, write_images
from .images.spec import ImageRequest, specify_images
from .images.targets.find import find_targets
from .tables.convert import cut_sources, specify_by_scan, write_shards
from .tables.sources import describe_source
from .tables.spec.request import ConvertRequest
from .target.claim import DatasetSpec, lock_target


@dataclass(frozen=True)
class Damage:
    """A file of a dataset that differs from what was written: the affected rows, and what is wrong."""

    shard: int
    array: str
    path: str
    first_row: int
    last_row: int
    reason: str


@dataclass(frozen=True)
class CheckTask:
    """Read one shard of every array."""

    root: str
    shard: int


def find_damage(dataset: Dataset, executor: Executor, progress: Progress = silent) -> list[Damage]:
    """Read every shard and compare it with the manifest. Returns damaged and missing files in the dataset's order."""
    if changed := _changed_features(dataset, executor, progress):
        return changed  # rather than an error for each of their blocks
    tasks = [CheckTask(dataset.reference, shard) for shard in range(dataset.layout.shards)]
    found: dict[int, list[Damage]] = {}
    progress("verify", 0, len(tasks), "shards")
    for position, damages in executor.map(check_shard, tasks):
        found[position] = damages
        progress("verify", len(found), len(tasks), "shards")
    own = [damage for position in range(len(tasks)) for damage in found[position]]
    return own + (find_damage(open_rows(dataset), executor, progress) if dataset.windows else [])


def _changed_features(dataset: Dataset, executor: Executor, progress: Progress) -> list[Damage]:
    """The files of adopted features that are not as they were."""
    foreign, layout = dataset.foreign, dataset.layout
    damages: list[Damage] = []
    for number, reason in changed_files(foreign, executor, progress) if foreign else ():
        assert foreign
        first, last = rows_in(foreign.arrays["x"], number)
        blocks, _ = layout.blocks_at(np.array([first]))
        damages.append(Damage(layout.shard_of(int(blocks[0])), "x", foreign.files[number], first, last, reason))
    return damages


def check_shard(task: CheckTask) -> list[Damage]:
    """Find the damaged and missing files of one shard."""
    dataset = open_dataset(task.root)
    start, stop = dataset.layout.shard_range(task.shard)
    damages = list[Damage]()
    for spec in dataset.manifest.arrays:
        if dataset.windows and spec.name in WINDOWED:
            continue
        if dataset.foreign and spec.name in dataset.foreign.arrays:
            damages += _undecodable(dataset, task.shard, spec.name)
            continue
        path = dataset.shard_place(spec.name, task.shard)
        reason = _damage_of(dataset, spec.name, path, task.shard)
        if reason:
            damages.append(Damage(task.shard, spec.name, str(path), start, stop - 1, reason))
    return damages


def _undecodable(dataset: Dataset, shard: int, array: str) -> Iterator[Damage]:
    """The blocks of adopted features that cannot be read, although their files are as they were."""
    reader = BlockReader(dataset, (array,))
    for block in dataset.layout.blocks_of(shard):
        try:
            reader.read([block])
        except DamagedError as error:
            start, stop = dataset.layout.block_range(block)
            yield Damage(shard, array, str(error).partition(": ")[0], start, stop - 1, str(error).partition(": ")[2])


def _damage_of(dataset: Dataset, array: str, path: Place, shard: int) -> str:
    """How a file differs from what was written; empty if it does not."""
    entry = dataset.manifest.shards[shard]
    if not path.exists():
        return "the file is missing"
    data = path.read_bytes()
    if len(data) != entry.lengths[array]:
        return f"the file has {len(data):,} bytes, but {entry.lengths[array]:,} were written"
    if content_hash(data) != entry.hashes[array]:
        return "the file's content differs from what was written"
    reader = BlockReader(dataset, (array,))
    for block in dataset.layout.blocks_of(shard):
        try:
            reader.check(block)
        except DamagedError as error:
            return f"the file does not match the dataset's checksum table ({error})"
    return ""


def repair_shards(dataset: Dataset, damages: Sequence[Damage], executor: Executor, progress: Progress = silent) -> None:
    """Convert the damaged shards again from the source, and replace them if the result matches the manifest. The shards
    that each version has added are those of its own sources.

    Raises SourceError if a source is missing or has changed, or the dataset has an earlier format; it is then left
    unchanged. Raises ConflictError if another process converts to it or repairs it.
    """
    if "stack" in dataset.request:
        raise SourceError(
            f"{dataset.place} has predictions of runs as features, which cannot be repaired one by one; make it again "
            "with 'foldstream stack … --overwrite'"
        )
    if "adopt" in dataset.request:
        raise SourceError(
            f"{dataset.root} was made by 'foldstream adopt'; restore the damaged files from a copy, or run the command "
            "again with --overwrite"
        )
    if dataset.windows:
        raise SourceError(
            f"{dataset.root} has windows over time series, whose files are not repaired one by one; restore the "
            "damaged files from a copy, or convert the sources again with --overwrite"
        )
    for version, shards in dataset.version_shards():
        own = [replace(one, shard=one.shard - shards.start) for one in damages if one.shard in shards]
        if own:
            _repair(open_dataset(dataset.folder_of(version) / MANIFEST), own, executor, progress)


def _repair(dataset: Dataset, damages: Sequence[Damage], executor: Executor, progress: Progress) -> None:
    """Repair shards that were converted together, whose numbers are those in `dataset`."""
    if dataset.manifest.index is None:
        raise SourceError(
            f"{dataset.root} was written by an earlier version, in whose format files cannot be repaired; "
            "restore them from a copy, or convert the sources again"
        )
    beside = tempfile.TemporaryDirectory(prefix=f".{dataset.root.name}.repair-", dir=dataset.root.parent)
    with lock_target(dataset.place), beside as folder:
        if open_dataset(dataset.reference).identity != dataset.identity:
            raise ConflictError(f"{dataset.root} has been replaced since it was verified; verify it again")
        scratch = locate(folder)
        shards = sorted({damage.shard for damage in damages})
        again = _write_images_again if dataset.schema.image else _write_again
        again(dataset, scratch, shards, executor, progress)
        names = {spec.name: spec for spec in dataset.manifest.arrays}
        for damage in damages:
            made = scratch / shard_key(names[damage.array], damage.shard)
            if content_hash(made.read_bytes()) != dataset.manifest.shards[damage.shard].hashes[damage.array]:
                raise SourceError(f"{dataset.root}: its sources no longer produce {damage.path}; convert them again")
        for damage in damages:
            Path(damage.path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch / shard_key(names[damage.array], damage.shard), damage.path)
    dataset.place.sync_folders()


def _write_again(
    dataset: Dataset, scratch: Place, shards: Sequence[int], executor: Executor, progress: Progress
) -> None:
    """Convert some shards of a dataset from its tables again. Raises SourceError if those have changed."""
    request = ConvertRequest.from_json(dataset.request)
    for source in request.sources:
        if describe_source(source.path, may_be_empty=not source.bytes) != replace(source, partitions={}):
            raise SourceError(f"{source.path} has changed since it was converted; restore it, or convert it again")
    if tokens := dataset.schema.tokens:
        copy_code(tokens.code_in(dataset.place), scratch / WORK / TOKENIZER)
    cut = cut_sources(request, scratch, executor, progress)
    spec = specify_by_scan(request, cut, scratch, executor, progress)
    _check_same(spec, dataset)
    write_shards(spec, scratch, executor, progress, shards)


def _write_images_again(
    dataset: Dataset, scratch: Place, shards: Sequence[int], executor: Executor, progress: Progress
) -> None:
    """Convert some shards of a dataset from its images again; if images were skipped, all are decoded to find them."""
    request = ImageRequest.from_json(dataset.request)
    images, targets, listing = list_sources(request, Path(scratch))
    if listing != request.listing:
        raise SourceError(
            f"the images of {', '.join(request.sources)} have changed since they were converted; convert them again"
        )
    found = find_targets(images, targets, request.wanted_targets, executor, progress) if targets else None
    spec = specify_images(request, images, found)
    spec = write_images(spec, scratch, executor, progress, shards if spec.layout == dataset.layout else None)
    _check_same(spec, dataset)


def _check_same(spec: DatasetSpec, dataset: Dataset) -> None:
    # A stored request has its roles in another order, and so the columns beside the features.
    schemas = [replace(one, beside=tuple(sorted(one.beside, key=str))) for one in (spec.schema, dataset.schema)]
    if spec.layout != dataset.layout or schemas[0] != schemas[1]:
        raise SourceError(f"{dataset.root}: its sources no longer produce the same dataset; convert them again")
