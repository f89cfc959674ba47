"""Images to dataset: list, label, order, write every shard once, commit. As `tables/convert.py` promises.

A file that gives no sample stops the conversion before the commit, or is left out: then the last files of the order
take the places of such files, so that only the shards that had some, and the last ones, are written again.
"""

import csv
import io
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import ConflictError
from ...storage.format import WORK, Layout, Schema
from ...storage.places.json_files import content_hash, create_json, read_json
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress, silent
from ...storage.writer import create_arrays
from ..target.claim import FAULTS, PLAN, clear_target, is_converted, load_plan, lock_target
from ..target.commit import attributes, commit_plan
from ..target.receipts import RECEIPTS, finish_shard, has_receipt, receipt_path
from ..target.run import carry_out
from .files import ImageFile
from .list import list_images
from .plan import ImagePlan, ImageRequest, leave_out, plan_images
from .watchdog import decode_images, start_decoder

LISTS = "lists"


@dataclass(frozen=True)
class ImageTask:
    """Write one shard of every array from the images of its list, whose content hash is `digest`."""

    root: str
    layout: Layout
    schema: Schema
    shard: int
    digest: str


def convert_images(
    request: ImageRequest, root: Location, executor: Executor, progress: Progress = silent, overwrite: bool = False
) -> Dataset:
    """Convert the request's images into a dataset at `root`, or go on with an earlier attempt at the same.

    Raises SourceError at a file that gives no sample, before anything is committed, UsageError for options that do not
    fit the data, and ConflictError where `root` holds something else.
    """
    root = locate(root)
    with tempfile.TemporaryDirectory(prefix="foldstream-") as folder:
        executor.prepare(start_decoder)
        images = list_images(request.sources, Path(folder))
        passed = f", {images.passed_over:,} other files passed over" if images.passed_over else ""
        progress("list", len(images), len(images), f"images{passed}")
        request = replace(request, listing=images.digest)
        if is_converted(root, asdict(request), overwrite):
            (root / WORK).remove_tree()
            return open_dataset(root)
        with lock_target(root):
            begun = load_plan(root, asdict(request), overwrite)
            plan = plan_images(request, images)
            if begun is None and not create_json(root / WORK / PLAN, {"request": plan.request}):
                raise ConflictError(f"{root} is being converted by another process; wait for it to end")
            if not (root / WORK / RECEIPTS).names():
                clear_target(root)
            commit_plan(write_images(plan, root, executor, progress), root)
            (root / WORK).remove_tree()
    return open_dataset(root)


def write_images(
    plan: ImagePlan, root: Place, executor: Executor, progress: Progress, wanted: Sequence[int] | None = None
) -> ImagePlan:
    """Write every shard, or those that are wanted, unless it has a valid receipt; and after files that gave no sample,
    those that change. Returns the plan that was carried out."""
    root.clean_temporaries()
    create_arrays(root, plan.layout, plan.schema.arrays(), attributes(plan))
    specs = plan.schema.arrays()
    left = []
    for shard in range(plan.layout.shards) if wanted is None else wanted:
        digest = content_hash(shard_list(plan, shard))
        if not has_receipt(root, specs, shard) or read_json(receipt_path(root, shard))["list"] != digest:
            left.append(shard)

    def task(shard: int) -> ImageTask:
        data = shard_list(plan, shard)
        list_path(root, shard).write(data)
        return ImageTask(str(root), plan.layout, plan.schema, shard, content_hash(data))

    stop = plan.request["on_error"] == "stop"
    found = carry_out(plan, root, write_image_shard, task, left, "convert", executor, progress, stop)
    if not found:
        write_faults(plan, root)
        return plan
    return write_images(leave_out(plan, dict(fault for faults in found for fault in faults)), root, executor, progress)


def shard_list(plan: ImagePlan, shard: int) -> bytes:
    """The images of a shard as an Arrow file: where their bytes are, their key, their label, their number."""
    start, stop = plan.layout.shard_range(shard)
    numbers = plan.order[start:stop]
    rows = plan.images.table.take(pa.array(numbers))
    containers = [plan.images.containers[i] for i in rows["container"].to_pylist()]
    paths = rows["path"].to_pylist()
    places = [place if archive else f"{place}/{path}" for (place, archive), path in zip(containers, paths, strict=True)]
    y = plan.y[numbers] if plan.schema.labels else np.zeros((len(numbers), 0))
    table = pa.table(
        {
            "place": places,
            "path": paths,
            **{name: rows[name] for name in ("offset", "length", "packed")},
            "number": numbers,
            **{f"y{i}": column for i, column in enumerate(y.reshape(len(numbers), -1).T)},
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def list_path(root: Place, shard: int) -> Place:
    return root / WORK / LISTS / f"{shard:08d}.arrow"


def write_image_shard(task: ImageTask) -> list[tuple[int, str]] | None:
    """Carry out a task. Returns the numbers of the images that gave no sample, with why; then nothing is written."""
    root, schema = locate(task.root), task.schema
    assert schema.image
    table = pa.ipc.open_file(list_path(root, task.shard).read_bytes()).read_all()
    columns = (table[name].to_pylist() for name in ("place", "offset", "length", "packed"))
    files = [ImageFile(*fields) for fields in zip(*columns, strict=True)]
    start, stop = task.layout.shard_range(task.shard)
    keys = np.array([path.encode() for path in table["path"].to_pylist()], f"S{schema.key_width}")
    key = keys.view(np.uint8).reshape(-1, schema.key_width or 1)
    arrays: dict[str, np.ndarray] = {"id": np.arange(start, stop), "key": key}
    if schema.labels:
        y = np.stack([table[f"y{i}"].to_numpy() for i in range(len(schema.labels))], axis=1)
        arrays["y"] = y if len(schema.labels) > 1 else y[:, 0]
    missing = np.zeros(schema.sample_shape[0], np.int64)
    with decode_images(files, schema.image) as (x, faults):
        if faults:
            numbers = table["number"].to_pylist()
            return [(numbers[at], reason) for at, reason in faults.items()]
        finish_shard(task, {"x": x, **arrays}, missing, list=task.digest)
    return None


def write_faults(plan: ImagePlan, root: Place) -> None:
    """List what is left out as the commit gathers it."""
    text = io.StringIO()
    rows = ((plan.images.name(number), "", "", reason) for number, reason in sorted(plan.faults.items()))
    csv.writer(text, lineterminator="\n").writerows(rows)
    if plan.faults:
        (root / WORK / FAULTS / "images.csv").write(text.getvalue().encode(errors="backslashreplace"))
