"""Receipts: a record of each shard that was written, kept until the commit combines them into the manifest."""

from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from typing import Any, Protocol

import numpy as np

from ...storage.blocks.shards import Rows
from ...storage.blocks.writer import write_shard
from ...storage.format.arrays import TABLE
from ...storage.format.layout import Layout
from ...storage.format.manifest import WORK
from ...storage.format.schema import Schema
from ...storage.moments.moments import Moments
from ...storage.places.json_files import read_json, write_json
from ...storage.places.place import Place

RECEIPTS = "receipts"
AHEAD = 16  # receipts that are requested from an object store at once


class WrittenPlan(Protocol):
    """What tasks write."""

    @property
    def layout(self) -> Layout: ...
    @property
    def schema(self) -> Schema: ...


def finish_shard(
    root: Place,
    plan: WrittenPlan,
    shard: int,
    arrays: dict[str, np.ndarray],
    missing: np.ndarray,
    files: Sequence[bytes] = (),
    **notes: Any,
) -> None:
    """Write a shard's arrays, then its receipt, which includes `notes`. If the samples are stored as image files, these
    are the `files`."""
    stored: dict[str, Rows] = {**arrays, **({"x": files} if plan.schema.encoded else {})}
    written = write_shard(root, plan.layout, plan.schema.arrays(), shard, stored, plan.schema.behind)
    write_json(receipt_path(root, shard), {**vars(written), **summarize(plan, arrays, missing), **notes})


def summarize(plan: WrittenPlan, arrays: dict[str, np.ndarray], missing: np.ndarray) -> dict[str, Any]:
    """The summary of a shard's rows in its receipt: moments of channels, labels and the columns beside images, class
    counts, missing values."""
    schema = plan.schema
    x = arrays[schema.measured]
    moments = Moments.of(x.reshape(len(x), schema.channels, -1))
    has_mean = schema.task in ("regression", "multilabel")
    y = Moments.of(arrays["y"].reshape(len(x), schema.outputs, -1)) if has_mean else None
    table = Moments.of(with_gaps(arrays[TABLE], schema.table)[..., None]) if schema.table else None
    return {
        "moments": pack(moments.table()),
        "y_moments": y and pack(y.table()),
        "table_moments": table and pack(table.table()),
        "class_counts": count_classes(arrays, plan.layout, schema).tolist(),
        "missing": pack(missing),
    }


def pack(array: np.ndarray) -> dict[str, Any]:
    """An array as JSON: its bytes, because of thousands of columns, numbers as text take seconds in each shard."""
    data = b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def unpack(packed: dict[str, Any] | list[Any]) -> np.ndarray:
    """The array that `pack` has stored, or an earlier version as a list."""
    if isinstance(packed, list):
        return np.asarray(packed)
    return np.frombuffer(b64decode(packed["data"]), packed["dtype"]).reshape(packed["shape"])


def with_gaps(table: np.ndarray, schema: Schema) -> np.ndarray:
    """The columns beside images, (rows, columns) float64, with NaN for missing categories too."""
    gaps = [values[:1] == ("",) for values in map(schema.categories.get, schema.features, repeat(()))]
    return np.where(np.array(gaps) & (table == 0), np.nan, table)


def receipt_path(root: Place, shard: int) -> Place:
    return root / WORK / RECEIPTS / f"{shard:08d}.json"


def read_receipts(root: Place, shards: int) -> Iterator[dict[str, Any]]:
    """The receipts of all shards, in order."""
    paths = (receipt_path(root, shard) for shard in range(shards))
    if not root.waits_for_network:
        yield from map(read_json, paths)
        return
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting = deque(pool.submit(read_json, path) for path in islice(paths, AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(read_json, path) for path in islice(paths, 1))


def count_classes(arrays: dict[str, np.ndarray], layout: Layout, schema: Schema) -> np.ndarray:
    """Rows of each class in every block of a shard, (blocks, classes) int64; no columns if there are no classes."""
    y = arrays["y"] if schema.classes else np.zeros(0, np.int64)
    blocks = [y[start : start + layout.block_rows] for start in range(0, len(arrays["id"]), layout.block_rows)]
    return np.stack([np.bincount(block, minlength=len(schema.classes)) for block in blocks])
