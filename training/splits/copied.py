"""The fold plan of a dataset of predictions: a copy of that of the runs, whose models have not seen the rows of a
fold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...storage.blocks.reader import BlockReader
from ...storage.blocks.writer import (
    WrittenShard,
    blocks_of,
    commit,
    create_arrays,
    remove_arrays,
    write_block_table,
    write_shard,
)
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.fold_plan import FoldPlan, open_plan
from ...storage.format import MANIFEST, PLAN_OF_RUNS, PLANS, Manifest
from ...storage.options import flag_of
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress, run_tasks
from .split import Split, SplitOptions, options_of


@dataclass(frozen=True)
class CopyTask:
    """Copy the codes of one shard of the plan at `source`."""

    source: str
    root: str
    shard: int


def copy_codes(task: CopyTask) -> WrittenShard:
    """Run a task."""
    plan = open_plan(task.source)
    specs = plan.manifest.arrays
    codes = BlockReader(plan, [spec.name for spec in specs]).read(plan.layout.blocks_of(task.shard))
    return write_shard(locate(task.root), plan.layout, specs, task.shard, codes)


def copy_plan(source: FoldPlan, dataset: Dataset, root: Place, executor: Executor, progress: Progress) -> FoldPlan:
    """Copy a plan to `root`, as one of a dataset with the same rows in the same layout. An existing copy is opened."""
    details: Mapping[str, Any] = {**source.manifest.details, "dataset": dataset.identity}
    if (root / MANIFEST).exists():
        plan = open_plan(root)
        if plan.manifest.details == details:
            return plan
        remove_arrays(root)
    specs, layout = source.manifest.arrays, source.layout
    create_arrays(root, layout, specs, {"foldstream": {"split": details["split"]}})
    tasks = [CopyTask(str(source.place), str(root), shard) for shard in range(layout.shards)]
    shards = run_tasks(executor, copy_codes, tasks, "folds", progress)
    for spec in specs:
        write_block_table(root, f"{spec.name}_counts", source.block_table(f"{spec.name}_counts"))
    manifest = Manifest("folds", layout, specs, tuple(shard.entry for shard in shards), dict(details))
    commit(root, manifest, blocks_of(shards, specs))
    return open_plan(root)


def plan_of_runs(dataset: Dataset) -> FoldPlan | None:
    """The folds of the runs whose predictions are features of a dataset; None for other datasets. Raises UsageError if
    they are missing."""
    if not dataset.schema.stacked:
        return None
    place = dataset.place / PLANS / PLAN_OF_RUNS
    if not (place / MANIFEST).exists():
        raise UsageError(
            f"{dataset.place} lacks the folds of the runs whose predictions it has; repeat the 'foldstream stack' "
            "command"
        )
    return open_plan(place)


def split_of_runs(plan: FoldPlan, options: SplitOptions, seed: int) -> Split:
    """The split of the runs. Raises UsageError for options that ask for another one."""
    split = Split.model_validate(plan.manifest.details["split"])
    own, given = options_of(split), options.part(SplitOptions)
    usual = SplitOptions().part(SplitOptions)
    differ = [name for name in given if given[name] not in (usual[name], own.get(name))]
    if differ:
        name = differ[0]
        raise UsageError(
            f"{flag_of(SplitOptions, name)} {given[name]}: the features are predictions of models that were trained "
            "with the folds of their runs, so only these folds keep held-out rows unseen; remove the option, or train "
            "the runs again with it"
        )
    return split
