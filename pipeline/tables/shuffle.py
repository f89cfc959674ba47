"""An out-of-core shuffle of all rows as they are written, in two passes or more.

The new position of a row is a pure function of its position, the number of rows and the seed: a permutation by a
Feistel network (Luby and Rackoff 1988), iterated until it falls within the rows (Black and Rogaway 2002). Any worker
can therefore compute it for any row, and the result does not depend on the number of workers. Rows are sorted by the
same passes: their new positions are in a file then.

The first pass ("spread") reads the source in order, one shard-sized section per task, and the last one ("gather")
assembles the shards. If each shard read from each section, a terabyte would take hundreds of millions of tiny reads.
So there are passes in between ("merge") if there are many shards, as in rechunker's plan of several stages
(rechunker.algorithm.multistage_rechunking_plan). `Partition` says which files each pass reads and writes. Files are
removed as soon as all that is made of them is complete, so the passes take the space of one copy of the rows and of
what is in flight.
"""

import io
import struct
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, pairwise
from typing import Protocol, Self

import google_crc32c
import numpy as np

from ...storage.errors import ConflictError, DamagedError
from ...storage.format.arrays import ArraySpec
from ...storage.format.manifest import WORK
from ...storage.places.json_files import content_hash, read_json, write_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.random import shuffled_places
from ...storage.tasks import CONVERSION, Executor, Progress
from ..csv.cut import PACKER
from ..target.claim import SPILLED
from ..target.plan import StoredPlan, store_plan
from ..target.receipts import finish_shard
from ..target.run import Stage, run_shard_tasks
from .fill import MisfitError, ShardPlan, read_shard
from .spec.conversion import ConversionSpec

FAN = 128  # files that a task reads, and segments of a file, at most: shards of 64 MB then arrive in parts of 0.5 MB
READS = 2  # of a segment: where it is in its file, and its bytes
ORDER = "order.npy"
"""The file of the places of rows that are sorted, in the work folder of what contains their dataset."""
EARLIER = "spilled"  # the folder of a shuffle of an earlier version, which had two passes only


