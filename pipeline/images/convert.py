"""The conversion of images: list, label and order them, write every shard once, commit.

It resumes like `tables/convert.py`. A file that cannot be decoded stops the conversion before the commit, or is
skipped. The last files of the order then take the positions of the skipped ones, so that only the shards that
contained skipped files, and the last shards, are rewritten.
"""

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...storage.blocks.writer import create_arrays
from ...storage.dataset import Dataset
from ...storage.format.arrays import TABLE
from ...storage.format.manifest import WORK
from ...storage.pictures.decode import Notes, add_notes
from ...storage.places.json_files import content_hash
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress, silent
from ..target.claim import SKIPPED, clear_target, store_spec
from ..target.commit import attributes, commit_dataset
from ..target.conversion import convert_once
from ..target.finished import finished_shards
from ..target.plan import store_plan
from ..target.receipts import RECEIPTS, read_receipts, receipt_path, unpack
from ..target.run import Stage, run_shard_tasks
from .equal import list_equal
from .listing.list import ImageList, list_images, warnings_of
from .size import check_encoded, fitting_size
from .spec import FITTING, ImageConversionSpec, ImageRequest, skip_images, specify_images
from .targets.find import find_targets, list_targets
from .watchdog import start_decoder
from .write import ImagePlan, ImageTask, list_path, write_image_shard

Tell = Callable[[str, str], None]
"""Called with a decision and its reason, or "warning" and what is odd about the images."""


def convert_images(
    request: ImageRequest,
    root: Location,
    executor: Executor,
    progress: Progress = silent,
    overwrite: bool = False,
    tell: Tell = lambda name, what: None,
) -> Dataset:
    """Convert the request's images into a dataset at `root`, or resume an interrupted conversion of the same request.

    If the size of the samples is not given, it is chosen from the images. Raises SourceError if a file cannot be
    decoded (before anything is committed), UsageError for options that do not match the data, and ConflictError if
    `root` contains something else.
    """
    root = locate(root)
    with tempfile.TemporaryDirectory(prefix="foldstream-") as folder:
        executor.prepare(start_decoder)
        images, targets, listing = list_sources(request, Path(folder))
        progress("list", len(images), len(images), images.describe())
        request = replace(with_size(request, images, tell), listing=listing)

        def write(stored: Any) -> ImageConversionSpec:
            found = find_targets(images, targets, request.wanted_targets, executor, progress) if targets else None
            spec = specify_images(request, images, found)
            warnings = [*first_warnings(request, spec, images)]
            if stored is None:
                store_spec(root, {"request": spec.request})
            if not (root / WORK / RECEIPTS).names():
                clear_target(root)
            for warning in warnings:
                tell("warning", warning)
            spec = write_images(spec, root, executor, progress)
            for warning in decoding_warnings(spec, root, request.labelled):
                tell("warning", warning)
            commit_dataset(spec, root)
            return spec

        return convert_once(root, request.to_json(), write, executor, overwrite)


def list_sources(request: ImageRequest, folder: Path) -> tuple[ImageList, ImageList | None, str]:
    """List the images of a request, and its targets if it names any, to files in `folder`; and the digest of both."""
    images, place = list_images(request.sources, folder), request.masks or request.targets
    if place is None:
        return images, None, images.digest
    targets = list_targets(place, folder)
    return images, targets, content_hash(images.digest.encode(), targets.digest.encode())


def with_size(request: ImageRequest, images: ImageList, tell: Tell) -> ImageRequest:
    """The request with a size of samples that fits the images, unless it has one."""
    if request.form.size != FITTING:
        return request
    (height, width), reason = fitting_size(images)
    tell("size", f"{height} x {width}, {reason}")
    return replace(request, form=replace(request.form, size=(height, width)))


def first_warnings(request: ImageRequest, spec: ImageConversionSpec, images: ImageList) -> Iterator[str]:
    """What is to be said of the images before they are decoded."""
    yield from warnings_of(images)
    if request.labelled:
        yield from unused_labels(spec)
    if request.encoded:
        yield from check_encoded(spec)


def unused_labels(spec: ImageConversionSpec) -> Iterator[str]:
    """A warning if the images have no labels, but fields in the `.json` beside them."""
    samples = spec.images.table["beside"].drop_null()
    if not spec.schema.labels and len(samples):
        fields = ", ".join(list(json.loads(samples[0].as_py()))[:8])
        yield f"the images have no labels; --label takes one of the fields beside them: {fields}"


