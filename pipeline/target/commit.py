"""The commit: it combines the receipts into the manifest, which makes the dataset readable."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...storage.format import LEFT_OUT, WORK, Manifest, ShardEntry, Statistics
from ...storage.moments.moments import Moments, merge_moments
from ...storage.places.json_files import read_json
from ...storage.places.place import Place
from ...storage.writer import commit, write_block_table
from .claim import SKIPPED, DatasetSpec
from .receipts import receipt_path, unpack

SKIPPED_HEADER = b"file,line,column,reason\n"


def attributes(spec: DatasetSpec) -> dict[str, Any]:
    """The attributes that plain Zarr readers see on the group."""
    schema = spec.schema
    return {"foldstream": {"labels": list(schema.labels), "task": schema.task, "classes": list(schema.classes)}}


def commit_dataset(spec: DatasetSpec, root: Place) -> None:
    """Combine the receipts into the manifest and write it."""
    root.clean_temporaries()  # of workers that were killed while others continued
    receipts = [read_json(receipt_path(root, shard)) for shard in range(spec.layout.shards)]
    checksums: dict[str, list[int]] = {array.name: [] for array in spec.schema.arrays()}
    for receipt in receipts:
        for name, values in receipt["checksums"].items():
            checksums[name] += values
    totals: Counter[int] = Counter()
    if spec.schema.classes:
        counts = np.concatenate([np.asarray(receipt["class_counts"], np.uint32) for receipt in receipts])
        write_block_table(root, "class_counts", counts)
        totals.update(dict(enumerate(counts.sum(axis=0, dtype=np.int64).tolist())))
    details = {
        "schema": spec.schema,
        "statistics": merge_statistics(spec, receipts),
        "request": spec.request,
        "class_counts": [totals[code] for code in range(len(spec.schema.classes))],
        "left_out": spec.skipped,
        **({"left_out_rows": spec.skipped_rows} if spec.skipped_rows else {}),
    }
    if spec.skipped:
        commit_skipped(root)
    shards = tuple(ShardEntry(**receipt["entry"]) for receipt in receipts)
    commit(root, Manifest("dataset", spec.layout, spec.schema.arrays(), shards, details), checksums)


def merge_statistics(spec: DatasetSpec, receipts: Sequence[dict[str, Any]]) -> Statistics:
    """The statistics of all rows, merged from those of the shards in their order."""
    channels = spec.schema.sample_shape[0]
    merged = merge_moments([Moments.from_table(unpack(receipt["moments"])) for receipt in receipts])
    y, table = (_merged(receipts, name) for name in ("y_moments", "table_moments"))
    missing = np.sum([unpack(receipt["missing"]) for receipt in receipts], axis=0, dtype=np.int64)
    of_table = Statistics.of(table, None) if table else None
    return Statistics.of(merged, y, missing.reshape(channels, -1).sum(axis=1).tolist(), table=of_table)


def _merged(receipts: Sequence[dict[str, Any]], name: str) -> Moments | None:
    """The moments of that name of all shards; None if they have none, also in receipts of earlier versions."""
    found = [Moments.from_table(unpack(receipt[name])) for receipt in receipts if receipt.get(name)]
    return merge_moments(found) if found else None


def commit_skipped(root: Place) -> None:
    """Combine the lists of skipped rows into one file beside the arrays."""
    folder = root / WORK / SKIPPED
    listed = [(folder / name).read_bytes() for name in folder.names() if name.endswith(".csv")]
    (root / LEFT_OUT).write(SKIPPED_HEADER + b"".join(listed))
