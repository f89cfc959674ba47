"""What is fitted on the training rows of each model of a fold plan: the statistics of the features and the targets.

One pass over the data computes the moments of the rows of every code. The moments of a model's training rows are merged
from these, always in the same order, and never computed as the total minus the held-out rows, because the held-out
rows would then leak through rounding.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError
from ...storage.fold_plan import FoldPlan, ModelRows, open_plan
from ...storage.format.arrays import TABLE
from ...storage.format.schema import Schema
from ...storage.format.statistics import Statistics
from ...storage.moments.moments import Moments, parts_merged
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress, ordered_results
from .inputs import has_columns
from .medians import measure_medians
from .reading import by_channel, read_coded

MOMENTS, MEDIANS = "moments.npz", "medians.npz"  # in the plan's folder

CodeSums = dict[str, Moments | np.ndarray]
"""For each array of codes, the moments of the features for each code, (codes, channels), as `fold` or `fold_1`; of the
columns beside images, (codes, columns), as `fold/table`; for regression also of the targets, (codes, labels), as
`fold/y`, and for windows over time series of their differences from the last known value, as `fold/change`; for
classification the number of rows of each class, (codes, classes) int64, as `fold/classes`; and with sample weights
their sum and the number of rows, (codes, 2), as `fold/weights`."""
COUNTS = "classes", "weights"  # what is not moments
CHANGE = "change"


@dataclass(frozen=True)
class MomentsTask:
    """Compute the moments of one shard."""

    dataset: str
    plan: str
    shard: int


def measure_shard(task: MomentsTask) -> CodeSums:
    """The moments of a shard's rows by code, some blocks at a time."""
    dataset, plan = open_dataset(task.dataset), open_plan(task.plan)
    schema, classes = dataset.schema, len(dataset.schema.classes)
    arrays = tuple(spec.name for spec in plan.manifest.arrays)
    # A held-out value may decide the type of a table, as a missing one does, but no bit of another fold's statistics.
    as_numbers = has_columns(schema)
    total: CodeSums = {}
    wanted = (schema.measured, TABLE, "y", schema.weights)
    names = [spec.name for spec in dataset.manifest.arrays if spec.name in wanted]
    for rows, codes in read_coded(dataset, plan, task.shard, names, arrays):
        y, weights = rows.get("y"), rows.get(schema.weights or "")
        if weights is not None:
            check_weights(schema, weights)
        for name in arrays:
            own, parts = codes[name], plan.codes(name)
            found: CodeSums = {name: moments(by_channel(rows[schema.measured]), own, parts, weights, as_numbers)}
            if schema.table:
                found[f"{name}/{TABLE}"] = moments(by_channel(rows[TABLE]), own, parts, weights)
            if y is not None and classes:
                pairs = own.astype(np.int64) * classes + y
                found[f"{name}/classes"] = np.bincount(pairs, minlength=parts * classes).reshape(parts, classes)
            elif y is not None and schema.task != "segmentation":
                found[f"{name}/y"] = moments(y.reshape(len(y), schema.outputs, -1), own, parts, weights)
            if y is not None and schema.windows:
                change = y.reshape(len(y), -1, 1) - rows["x"][:, :1, -1:]
                found[f"{name}/{CHANGE}"] = moments(change, own, parts, weights)
            if weights is not None:
                sums = (np.bincount(own, weights, parts), np.bincount(own, minlength=parts))
                found[f"{name}/weights"] = np.stack(sums, axis=1)
            total = merge_each(total, found)
    return total


def moments(
    values: np.ndarray, codes: np.ndarray, parts: int, weights: np.ndarray | None, as_numbers: bool = False
) -> Moments:
    """The moments of each part of some rows: weighted if the rows have weights, and computed in the fastest way that
    the dtype allows, unless `as_numbers` is set."""
    if weights is None and not as_numbers:
        return Moments.of_parts(values, codes, parts)
    return Moments.of_numbers(values, codes, parts, weights)


def check_weights(schema: Schema, weights: np.ndarray) -> None:
    """Raise UsageError for a weight that is missing, negative or infinite."""
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        raise UsageError(
            f"column '{schema.role('weight')}' contains the weight {weights[wrong][0]:g}, but weights must be 0 or "
            "more; fix the source, or convert it with another --weight column"
        )


