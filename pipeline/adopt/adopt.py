"""Adopt arrays: everything but the features is written, shard by shard, and the commit says where these are.

It resumes like the conversions: a restart with the same request redoes only what has no valid shard.
"""

from typing import Any

import numpy as np

from ...storage.blocks.shards import shard_path
from ...storage.blocks.writer import create_arrays
from ...storage.dataset import Dataset
from ...storage.foreign.format import TABLE
from ...storage.format.manifest import WORK
from ...storage.places.json_files import content_hash, read_json
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress, silent
from ..target.claim import clear_target, store_spec
from ..target.commit import attributes, commit_dataset
from ..target.conversion import convert_once
from ..target.plan import store_plan
from ..target.receipts import RECEIPTS, receipt_path
from ..target.run import Stage, run_shard_tasks
from .files import with_hashes
from .spec import AdoptionRequest, AdoptSpec, specify
from .write import AdoptPlan, AdoptTask, columns_path, forget_readers, write_adopted_shard


def adopt(
    request: AdoptionRequest, root: Location, executor: Executor, progress: Progress = silent, overwrite: bool = False
) -> Dataset:
    """Make the arrays of the request a dataset at `root`, or resume an interrupted command with the same request.

    Raises SourceError and UsageError before anything is written for what cannot be adopted, and ConflictError if `root`
    contains something else.
    """
    root, spec = locate(root), specify(request)

    def write(stored: Any) -> AdoptSpec:
        if stored is None:
            store_spec(root, {"request": spec.request})
        if not (root / WORK / RECEIPTS).names():
            clear_target(root)
        _write_shards(spec, root, executor, progress)
        _commit(spec, root, executor, progress)
        forget_readers()
        return spec

    return convert_once(root, spec.request, write, executor, overwrite)


def _write_shards(spec: AdoptSpec, root: Place, executor: Executor, progress: Progress) -> None:
    root.clean_temporaries()
    create_arrays(root, spec.layout, spec.arrays, attributes(spec.schema))
    plan = store_plan(root, _plan_tasks(spec, root))

    def task(shard: int) -> AdoptTask:
        return AdoptTask(plan, shard, _write_columns(spec, root, shard))

    left = [shard for shard in range(spec.layout.shards) if not _is_finished(spec, root, shard)]
    run_shard_tasks(Stage("adopt", write_adopted_shard, task), spec, root, left, executor, progress)


def _plan_tasks(spec: AdoptSpec, root: Place) -> AdoptPlan:
    request, data, arrays = spec.source, b"", {}
    if spec.foreign:
        data, arrays = spec.foreign.to_bytes(), spec.foreign.to_json()
        (root / WORK / TABLE).write(data)
    table = content_hash(data) if data else ""
    return AdoptPlan(spec.layout, spec.schema, spec.inside, arrays, table, request.place, request.x, request.sample_dim)


def _write_columns(spec: AdoptSpec, root: Place, shard: int) -> str:
    """Write the columns of a shard for its task, and return their digest."""
    from safetensors.numpy import save

    if not spec.columns.arrays:
        return ""
    start, stop = spec.layout.shard_range(shard)
    parts = {name: np.ascontiguousarray(array[start:stop]) for name, array in spec.columns.arrays.items()}
    data = save(parts)
    columns_path(root, shard).write(data, durable=False)
    return content_hash(data)


def _is_finished(spec: AdoptSpec, root: Place, shard: int) -> bool:
    """Whether a shard has a receipt, and files as long as it says; see `target/finished.py`."""
    try:
        lengths = read_json(receipt_path(root, shard))["entry"]["lengths"]
        places = {one.name: root / shard_path(spec.layout, one, shard) for one in spec.arrays}
        return all(place.describe().size == lengths[name] for name, place in places.items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _commit(spec: AdoptSpec, root: Place, executor: Executor, progress: Progress) -> None:
    if spec.inside or not spec.foreign:
        commit_dataset(spec, root)
        return
    foreign = with_hashes(spec.foreign, executor, progress) if spec.source.hash else spec.foreign
    data = foreign.to_bytes()
    (root / TABLE).write(data)
    commit_dataset(spec, root, {"arrays": foreign.to_json(), "table": content_hash(data)})
