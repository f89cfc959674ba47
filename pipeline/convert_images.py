"""Images to dataset: list, label, order, write every shard once, commit. What `convert.py` promises holds here too.

A file that gives no sample stops the conversion before the commit, or is left out: then the last files of the order
take the places of such files, so that only the shards that had some, and the last ones, are written again.
"""

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..storage.dataset import Dataset, open_dataset
from ..storage.errors import ConflictError, SourceError, UsageError, check_choice
from ..storage.files import clean_temporaries, content_hash, create_json, names_in, read_json, remove_tree, write_atomic
from ..storage.format import WORK, ImageForm, Layout, Schema, choose_layout
from ..storage.object_path import AnyPath, locate
from ..storage.tasks import Executor, Progress, silent
from ..storage.writer import create_arrays
from .image_files import ImageFile
from .image_labels import Labels, encode_labels, label_by_file, label_by_folder
from .image_list import ImageList, list_images
from .image_process import decode_images, start_decoder
from .plan import ON_ERROR, TASKS
from .shuffle import shuffled_places
from .target import FAULTS, PLAN, attributes, carry_out, clear_target, commit_plan, is_converted, load_plan, lock_target
from .write import RECEIPTS, finish_shard, has_receipt, receipt_path

LISTS = "lists"
KEY = "path"


@dataclass(frozen=True)
class ImageRequest:
    """What the user asked for. `labels` is a CSV file of paths and labels, of which `label` names some; without one
    the images' folders are their classes. `shuffle` is the seed of their order, None for that of their paths.
    `listing` is the digest of all that was found."""

    sources: tuple[str, ...]
    form: ImageForm
    labels: str | None = None
    label: tuple[str, ...] = ()
    task: str = "auto"
    labelled: bool = True
    on_error: str = "stop"
    shuffle: int | None = 0
    like: Schema | None = None
    listing: str = ""

    def __post_init__(self) -> None:
        check_choice("--on-error", self.on_error, ON_ERROR)
        check_choice("--task", self.task, TASKS)
        check_choice("--color", self.form.color, ("rgb", "gray"))
        check_choice("--fit", self.form.fit, ("pad", "crop", "stretch"))
        check_choice("--background", self.form.background, ("white", "black"))
        check_choice("--dtype", self.form.dtype, ("uint8", "uint16"))
        if self.shuffle is not None and not 0 <= self.shuffle < 2**63:
            raise UsageError(f"--shuffle {self.shuffle}: give a seed from 0 to 2⁶³ - 1, or none")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "sources": tuple(value["sources"]),
                "label": tuple(value["label"]),
                "form": ImageForm.from_json(value["form"]),
                "like": value["like"] and Schema.from_json(value["like"]),
            }
        )


@dataclass(frozen=True)
class ImagePlan:
    """What is written: the images at positions `order` of the list, (rows,) int64, with their labels."""

    layout: Layout
    schema: Schema
    request: dict[str, Any]
    images: ImageList
    y: np.ndarray
    order: np.ndarray
    faults: Mapping[int, str] = field(default_factory=dict)

    @property
    def left_out(self) -> int:
        """Images that are left out."""
        return len(self.faults)

    @property
    def source_bytes(self) -> int:
        """Bytes of all images, encoded as they are."""
        return int(pc.sum(self.images.table["length"]).as_py())


@dataclass(frozen=True)
class ImageTask:
    """Write one shard of every array from the images of its list, whose content hash is `digest`."""

    root: str
    layout: Layout
    schema: Schema
    shard: int
    digest: str


def convert_images(
    request: ImageRequest, root: AnyPath, executor: Executor, progress: Progress = silent, overwrite: bool = False
) -> Dataset:
    """Convert the request's images into a dataset at `root`, or go on with an earlier attempt at the same.

    Raises SourceError at a file that gives no sample, before anything is committed, UsageError for options that do not
    fit the data, and ConflictError where `root` holds something else.
    """
    with tempfile.TemporaryDirectory(prefix="foldstream-") as folder:
        executor.prepare(start_decoder)
        images = list_images(request.sources, Path(folder))
        passed = f", {images.passed_over:,} other files passed over" if images.passed_over else ""
        progress("list", len(images), len(images), f"images{passed}")
        request = replace(request, listing=images.digest)
        if is_converted(root, asdict(request), overwrite):
            remove_tree(root / WORK)
            return open_dataset(root)
        with lock_target(root):
            begun = load_plan(root, asdict(request), overwrite)
            plan = plan_images(request, images)
            if begun is None and not create_json(root / WORK / PLAN, {"request": plan.request}):
                raise ConflictError(f"{root} is being converted by another process; wait for it to end")
            if not names_in(root / WORK / RECEIPTS):
                clear_target(root)
            commit_plan(write_images(plan, root, executor, progress), root)
            remove_tree(root / WORK)
    return open_dataset(root)


