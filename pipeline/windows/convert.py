"""The conversion of time series into windows: the rows are converted, sorted unless they are, and described.

Rows lie in `OUT.zarr/rows`, a dataset of their own, which is committed first. Samples have no features of their own;
the commit says where their windows are. It resumes like the other conversions: a restart with the same request keeps
the rows, and redoes only the shards of samples that are not valid.
"""

import io
from functools import partial
from typing import Any

import numpy as np

from ...storage.blocks.writer import create_arrays
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import SourceError, UsageError
from ...storage.format.manifest import LEFT_OUT, MANIFEST, WORK
from ...storage.format.windows import ROWS, RUNS
from ...storage.places.json_files import content_hash, same_json
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress, silent
from ..tables.convert import convert, specify
from ..tables.shuffle import ORDER
from ..target.claim import SKIPPED, SPEC, clear_target, store_spec
from ..target.commit import SKIPPED_HEADER, attributes, commit_dataset
from ..target.conversion import convert_once
from ..target.finished import finished_shards
from ..target.plan import store_plan
from ..target.run import Stage, run_shard_tasks
from .series import RowKeys, Series, read_keys, read_known, repetition
from .spec import SamplesSpec, WindowRequest, check_label, specify_samples
from .write import SamplesPlan, SamplesTask, write_samples


def convert_windows(
    request: WindowRequest, root: Location, executor: Executor, progress: Progress = silent, overwrite: bool = False
) -> Dataset:
    """Convert the request's sources into a dataset of windows at `root`, or resume an interrupted conversion.

    Raises SourceError for rows that cannot be read or have the same time, and if there is not a single window,
    UsageError for options that do not match the data, and ConflictError if `root` contains something else.
    """
    root = locate(root)

    def write(stored: Any) -> SamplesSpec:
        if stored is None:
            if (root / MANIFEST).exists():  # it is kept unless the rows can be read and have the label
                check_label(specify(request.rows, root, executor, progress, by_scan=True).schema, request.form)
            clear_target(root)
            store_spec(root, {"request": request.to_json()})
        spec = _write_samples(request, root, executor, progress)
        runs = spec.windows.to_bytes()
        (root / RUNS).write(runs)
        if spec.skipped:
            skipped = (root / ROWS / LEFT_OUT).read_bytes().removeprefix(SKIPPED_HEADER)
            (root / WORK / SKIPPED / f"{0:08d}.csv").write(skipped)
        commit_dataset(spec, root, windows=spec.describe(content_hash(runs)))
        return spec

    return convert_once(root, request.to_json(), write, executor, overwrite)


def _write_samples(request: WindowRequest, root: Place, executor: Executor, progress: Progress) -> SamplesSpec:
    rows, keys = _sorted_rows(request, root, executor, progress)
    series = Series.of(keys)
    spec = specify_samples(request, rows, series, read_known(rows, request.form.label))
    progress("windows", 1, 1, describe(request, keys, series, spec.layout.rows))
    root.clean_temporaries()
    create_arrays(root, spec.layout, spec.stored, attributes(spec.schema))
    runs = spec.windows.to_bytes()
    (root / WORK / RUNS).write(runs)
    plan = store_plan(root, SamplesPlan(spec.layout, spec.schema, spec.windows.to_json(), content_hash(runs)))
    finished = finished_shards(root, spec.stored, executor, progress)
    left = [shard for shard in range(spec.layout.shards) if shard not in finished]
    run_shard_tasks(
        Stage("samples", write_samples, lambda shard: SamplesTask(plan, shard)), spec, root, left, executor, progress
    )
    return spec


def describe(request: WindowRequest, keys: RowKeys, series: Series, samples: int) -> str:
    """The samples in words, with what may be unexpected about the rows."""
    form, count = request.form, len(series.starts) - 1
    said = [f"{samples:,} samples of {form.length:,} rows from {count:,} series"]
    if count > 1 and (short := series.short(form)):
        said.append(f"{short:,} series are too short for one with its targets")
    if other := keys.other_steps():
        said.append(f"{other:,} steps of '{form.time}' are not as long as most: such windows span another time")
    return "; ".join(said)


def _sorted_rows(
    request: WindowRequest, root: Place, executor: Executor, progress: Progress
) -> tuple[Dataset, RowKeys]:
    """The rows, converted once in the order of the sources, and again if that is not the order of the series."""
    place, order = root / ROWS, root / WORK / ORDER
    if not order.exists():
        rows = _convert_rows(request, root, executor, progress)
        check_label(rows.schema, request.form)  # a sample may have been misleading
        keys = read_keys(rows, request.form)
        if keys.sorted:
            return rows, keys
        order.write(_new_places(rows, keys, request))
        progress("sort", 1, 1, "the sources are not sorted by series and time; the rows are sorted")
    ordered = request.rows.sorted_by(content_hash(order.read_bytes()))
    if (place / MANIFEST).exists() and same_json(open_dataset(place).request, ordered.to_json()):
        rows = open_dataset(place)
    else:
        rows = convert(ordered, place, executor, progress, overwrite=True)
    return rows, read_keys(rows, request.form)


def _convert_rows(request: WindowRequest, root: Place, executor: Executor, progress: Progress) -> Dataset:
    """Convert the rows in the order of the sources. The label is checked before rows are written; if it or a row is
    wrong by then, nothing stays that a corrected command would find."""
    place = root / ROWS
    try:
        return convert(request.rows, place, executor, progress, check=partial(check_label, form=request.form))
    except (UsageError, SourceError):
        if not (place / WORK / SPEC).exists():
            (root / WORK / SPEC).remove()
        raise


def _new_places(rows: Dataset, keys: RowKeys, request: WindowRequest) -> bytes:
    """The place of each row among the sorted ones, as .npy. Raises SourceError for rows of the same series and time."""
    order = keys.order()
    if pair := keys.repeated(order):
        raise repetition(rows, request.form, pair)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    data = io.BytesIO()
    np.save(data, places, allow_pickle=False)
    return data.getvalue()
