"""The conversion of predictions into features: one task per shard, then the commit. It resumes like the others."""

from ...storage.blocks.writer import create_arrays
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import ConflictError
from ...storage.format.manifest import WORK
from ...storage.places.json_files import create_json
from ...storage.places.locate import Location, locate
from ...storage.tasks import Executor, Progress, silent
from ..target.claim import SPEC, clear_target, is_converted, load_spec, lock_target, remove_leftovers
from ..target.commit import attributes, commit_dataset
from ..target.finished import finished_shards
from ..target.plan import store_plan
from ..target.run import Stage, publish_done, run_shard_tasks
from .spec import StackRequest, specify_stack
from .write import StackPlan, StackTask, write_stacked


def convert_stack(
    request: StackRequest, root: Location, executor: Executor, progress: Progress = silent, overwrite: bool = False
) -> Dataset:
    """Write a dataset with the predictions of runs as features, or resume an interrupted conversion.

    The rows, their order and their layout are those of the runs' dataset.

    Raises UsageError for features to which columns cannot be added, and ConflictError if `root` contains something
    else.
    """
    root, fingerprint = locate(root), request.to_json()
    if is_converted(root, fingerprint, overwrite):
        remove_leftovers(root)
        return open_dataset(root)
    spec = specify_stack(request)
    with lock_target(root):
        if load_spec(root, fingerprint, overwrite) is None:
            clear_target(root)
            if not create_json(root / WORK / SPEC, {"request": fingerprint}):
                raise ConflictError(f"{root} is being converted by another process; wait for it to finish")
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
        (root / WORK).remove_tree()
    dataset = open_dataset(root)
    publish_done(spec, dataset, executor)
    return dataset
