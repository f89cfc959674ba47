"""Create a fold plan: one task per shard writes its codes, then the plan is committed."""

from dataclasses import asdict, dataclass

import numpy as np

from ...storage.blocks.writer import (
    WrittenShard,
    blocks_of,
    commit,
    create_arrays,
    remove_arrays,
    write_block_table,
    write_shard,
)
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError
from ...storage.fold_plan import FoldPlan, code_arrays, open_plan
from ...storage.format.manifest import MANIFEST, Manifest
from ...storage.places.json_files import same_json
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress, SerialExecutor, run_tasks, silent
from .assignments import Assignment
from .checks import check_counts
from .copied import Copied, plan_of_runs, split_in
from .grown import assign
from .split import Split


@dataclass(frozen=True)
class CodeTask:
    """Write the codes of one shard."""

    dataset: str
    root: str
    shard: int
    assignment: Assignment
    codes: int


def write_codes(task: CodeTask) -> tuple[WrittenShard, list[np.ndarray]]:
    """Write the codes of one shard.

    Returns the written shard, and the number of rows of each code in each block, (blocks, codes) for each array.
    """
    dataset = open_dataset(task.dataset)
    layout, codes = dataset.layout, task.assignment.codes(dataset, task.shard)
    specs = code_arrays(len(codes))
    arrays = {spec.name: values for spec, values in zip(specs, codes, strict=True)}
    blocks = layout.joined(layout.blocks_of(task.shard))
    counts = [np.stack([np.bincount(values[rows], minlength=task.codes) for rows in blocks]) for values in codes]
    return write_shard(locate(task.root), layout, specs, task.shard, arrays), counts


def make_plan(
    dataset: Dataset,
    split: Split,
    root: Location,
    least: int = 1,
    executor: Executor | None = None,
    progress: Progress = silent,
    source: FoldPlan | None = None,
) -> FoldPlan:
    """Assign every row of a dataset to a fold, and store the plan at `root`. The folds of a dataset of predictions are
    those of its runs, and with a `source`, a plan of the same rows, they are its folds.

    An existing plan with the same split and dataset is opened; any other plan is replaced.

    Raises UsageError if the dataset cannot be split this way, or a model would train on fewer than `least` rows.
    """
    root, expected = locate(root), {"split": split.model_dump(), "dataset": dataset.identity}
    if (root / MANIFEST).exists():
        plan = open_plan(root)
        made = {**plan.manifest.details, "split": split_in(plan).model_dump()}
        if same_json({name: made[name] for name in expected}, expected):
            return plan
        remove_arrays(root)
    executor = executor or SerialExecutor()
    source = source or plan_of_runs(dataset)
    assignment = Copied.of(source) if source else assign(dataset, split, executor, progress)
    layout, specs = dataset.layout, code_arrays(len({model.array for model in assignment.models}))
    create_arrays(root, layout, specs, {"foldstream": {"split": split.model_dump()}})
    written = assign_rows(dataset, assignment, root, executor, progress)
    tables = [np.concatenate([counts[number] for _, counts in written]) for number in range(len(specs))]
    try:
        totals = {spec.name: table.sum(axis=0) for spec, table in zip(specs, tables, strict=True)}
        check_counts(assignment, totals, least, split)
    except UsageError:
        root.remove_tree()
        raise
    for spec, table in zip(specs, tables, strict=True):
        write_block_table(root, f"{spec.name}_counts", table.astype(np.uint32))
    details = {
        **expected,
        "models": [asdict(model) for model in assignment.models],
        "holdout": assignment.holdout,
        "largest_group": assignment.largest_group,
        **({"purged": assignment.purged} if assignment.purged else {}),
    }
    shards = [shard for shard, _ in written]
    manifest = Manifest("folds", layout, specs, tuple(shard.entry for shard in shards), details)
    commit(root, manifest, blocks_of(shards, specs))
    return open_plan(root)


def assign_rows(
    dataset: Dataset, assignment: Assignment, root: Place, executor: Executor, progress: Progress
) -> list[tuple[WrittenShard, list[np.ndarray]]]:
    """Write the codes of all rows. Returns the result of `write_codes` for each shard."""
    used = {code for model in assignment.models for code in (*model.train, *model.held_out)}
    codes = max(used.union(assignment.holdout, assignment.purged)) + 1
    shards = range(dataset.layout.shards)
    place = dataset.reference, str(root)
    tasks = [CodeTask(*place, shard, assignment.of_shard(shard), codes) for shard in shards]
    return run_tasks(executor, write_codes, tasks, "folds", progress)