def decoding_warnings(spec: ImageConversionSpec, root: Place, labelled: bool) -> Iterator[str]:
    """What is to be said of the decoded images, which the receipts of all shards note; if they are `labelled`, also
    which files are equal."""
    notes, hashes = Notes(), list[Any]()
    for receipt in read_receipts(root, spec.layout.shards):
        add_notes(notes, receipt.get("notes", {}))
        hashes.append(receipt.get("hashes"))
    yield from _warnings_of_notes(spec, notes)
    if labelled and all(hashes):  # an earlier version, which may have begun the conversion, has no hashes
        yield from list_equal(spec, root, np.concatenate([unpack(packed) for packed in hashes]))


def _warnings_of_notes(spec: ImageConversionSpec, notes: Notes) -> Iterator[str]:
    if pages := notes.get("pages"):
        yield f"{pages:,} images have several pages or frames; the first one of each was taken"
    if rounded := notes.get("rounded"):
        form = spec.schema.image
        keeps = "; --dtype uint16 keeps 16" if form and form.dtype == "uint8" else ", because Pillow keeps no more"
        yield f"{rounded:,} images have more than 8 bits and were scaled to 8{keeps}"
    brightest = notes.get("brightest", 0)
    if 0 < brightest < 2**15:
        most = 2 ** brightest.bit_length() - 1
        yield (
            f"the images with 16 bits have values of at most {brightest:,}, so they are dark; --pixel-range 0,{most} "
            f"makes {most:,} white"
        )


def write_images(
    spec: ImageConversionSpec,
    root: Place,
    executor: Executor,
    progress: Progress,
    wanted: Sequence[int] | None = None,
) -> ImageConversionSpec:
    """Write every shard, or only those in `wanted`, unless it is finished; if files are skipped, also the
    shards that change. Returns the final spec."""
    root.clean_temporaries()
    create_arrays(root, spec.layout, spec.schema.arrays(), attributes(spec.schema))
    finished = finished_shards(root, spec.schema.arrays(), executor, progress)
    shards = range(spec.layout.shards) if wanted is None else wanted
    left = [shard for shard in shards if shard not in finished or not is_same_list(spec, shard, finished[shard])]
    for shard in left:
        if shard in finished:
            receipt_path(root, shard).remove()  # of other images
    plan = ImagePlan(spec.layout, spec.schema, spec.first_row)  # kept, so that tasks in this process need not read it
    stored = store_plan(root, plan)

    def task(shard: int) -> ImageTask:
        data = shard_list(spec, shard)
        list_path(root, shard).write(data)
        return ImageTask(stored, shard, content_hash(data))

    stop = spec.request["on_error"] == "stop"
    found = run_shard_tasks(Stage("convert", write_image_shard, task), spec, root, left, executor, progress, stop)
    if not found:
        write_skipped(spec, root)
        return spec
    errors = {number: reason for failed in found for number, reason in failed}
    return write_images(skip_images(spec, errors), root, executor, progress)


def shard_list(spec: ImageConversionSpec, shard: int) -> bytes:
    """The images of a shard as an Arrow file: where their bytes are, their keys, labels, columns and indices
    in the list."""
    start, stop = spec.layout.shard_range(shard)
    numbers = spec.order[start:stop]
    rows = spec.images.table.take(pa.array(numbers))
    y = spec.y[numbers] if len(spec.y) else np.zeros((len(numbers), 0))
    features = np.zeros((len(numbers), 0)) if spec.table is None else spec.table[numbers]
    table = pa.table(
        {
            **spec.images.files(numbers),
            "path": rows["path"],
            "number": numbers,
            **(spec.targets.table(numbers) if spec.targets else {}),
            **{f"y{i}": column for i, column in enumerate(y.reshape(len(numbers), -1).T)},
            **{f"{TABLE}{i}": column for i, column in enumerate(features.T)},
            **{array: values.take(pa.array(numbers)) for array, values in spec.beside.items()},
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def is_same_list(spec: ImageConversionSpec, shard: int, digest: str | None) -> bool:
    """Whether a shard still has the list of that digest: the images at its end may replace skipped ones."""
    return content_hash(shard_list(spec, shard)) == digest


def write_skipped(spec: ImageConversionSpec, root: Place) -> None:
    """Write the list of skipped images, which the commit copies to the dataset."""
    text = io.StringIO()
    rows = ((spec.images.name(number), "", "", reason) for number, reason in sorted(spec.errors.items()))
    csv.writer(text, lineterminator="\n").writerows(rows)
    if spec.errors:
        (root / WORK / SKIPPED / "images.csv").write(text.getvalue().encode(errors="backslashreplace"))