@dataclass(frozen=True)
class Partition:
    """How rows get from `shards` sections of the source to as many shards of the dataset, in `levels` steps.

    Sections and shards are numbers of `levels` digits in base `fan`. A file of level k holds the rows whose sections
    begin with the same `levels` - k digits and whose shards begin with the same k digits, in `fan` segments by the next
    digit of their shards. So the files of level 0 are the sections, those of level `levels` are the shards, and each
    file is about as large as a shard. A file is made of one segment each of a group of at most `fan` files of the level
    before; each group is read for at most `fan` files.
    """

    shards: int
    fan: int
    levels: int

    @classmethod
    def of(cls, shards: int, fan: int) -> Self:
        """The fewest levels at which no file is made of more than `fan` others."""
        levels = next(levels for levels in count(1) if fan**levels >= shards)
        return cls(shards, next(base for base in count(1) if base**levels >= shards), levels)

    def _sources(self, level: int) -> int:
        """The number of beginnings of sections that files of a level have."""
        beginnings: int = self.fan**level
        return -(-self.shards // beginnings)

    def files(self, level: int) -> int:
        """The number of files of a level."""
        return self._sources(level) * self._sources(self.levels - level)

    def group_of(self, level: int, file: int) -> int:
        """The group of files of its level that a file is read with."""
        target, source = divmod(file, self._sources(level))
        return target * self._sources(level + 1) + source // self.fan

    def group_files(self, level: int, group: int) -> range:
        """The files of a group of a level."""
        target, source = divmod(group, self._sources(level + 1))
        first, count = source * self.fan, self._sources(level)
        return range(target * count + first, target * count + min(first + self.fan, count))

    def made_of(self, level: int, file: int) -> tuple[int, int]:
        """The group of the level before that a file is made of, and the segment of each of those files."""
        target, source = divmod(file, self._sources(level))
        return target // self.fan * self._sources(level) + source, target % self.fan

    def segments(self, level: int, file: int, shards: np.ndarray) -> np.ndarray:
        """The segment of a file for rows with these target shards, (rows,) int64."""
        below: np.ndarray = shards // self.fan ** (self.levels - level - 1)
        return below - file // self._sources(level) * self.fan

    def missing(self, shards: Iterable[int], stored: Sequence[Container[int]]) -> list[list[int]]:
        """The files of each level that have to be made for `shards`, which come last. Files that are read together are
        neighbours in the order of the level before. `stored` are the existing files of each level but the last."""
        wanted = [sorted(shards)]
        for level in reversed(range(self.levels)):
            files = (file for group in self.groups(level, wanted[-1]) for file in self.group_files(level, group))
            wanted.append([file for file in files if file not in stored[level]])
        for level in range(1, self.levels):  # the sections and the shards keep their order
            made = [(self.made_of(level, file), file) for file in wanted[self.levels - level]]
            wanted[self.levels - level] = [file for _, file in sorted(made)]
        return wanted[::-1]

    def reads(self, level: int, files: Iterable[int]) -> int:
        """The segments that are read to make files of a level."""
        return sum(len(self.group_files(level - 1, self.made_of(level, file)[0])) for file in files)

    def groups(self, level: int, files: Iterable[int]) -> list[int]:
        """The groups of a level that files of the next level are made of."""
        return sorted({self.made_of(level + 1, file)[0] for file in files})


class NewPlaces(Protocol):
    """Where rows go, given their positions in the source, (rows,) int64, and the number of all rows."""

    def of(self, rows: np.ndarray, count: int) -> np.ndarray: ...


@dataclass(frozen=True)
class ShuffledPlaces:
    """The places that follow from a seed."""

    seed: int

    def of(self, rows: np.ndarray, count: int) -> np.ndarray:
        return shuffled_places(rows, count, self.seed)


@dataclass(frozen=True)
class StoredPlaces:
    """The places in a file with this SHA-256, (all rows,) int64 as .npy, of which each process keeps one: 8 bytes a
    row."""

    path: str
    digest: str

    def of(self, rows: np.ndarray, count: int) -> np.ndarray:
        found: np.ndarray = _stored_places(self)[rows]
        return found


@lru_cache(1)
def _stored_places(stored: StoredPlaces) -> np.ndarray:
    data = locate(stored.path).read_bytes()
    if content_hash(data) != stored.digest:
        raise DamagedError(f"{stored.path} is not what was written; start over with --overwrite")
    places: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return places


@dataclass(frozen=True)
class ShuffleTask:
    """One task of a shuffle: it makes the `file` of a level, which is a section of the source at level 0, and a shard
    at the last level. `places` is the new order."""

    plan: StoredPlan[ShardPlan]
    places: NewPlaces
    partition: Partition
    level: int
    file: int


def write_shuffled(
    spec: ConversionSpec, root: Place, shards: Sequence[int], places: NewPlaces, executor: Executor, progress: Progress
) -> str | None:
    """Write `shards` with rows in a new order. Returns a misfit like `write_shards`."""
    if not shards:
        return None
    (root / WORK / EARLIER).remove_tree()
    plan = ShardPlan.of(spec, root)
    stored = store_plan(root, plan)
    partition = Partition.of(spec.layout.shards, FAN)
    missing = partition.missing(shards, stored_files(root, partition))

    def task(level: int, file: int) -> ShuffleTask:
        return ShuffleTask(stored, places, partition, level, file)

    inputs = [Inputs(root, partition, level, missing[level + 1]) for level in range(partition.levels)]
    spread = Stage("spread", spread_rows, lambda section: task(0, section))
    if misfits := run_shard_tasks(spread, spec, root, missing[0], executor, progress):
        return misfits[0]
    for level in range(1, partition.levels):
        files, name = missing[level], f"merge {level}" if partition.levels > 2 else "merge"
        total, kept = partition.files(level), partition.files(level) - len(files)
        tasks = (task(level, file) for file in files)
        progress(name, kept, total, "files")
        for done, (position, _) in enumerate(executor.map(merge_rows, tasks), kept + 1):
            inputs[level - 1].used(files[position])
            progress(name, done, total, "files")
            facts = {"place": str(root), "stage": name, "done": done, "total": total, "unit": "files"}
            executor.publish(CONVERSION, facts)
    last = partition.levels - 1
    gather = Stage("gather", gather_shard, lambda shard: task(last + 1, shard), inputs[last].used)
    run_shard_tasks(gather, spec, root, missing[last + 1], executor, progress)
    return None


def stored_files(root: Place, partition: Partition) -> list[set[int]]:
    """The files of each level that an interrupted shuffle left behind."""
    folder = root / WORK / SPILLED
    stored = [{int(entry.name[-8:]) for entry in (folder / str(k)).walk()} for k in range(partition.levels)]
    stored[0] &= {int(name.removesuffix(".json")) for name in (folder / "notes").names()}
    return stored


class Inputs:
    """The files of a level, which are removed in groups, each when the `files` of the next level that are made of it
    are complete."""

    def __init__(self, root: Place, partition: Partition, level: int, files: Sequence[int]) -> None:
        self.folder, self.partition, self.level = root / WORK / SPILLED / str(level), partition, level
        self.readers = Counter(partition.made_of(level + 1, file)[0] for file in files)
        for name in self.folder.subfolders():
            if int(name) not in self.readers:  # an interrupted shuffle did not get to it
                (self.folder / name).remove_tree()

    def used(self, file: int) -> None:
        """Note that a file of the next level is complete."""
        group, _ = self.partition.made_of(self.level + 1, file)
        self.readers[group] -= 1
        if not self.readers[group]:
            (self.folder / f"{group:08d}").remove_tree()


def spread_rows(task: ShuffleTask) -> str | None:
    """First pass: write the rows of a section of the source, and how many values are missing in each feature. Returns a
    misfit like `write_shard_task`."""
    try:
        arrays, missing = read_shard(task.plan.load(), task.file)
    except MisfitError as misfit:
        return str(misfit)
    _write_segments(task, arrays)
    write_json(note_path(locate(task.plan.root), task.file), missing.tolist())
    return None


def merge_rows(task: ShuffleTask) -> None:
    """A pass in between: write a file of a level from the files of the level before."""
    specs = task.plan.load().schema.arrays()
    parts = list(_read_inputs(task))
    _write_segments(task, {spec.name: np.concatenate([part.pop(spec.name) for part in parts]) for spec in specs})


def gather_shard(task: ShuffleTask) -> str | None:
    """Last pass: assemble one shard, and write it with its receipt."""
    root, plan = locate(task.plan.root), task.plan.load()
    layout, specs = plan.layout, plan.schema.arrays()
    start, stop = layout.shard_range(task.file)
    arrays = {spec.name: spec.empty(stop - start) for spec in specs}
    filled = np.zeros(stop - start, bool)
    for rows in _read_inputs(task):
        places = task.places.of(rows["id"], layout.rows) - start
        for name, values in rows.items():
            arrays[name][places] = values
        filled[places] = True
    if not filled.all():
        raise DamagedError(f"rows are missing from {root / WORK / SPILLED}; start over with --overwrite")
    arrays["id"] += plan.first_row
    finish_shard(root, plan, task.file, arrays, np.array(read_json(note_path(root, task.file))))
    return None


def file_path(root: Place, partition: Partition, level: int, file: int) -> Place:
    return root / WORK / SPILLED / str(level) / f"{partition.group_of(level, file):08d}" / f"{file:08d}"


def note_path(root: Place, section: int) -> Place:
    """The file with the number of missing values per feature of a section; written after its rows."""
    return root / WORK / SPILLED / "notes" / f"{section:08d}.json"


def _write_segments(task: ShuffleTask, arrays: dict[str, np.ndarray]) -> None:
    """Write the file of a task: where each segment begins and the last one ends, (fan + 1,) int64, and the segments,
    each packed and with a checksum."""
    plan, partition = task.plan.load(), task.partition
    shards = task.places.of(arrays["id"], plan.layout.rows) // plan.layout.shard_rows
    segments = partition.segments(task.level, task.file, shards)
    order = np.argsort(segments, kind="stable")
    bounds = np.searchsorted(segments[order], np.arange(partition.fan + 1)).tolist()
    packed = []
    for first, last in pairwise(bounds):
        rows = order[first:last]
        raw = b"".join(arrays[spec.name][rows].tobytes() for spec in plan.schema.arrays())
        data = PACKER.encode(raw) if raw else b""
        packed.append(data + struct.pack("<I", google_crc32c.value(data)))
    offsets = np.cumsum([8 * (partition.fan + 1), *map(len, packed)], dtype="<i8")
    with file_path(locate(task.plan.root), partition, task.level, task.file).whole_file() as file:
        file.write(offsets.tobytes())
        for data in packed:
            file.write(data)


def _read_inputs(task: ShuffleTask) -> Iterable[dict[str, np.ndarray]]:
    """The rows that a file is made of, from each file of the level before."""
    root, specs = locate(task.plan.root), task.plan.load().schema.arrays()
    partition, level = task.partition, task.level - 1
    group, segment = partition.made_of(task.level, task.file)
    for file in partition.group_files(level, group):
        yield _read_segment(file_path(root, partition, level, file), segment, specs)


def _read_segment(path: Place, segment: int, specs: tuple[ArraySpec, ...]) -> dict[str, np.ndarray]:
    """The rows of a segment of a file."""
    try:
        start, stop = np.frombuffer(path.read_range(8 * segment, 16), "<i8").tolist()
        raw = path.read_range(start, stop - start)
    except FileNotFoundError:
        raise ConflictError(
            f"{path} was removed, possibly by another process that converts the same sources; run the command again"
        ) from None
    data, checksum = raw[:-4], raw[-4:]
    if len(raw) != stop - start or struct.pack("<I", google_crc32c.value(data)) != checksum:
        raise DamagedError(f"{path}: bytes {start} to {stop} do not match their checksum; start over with --overwrite")
    buffer = np.frombuffer(PACKER.decode(data), np.uint8) if data else np.empty(0, np.uint8)
    count = len(buffer) // sum(spec.row_bytes for spec in specs)
    rows, at = {}, 0
    for spec in specs:
        part = buffer[at : at + count * spec.row_bytes]
        rows[spec.name] = part.view(spec.dtype).reshape(count, *spec.row_shape)
        at += count * spec.row_bytes
    return rows
