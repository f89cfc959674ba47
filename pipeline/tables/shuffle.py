"""An out-of-core shuffle of all rows as they are written, in two passes.

The new position of a row is a pure function of its position, the number of rows and the seed: a permutation by a
Feistel network (Luby and Rackoff 1988), iterated until it falls within the rows (Black and Rogaway 2002). Any worker
can therefore compute it for any row, and the result does not depend on the number of workers. The first pass reads
the source in order and writes one spill file per shard-sized section of rows, with the rows sorted by target shard;
the second pass gathers each shard from all spill files.
"""

import struct
from dataclasses import dataclass

import google_crc32c
import numpy as np

from ...storage.errors import DamagedError
from ...storage.format import WORK, ArraySpec
from ...storage.places.json_files import read_json, write_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.random import shuffled_places
from ..csv.cut import PACKER
from ..target.claim import SPILLED
from ..target.receipts import finish_shard
from .fill import MisfitError, ShardTask, read_shard


@dataclass(frozen=True)
class ShuffleTask:
    """One task of a shuffle with `seed`: `write` is the section of the source in the first pass, and the shard itself
    in the second."""

    write: ShardTask
    seed: int


def spill_rows(task: ShuffleTask) -> str | None:
    """First pass: sort a section of the source by the target shards of its rows. Returns a misfit like
    `write_shard_task`."""
    write, layout = task.write, task.write.layout
    try:
        arrays, missing = read_shard(write)
    except MisfitError as misfit:
        return str(misfit)
    shards = shuffled_places(arrays["id"], layout.rows, task.seed) // layout.shard_rows
    order = np.argsort(shards, kind="stable")
    bounds = np.searchsorted(shards[order], np.arange(layout.shards + 1))
    root, specs = locate(write.root), write.schema.arrays()
    segments = []
    for shard in range(layout.shards):
        rows = order[bounds[shard] : bounds[shard + 1]]
        data = PACKER.encode(b"".join(arrays[spec.name][rows].tobytes() for spec in specs)) if len(rows) else b""
        segments.append(data + struct.pack("<I", google_crc32c.value(data)))
    head = 8 * (layout.shards + 1)
    offsets = np.cumsum([head, *map(len, segments)], dtype="<i8")
    spill_path(root, write.shard).write(b"".join([offsets.tobytes(), *segments]))
    write_json(spill_note(root, write.shard), missing.tolist())
    return None


def spill_path(root: Place, shard: int) -> Place:
    return root / WORK / SPILLED / f"{shard:08d}"


def spill_note(root: Place, shard: int) -> Place:
    """The file with the number of missing values per feature of a spill file; written after the spill file."""
    return root / WORK / SPILLED / f"{shard:08d}.json"


def gather_shard(task: ShuffleTask) -> str | None:
    """Second pass: assemble one shard from all spill files, and write it with its receipt."""
    write, layout = task.write, task.write.layout
    root, specs = locate(write.root), write.schema.arrays()
    start, stop = layout.shard_range(write.shard)
    arrays = {spec.name: spec.empty(stop - start) for spec in specs}
    filled = np.zeros(stop - start, bool)
    for spilled in range(layout.shards):
        rows = _read_segment(root, spilled, write.shard, specs)
        places = shuffled_places(rows["id"], layout.rows, task.seed) - start
        for name, values in rows.items():
            arrays[name][places] = values
        filled[places] = True
    if not filled.all():
        raise DamagedError(f"rows are missing from the files beside {spill_path(root, 0)}; start over with --overwrite")
    finish_shard(write, arrays, np.array(read_json(spill_note(root, write.shard))))
    return None


def _read_segment(root: Place, spilled: int, shard: int, specs: tuple[ArraySpec, ...]) -> dict[str, np.ndarray]:
    """The rows of one spill file that go to one shard."""
    path = spill_path(root, spilled)
    start, stop = np.frombuffer(path.read_range(8 * shard, 16), "<i8").tolist()
    raw = path.read_range(start, stop - start)
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
