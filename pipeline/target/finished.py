"""Which shards an interrupted conversion has finished.

A file is written under a temporary name and renamed, and the receipt comes after all files of its shard. So if the
receipt exists and the files are as long as it says, the shard is complete. Nothing is read again: a terabyte would take
most of an hour, before the first new shard is written. `foldstream verify` compares the hashes of a complete dataset.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from ...storage.blocks.shards import shard_key
from ...storage.errors import DamagedError
from ...storage.format.arrays import ArraySpec
from ...storage.format.manifest import WORK
from ...storage.places.json_files import read_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress
from .receipts import RECEIPTS, receipt_path

BATCH = 32  # receipts that a task reads


@dataclass(frozen=True)
class ReceiptTask:
    """Read the receipts of some shards of the dataset at `root`."""

    root: str
    shards: tuple[int, ...]


class Receipt(NamedTuple):
    """What a receipt says of a shard: the lengths of its files by array, and the digest of its list of images."""

    shard: int
    lengths: dict[str, int]
    list: str | None


def read_lengths(task: ReceiptTask) -> list[Receipt]:
    """Run a task. A receipt that cannot be read does not count."""
    found, root = [], locate(task.root)
    for shard in task.shards:
        with suppress(FileNotFoundError, DamagedError):
            receipt = read_json(receipt_path(root, shard))
            if "blocks" not in receipt:  # of an earlier version, whose shards have another form
                continue
            found.append(Receipt(shard, receipt["entry"]["lengths"], receipt.get("list")))
    return found


def finished_shards(
    root: Place, specs: Sequence[ArraySpec], executor: Executor, progress: Progress
) -> dict[int, str | None]:
    """The shards whose receipt exists and whose files have the lengths in it, each with the digest of its list of
    images. The lengths come from one listing of each array."""
    shards = [int(name.removesuffix(".json")) for name in (root / WORK / RECEIPTS).names() if name.endswith(".json")]
    if not shards:
        return {}
    progress("resume", 0, len(shards), "shards")
    stored = {f"{spec.name}/{entry.name}": entry.size for spec in specs for entry in (root / spec.name).walk()}
    tasks = [ReceiptTask(str(root), tuple(shards[at : at + BATCH])) for at in range(0, len(shards), BATCH)]
    finished, done = dict[int, str | None](), 0
    for position, receipts in executor.map(read_lengths, tasks):
        for shard, lengths, images in receipts:
            if all(stored.get(shard_key(spec, shard)) == lengths.get(spec.name) for spec in specs):
                finished[shard] = images
        done += len(tasks[position].shards)
        progress("resume", done, len(shards), "shards")
    return finished
