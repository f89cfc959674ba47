"""The conversion of predictions into features: one task per shard, then the commit. It resumes like the others."""

from typing import Any

from ...storage.blocks.writer import create_arrays
from ...storage.dataset import Dataset
from ...storage.places.locate import Location, locate
from ...storage.tasks import Executor, Progress, silent
from ..target.claim import clear_target, store_spec
from ..target.commit import attributes, commit_dataset
from ..target.conversion import convert_once
from ..target.finished import finished_shards
from ..target.plan import store_plan
from ..target.run import Stage, run_shard_tasks
from .spec import StackRequest, StackSpec, specify_stack
from .write import StackPlan, StackTask, write_stacked


def convert_stack(
    request: StackRequest, root: Location, executor: Executor, progress: Progress = silent, overwrite: bool = False
) -> Dataset:
    """Write a dataset with the predictions of runs as features, or resume an interrupted conversion.

    The rows, their order and their layout are those of the runs' dataset.

    Raises UsageError for features to which columns cannot be added, and ConflictError if `root` contains something
    else.
    """
    root = locate(root)

    def write(stored: Any) -> StackSpec:
        spec = specify_stack(request)
        if stored is None:
            clear_target(root)
            store_spec(root, {"request": request.to_json()})
        root.clean_temporaries()
        arrays = spec.schema.arrays()
        create_arrays(root, spec.layout, arrays, attributes(spec.schema))
        predictions = tuple((run.oof, run.holdout) for run in request.runs)
        plan = store_plan(root, StackPlan(spec.layout, spec.schema, request.dataset, predictions))
        finished = finished_shards(root, arrays, executor, progress)
        left = [shard for shard in range(spec.layout.shards) if shard not in finished]
        stage: Stage[StackTask, None] = Stage("stack", write_stacked, lambda shard: StackTask(plan, shard))
        run_shard_tasks(stage, spec, root, left, executor, progress)
        commit_dataset(spec, root)
        return spec

    return convert_once(root, request.to_json(), write, executor, overwrite)
