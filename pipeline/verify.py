"""Check every byte of a dataset, and rewrite damaged shards from the source, one task per shard."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..storage.blocks.reader import BlockReader
from ..storage.blocks.shards import shard_key
from ..storage.dataset import Dataset, open_dataset
from ..storage.errors import ConflictError, DamagedError, SourceError
from ..storage.places.json_files import content_hash
from ..storage.places.locate import locate
from ..storage.places.place import Place
from ..storage.tasks import Executor, Progress, silent
from .images.convert import list_sources, write_images
from .images.spec import ImageRequest, specify_images
from .images.targets.find import find_targets
from .tables.convert import cut_sources, specify_by_scan, write_shards
from .tables.sources import describe_source
from .tables.spec import ConvertRequest
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
    tasks = [CheckTask(str(dataset.place), shard) for shard in range(dataset.layout.shards)]
    found: dict[int, list[Damage]] = {}
    progress("verify", 0, len(tasks), "shards")
    for position, damages in executor.map(check_shard, tasks):
        found[position] = damages
        progress("verify", len(found), len(tasks), "shards")
    return [damage for position in range(len(tasks)) for damage in found[position]]


def check_shard(task: CheckTask) -> list[Damage]:
    """Find the damaged and missing files of one shard."""
    dataset = open_dataset(task.root)
    start, stop = dataset.layout.shard_range(task.shard)
    damages = []
    for spec in dataset.manifest.arrays:
        path = dataset.shard_place(spec.name, task.shard)
        reason = _damage_of(dataset, spec.name, path, task.shard)
        if reason:
            damages.append(Damage(task.shard, spec.name, str(path), start, stop - 1, reason))
    return damages


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
            reader.read([block])
        except DamagedError as error:
            return f"the file does not match the dataset's checksum table ({error})"
    return ""


def repair_shards(dataset: Dataset, damages: Sequence[Damage], executor: Executor, progress: Progress = silent) -> None:
    """Convert the damaged shards again from the source, and replace them if the result matches the manifest.

    Raises SourceError if a source is missing or has changed, or the dataset has an earlier format; it is then left
    unchanged. Raises ConflictError if another process converts to it or repairs it.
    """
    if dataset.manifest.index is None:
        raise SourceError(
            f"{dataset.root} was written by an earlier version, in whose format files cannot be repaired; "
            "restore them from a copy, or convert the sources again"
        )
    beside = tempfile.TemporaryDirectory(prefix=f".{dataset.root.name}.repair-", dir=dataset.root.parent)
    with lock_target(dataset.place), beside as folder:
        if open_dataset(dataset.place).identity != dataset.identity:
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
    if (spec.layout, spec.schema) != (dataset.layout, dataset.schema):
        raise SourceError(f"{dataset.root}: its sources no longer produce the same dataset; convert them again")
