"""Write one shard: decode its images into arrays, write the files and the receipt.

A worker loads this module alone, and not what lists and labels the images.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ...storage.format.arrays import TABLE
from ...storage.format.dense import DenseTarget
from ...storage.format.layout import Layout
from ...storage.format.manifest import WORK
from ...storage.format.schema import Schema
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ..target.beside import encode_beside, encode_texts
from ..target.plan import StoredPlan
from ..target.receipts import finish_shard, pack
from .files import TARGET, KeptFiles, files_in
from .watchdog import TargetFiles, decode_images

LISTS = "lists"


@dataclass(frozen=True)
class ImagePlan:
    """What all tasks of a conversion need; the images of a shard are in its list."""

    layout: Layout
    schema: Schema
    first_row: int = 0

    def to_json(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(Layout.from_json(value["layout"]), Schema.from_json(value["schema"]), value["first_row"])


@dataclass(frozen=True)
class ImageTask:
    """Write one shard of every array from the images of its list, whose content hash is `digest`."""

    plan: StoredPlan[ImagePlan]
    shard: int
    digest: str


def list_path(root: Place, shard: int) -> Place:
    return root / WORK / LISTS / f"{shard:08d}.arrow"


def write_image_shard(task: ImageTask) -> list[tuple[int, str]] | None:
    """Run a task. Returns the indices of the images that cannot be decoded, with the reasons; if there are any, nothing
    is written."""
    root, plan = locate(task.plan.root), task.plan.load()
    schema = plan.schema
    assert schema.image
    table = pa.ipc.open_file(list_path(root, task.shard).read_bytes()).read_all()
    files = files_in(table)
    targets = TargetFiles(files_in(table, TARGET), *_values_of(schema.dense)) if schema.dense else None
    start, stop = plan.layout.shard_range(task.shard)
    key = encode_texts("path", table["path"].combine_chunks(), schema.key_width or 1)
    arrays: dict[str, np.ndarray] = {"id": np.arange(start, stop) + plan.first_row, "key": key}
    if schema.labels and not targets:
        y = _stacked(table, "y", len(schema.labels))
        arrays["y"] = y if len(schema.labels) > 1 else y[:, 0]
    if schema.table:
        arrays[TABLE] = _stacked(table, TABLE, len(schema.table.features))
    for column in schema.beside:
        arrays[column.array] = encode_beside(column, table[column.array].combine_chunks())
    missing = np.zeros(schema.sample_shape[0], np.int64)
    with decode_images(files, schema.image, targets=targets) as decoded:
        if decoded.errors:
            numbers = table["number"].to_pylist()
            return [(numbers[at], reason) for at, reason in decoded.errors.items()]
        if decoded.targets is not None:
            arrays["y"] = decoded.targets
        notes = {"notes": decoded.notes, "hashes": pack(decoded.hashes)}
        kept = KeptFiles(files, decoded.hashes) if schema.encoded else ()
        arrays["x"] = decoded.samples
        finish_shard(root, plan, task.shard, arrays, missing, kept, list=task.digest, **notes)
    return None


def _values_of(target: DenseTarget) -> tuple[list[int], list[int]]:
    """The pixel values of the classes of masks, none for images, and those that do not count."""
    return [*map(int, target.classes)], [*map(int, target.ignored)]


def _stacked(table: pa.Table, name: str, count: int) -> np.ndarray:
    """The columns `name`0, `name`1, … of a list, (rows, count)."""
    return np.stack([table[f"{name}{i}"].to_numpy() for i in range(count)], axis=1)
