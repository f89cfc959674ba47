"""The commit: receipts become the manifest that makes a dataset exist."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...storage.format import LEFT_OUT, WORK, Manifest, ShardEntry, Statistics
from ...storage.places.json_files import read_json
from ...storage.places.place import Place
from ...storage.writer import commit, write_block_table
from .claim import FAULTS, Plan
from .moments import Moments, merge_moments
from .receipts import receipt_path

FAULT_HEADER = b"file,line,column,reason\n"


def attributes(plan: Plan) -> dict[str, Any]:
    """What plain Zarr readers see on the group."""
    schema = plan.schema
    return {"foldstream": {"labels": list(schema.labels), "task": schema.task, "classes": list(schema.classes)}}


def commit_plan(plan: Plan, root: Place) -> None:
    """Gather the receipts and make the dataset exist."""
    root.clean_temporaries()  # of workers that were killed while others went on
    receipts = [read_json(receipt_path(root, shard)) for shard in range(plan.layout.shards)]
    checksums: dict[str, list[int]] = {spec.name: [] for spec in plan.schema.arrays()}
    for receipt in receipts:
        for name, values in receipt["checksums"].items():
            checksums[name] += values
    totals: Counter[int] = Counter()
    if plan.schema.classes:
        counts = np.concatenate([np.asarray(receipt["class_counts"], np.uint32) for receipt in receipts])
        write_block_table(root, "class_counts", counts)
        totals.update(dict(enumerate(counts.sum(axis=0, dtype=np.int64).tolist())))
    details = {
        "schema": asdict(plan.schema),
        "statistics": asdict(merge_statistics(plan, receipts)),
        "request": plan.request,
        "class_counts": [totals[code] for code in range(len(plan.schema.classes))],
        "left_out": plan.left_out,
    }
    commit_faults(root)
    shards = tuple(ShardEntry(**receipt["entry"]) for receipt in receipts)
    commit(root, Manifest("dataset", plan.layout, plan.schema.arrays(), shards, details), checksums)


def merge_statistics(plan: Plan, receipts: Sequence[dict[str, Any]]) -> Statistics:
    """The statistics of all rows from those of the shards, in their order."""
    schema, channels = plan.schema, plan.schema.sample_shape[0]
    merged = merge_moments([Moments.from_json(receipt["moments"]) for receipt in receipts])
    of_labels = [Moments.from_json(receipt["y_moments"]) for receipt in receipts if receipt["y_moments"]]
    y = merge_moments(of_labels) if of_labels else None
    missing = np.sum([receipt["missing"] for receipt in receipts], axis=0, dtype=np.int64)
    missing = np.concatenate([missing, np.zeros(len(schema.indicators), np.int64)]).reshape(channels, -1).sum(axis=1)
    return Statistics(
        mean=tuple(merged.mean.tolist()),
        std=tuple(merged.std()),
        minimum=tuple(merged.minimum.tolist()),
        maximum=tuple(merged.maximum.tolist()),
        missing=tuple(missing.tolist()),
        y_mean=tuple(y.mean.tolist()) if y else (),
        y_std=tuple(y.std()) if y else (),
    )


def commit_faults(root: Place) -> None:
    """Gather the lists of faulty rows in one beside the arrays, if there are any."""
    folder = root / WORK / FAULTS
    listed = [(folder / name).read_bytes() for name in folder.names() if name.endswith(".csv")]
    if listed:
        (root / LEFT_OUT).write(FAULT_HEADER + b"".join(listed))
