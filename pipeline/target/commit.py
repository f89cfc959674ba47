"""The commit: it combines the receipts into the manifest, which makes the dataset readable."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...storage.blocks.writer import commit, write_block_table
from ...storage.format.manifest import LEFT_OUT, WORK, Manifest
from ...storage.format.schema import Schema
from ...storage.format.windows import WINDOWED
from ...storage.places.place import Place
from .claim import SKIPPED, DatasetSpec
from .combine import Combined
from .receipts import read_receipts

SKIPPED_HEADER = b"file,line,column,reason\n"


def attributes(schema: Schema) -> dict[str, Any]:
    """The attributes that plain Zarr readers see on the group."""
    classes = schema.dense.classes if schema.dense else schema.classes
    return {"foldstream": {"labels": list(schema.labels), "task": schema.task, "classes": list(classes)}}


def commit_dataset(
    spec: DatasetSpec,
    root: Place,
    foreign: Mapping[str, Any] | None = None,
    windows: Mapping[str, Any] | None = None,
) -> None:
    """Combine the receipts into the manifest and write it. `foreign` describes arrays that stay elsewhere, if any, and
    `windows` says where features and targets are computed from."""
    combined = Combined.of(spec.layout, spec.schema, read_receipts(root, spec.layout.shards))
    if spec.schema.classes:
        write_block_table(root, "class_counts", combined.class_counts)
    details = {
        "schema": spec.schema,
        "statistics": combined.statistics(),
        "request": spec.request,
        "class_counts": combined.class_counts.sum(axis=0, dtype=np.int64).tolist(),
        "left_out": spec.skipped,
        **({"left_out_rows": spec.skipped_rows} if spec.skipped_rows else {}),
        **({"foreign": foreign} if foreign else {}),
        **({"windows": windows} if windows else {}),
    }
    if spec.skipped:
        commit_skipped(root)
    behind = () if foreign or windows else spec.schema.behind
    manifest = Manifest("dataset", spec.layout, spec.schema.arrays(), tuple(combined.entries), details, behind=behind)
    outside = foreign["arrays"] if foreign else WINDOWED if windows else ()
    commit(root, manifest, {name: blocks for name, blocks in combined.blocks.items() if name not in outside})


def commit_skipped(root: Place) -> None:
    """Combine the lists of skipped rows into one file beside the arrays."""
    folder = root / WORK / SKIPPED
    listed = [(folder / name).read_bytes() for name in folder.names() if name.endswith(".csv")]
    (root / LEFT_OUT).write(SKIPPED_HEADER + b"".join(listed))