def plan_images(request: ImageRequest, images: ImageList) -> ImagePlan:
    """Decide everything but what cannot be decoded. Raises SourceError for images without a label, unless they are to
    be left out, and where nothing is left."""
    labels = _find_labels(request, images)
    if labels.lost and request.on_error == "stop":
        raise SourceError(
            f"{request.labels} names {len(labels.lost):,} images that are not there, the first «{labels.lost[0]}»; "
            "name their folder too, or pass over them with --on-error skip"
        )
    of_labels, y = encode_labels(labels, request.task, request.like)
    paths = images.table["path"]
    schema = replace(
        of_labels,
        sample_shape=request.form.sample_shape,
        x_dtype=request.form.dtype,
        key=KEY,
        key_width=pc.max(pc.binary_length(paths)).as_py(),
        image=request.form,
    )
    count = len(images)
    order = np.arange(count)
    if request.shuffle is not None:
        order = np.argsort(shuffled_places(order, count, request.shuffle))
    layout = choose_layout(count, schema.arrays()[0].row_bytes)
    plan = ImagePlan(layout, schema, asdict(request), images, y, order)
    return leave_out(plan, labels.faults) if labels.faults else plan


def _find_labels(request: ImageRequest, images: ImageList) -> Labels:
    if not request.labelled:
        return Labels()
    if request.labels:
        return label_by_file(images.table["path"].combine_chunks(), request.labels, request.label)
    if request.label:
        raise UsageError("--label names columns of the CSV that --labels names; give that too")
    return label_by_folder(images.table["class"].combine_chunks())


def leave_out(plan: ImagePlan, faults: Mapping[int, str]) -> ImagePlan:
    """The plan without some images of the list, by their numbers with what is wrong with them.

    The last ones of the order take their places, so that all other rows stay where they are. Raises SourceError if
    they are not to be left out, or none would be left.
    """
    first = min(faults)
    if plan.request["on_error"] == "stop":
        more = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
        raise SourceError(
            f"{plan.images.name(first)}: {faults[first]}{more}; mend or remove it, or leave such images out with "
            "--on-error skip"
        )
    rows = plan.layout.rows - len(faults)
    if not rows:
        raise SourceError(
            f"none of the {len(plan.images):,} images is sound, as {plan.images.name(first)}: {faults[first]}"
        )
    bad = np.isin(plan.order, list(faults))
    order = plan.order[:rows].copy()
    order[bad[:rows]] = plan.order[rows:][~bad[rows:]]
    layout = replace(plan.layout, rows=rows)
    return replace(plan, layout=layout, order=order, faults={**plan.faults, **faults})


def write_images(
    plan: ImagePlan, root: AnyPath, executor: Executor, progress: Progress, wanted: Sequence[int] | None = None
) -> ImagePlan:
    """Write every shard, or those that are wanted, unless it has a valid receipt; and after files that gave no sample,
    those that change. Returns the plan that was carried out."""
    if isinstance(root, Path):
        clean_temporaries(root)
    create_arrays(root, plan.layout, plan.schema.arrays(), attributes(plan))
    specs = plan.schema.arrays()
    left = []
    for shard in range(plan.layout.shards) if wanted is None else wanted:
        digest = content_hash(shard_list(plan, shard))
        if not has_receipt(root, specs, shard) or read_json(receipt_path(root, shard))["list"] != digest:
            left.append(shard)

    def task(shard: int) -> ImageTask:
        data = shard_list(plan, shard)
        write_atomic(list_path(root, shard), data)
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


def list_path(root: AnyPath, shard: int) -> AnyPath:
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


def write_faults(plan: ImagePlan, root: AnyPath) -> None:
    """List what is left out as the commit gathers it."""
    text = io.StringIO()
    rows = ((plan.images.name(number), "", "", reason) for number, reason in sorted(plan.faults.items()))
    csv.writer(text, lineterminator="\n").writerows(rows)
    if plan.faults:
        write_atomic(root / WORK / FAULTS / "images.csv", text.getvalue().encode(errors="backslashreplace"))