def merge_each(total: CodeSums, found: CodeSums) -> CodeSums:
    """Merge sums by name."""
    return total | {name: _merged(total[name], sums) if name in total else sums for name, sums in found.items()}


def _merged(one: Moments | np.ndarray, other: Moments | np.ndarray) -> Moments | np.ndarray:
    if isinstance(one, Moments) and isinstance(other, Moments):
        return one.merged(other)
    assert isinstance(one, np.ndarray)
    assert isinstance(other, np.ndarray)
    total: np.ndarray = one + other
    return total


def fit_plan(
    dataset: Dataset,
    plan: FoldPlan,
    executor: Executor,
    progress: Progress,
    like: FoldPlan | None = None,
    medians: bool = False,
) -> None:
    """Compute the moments of the rows of every code of a plan, with `medians` also the medians of the rows of every
    model, and store them with the plan, unless this has already been done or the plan `like` has them."""
    for name in (MOMENTS, MEDIANS) if medians else (MOMENTS,):
        if (plan.place / name).exists():
            continue
        if like and like.identity == plan.identity and (like.place / name).exists():
            (plan.place / name).write((like.place / name).read_bytes())
        elif name == MOMENTS:
            total = _measure(dataset, plan, executor, progress)
            tables = {key: sums.table() if isinstance(sums, Moments) else sums for key, sums in total.items()}
            _store(plan.place / name, tables)
        else:
            models = [plan.model(number) for number in range(len(plan.models) + 1)]
            _store(plan.place / name, {"median": measure_medians(dataset, plan, models, executor, progress)})


def is_fitted(folds: Place) -> bool:
    """Whether the statistics of a plan in a run's folder have been computed."""
    return (folds / MOMENTS).exists()


def _measure(dataset: Dataset, plan: FoldPlan, executor: Executor, progress: Progress) -> CodeSums:
    total: CodeSums = {}
    tasks = [MomentsTask(dataset.reference, str(plan.place), shard) for shard in range(dataset.layout.shards)]
    for found in ordered_results(executor, measure_shard, tasks, "statistics", progress):
        total = merge_each(total, found)
    return total


def _store(place: Place, arrays: dict[str, np.ndarray]) -> None:
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    place.write(data.getvalue())


@lru_cache(maxsize=8)
def _load(place: Place, identity: str) -> dict[str, np.ndarray]:
    """The arrays in a file of the plan with this identity."""
    with np.load(io.BytesIO(place.read_bytes()), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def load_sums(plan: FoldPlan) -> CodeSums:
    """The sums by code of a plan. `fit_plan` must have been called."""
    stored = _load(plan.place / MOMENTS, plan.identity)
    return {
        name: table if name.rpartition("/")[2] in COUNTS else Moments.from_table(table)
        for name, table in stored.items()
    }


def _moments(plan: FoldPlan, rows: ModelRows, array: str = "x") -> Moments:
    """The moments of the features in an array, over the rows that a model trains on, (channels,)."""
    sums = load_sums(plan)[rows.array if array == "x" else f"{rows.array}/{array}"]
    assert isinstance(sums, Moments)
    return parts_merged(sums, rows.train)


def fitted_statistics(plan: FoldPlan, model: int) -> Statistics:
    """The statistics of the rows that a model of a plan trains on. `fit_plan` must have been called."""
    rows, sums = plan.model(model), load_sums(plan)
    targets, classes, weights = (sums.get(f"{rows.array}/{name}") for name in ("y", *COUNTS))
    weight, count = weights[list(rows.train)].sum(axis=0) if isinstance(weights, np.ndarray) else (1.0, 1.0)
    medians = (plan.place / MEDIANS).exists()
    median = _load(plan.place / MEDIANS, plan.identity)["median"][model].tolist() if medians else ()
    table = None
    if f"{rows.array}/{TABLE}" in sums:
        table, median = Statistics.of(_moments(plan, rows, TABLE), None, median=median), ()
    return Statistics.of(
        _moments(plan, rows),
        parts_merged(targets, rows.train) if isinstance(targets, Moments) else None,
        median=median,
        class_rows=classes[list(rows.train)].sum(axis=0).tolist() if isinstance(classes, np.ndarray) else (),
        weight=float(weight / count),
        table=table,
    )
