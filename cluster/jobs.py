"""What users call besides the conversion: split, train, predict. The command line and `import foldstream` share it."""

import csv
import io
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

from ..pipeline.csv.row_batch import ABSENT
from ..pipeline.images.convert import convert_images as write_images
from ..pipeline.images.plan import ImageRequest
from ..pipeline.predictions.oof_table import WRITERS, write_table
from ..pipeline.tables.plan import ConvertRequest
from ..pipeline.tables.sources import find_sources
from ..pipeline.target.claim import PLAN
from ..storage.dataset import Dataset, open_arrays, open_dataset
from ..storage.errors import ConflictError, RowError, UsageError, check_choice, disk_in_words
from ..storage.files import exclusive, names_in, remove_tree, whole_file
from ..storage.fold_plan import PLANS, FoldPlan, open_plan
from ..storage.format import MANIFEST, WORK, Schema, keys_of
from ..storage.machine import parse_bytes
from ..storage.object_path import AnyPath, ObjectPath, locate
from ..storage.tasks import RUN, Executor, Progress, SerialExecutor
from ..training.config import TrainConfig, check_config, resolve_settings
from ..training.ensemble import check_ensemble
from ..training.models import check_model
from ..training.optimizer import try_recipe
from ..training.order import lane_count
from ..training.plan_folds import make_plan
from ..training.prediction import predict_rows
from ..training.run import RunFolder, RunJob, best_folder, is_done, load_job, name_folds
from ..training.saving import parse_saving
from ..training.split import Split, choose_split
from .callbacks import Callback, CallbackMaker, Callbacks, find_callback
from .conversion import SILENT, Listener, absolute, convert_request, dask_executor
from .dask_on_ray import workers_released
from .fold_mode import FOLD_MODES, Execution, choose_fold_mode, settle_fold_mode
from .grid import candidate_folder, expand_grid, write_grid
from .local_ray import ray_cluster, usual_workers
from .runs import begun_with, load_summary, merge_run, plan_run, read_run, train_folds

SHORTEST_HANG = 5.0  # seconds: below, what is only slow would count as hung
SMALL_WORK = 10_000_000  # numbers that are handled in this process: in about a second


def train(
    dataset: str | Path,
    run: str | Path,
    *,
    model: str = "digits-cnn",
    folds: int = 5,
    split: str = "auto",
    repeats: int = 1,
    holdout: float = 0.0,
    group_column: str | None = None,
    order_column: str | None = None,
    gap: float = 0.0,
    fold_column: str | None = None,
    plan: str | None = None,
    refit: bool = False,
    epochs: int = 10,
    batch_size: int = 128,
    workers: int | None = None,
    seed: int = 0,
    window: int = 8,
    memory: str | int | None = None,
    cache: str | int | None = None,
    fold_mode: str = "auto",
    max_retries: int = 2,
    hang_timeout: float = 30.0,
    checkpoint_every: str = "1 epoch",
    keep: int = 1,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[str | Callback] = (),
    listener: Listener = SILENT,
    client: Client | None = None,
) -> dict[str, Any]:
    """Train `folds` models on a dataset with `workers` data-parallel workers, and merge their out-of-fold predictions.
    Unless it is said there are two workers, or one where there is one GPU: each takes one.

    The folds are those of `split_rows`, or those of the dataset's `plan` of that name; `refit` trains one model more,
    on all rows but the holdout.
    `window` blocks of each lane are mixed at once; `memory` bounds what a worker's stream may hold ("2GB"), and
    `cache` what it may keep on local disk of a dataset in an object store. `fold_mode` "fused" trains all folds from
    one pass over the data, "runs" as many at once as the cluster has room for; both give the same weights. What fails
    is begun again `max_retries` times, and then the other folds go on; a worker that is silent for `hang_timeout`
    seconds counts as failed.
    A checkpoint is written after every `checkpoint_every`: "1 epoch", "500 steps", "10 minutes"; the last `keep` stay.
    `model` is a built-in name, "path/to/file.py:factory" or "package.module:factory"; `settings` are those of
    `--set`: the recipe's names (lr, optimizer, …) and the model's own; a list of values makes a grid, whose candidates
    are trained together. `callbacks` are told what happens: a `Callback`, or what `--callback` takes for one.
    Returns the summary: rows, metrics of each fold, spread, out-of-fold scores; of a grid the
    candidates' and the best one's name. A run that was cut short goes on from its last checkpoints by the same call;
    one that is complete returns at once. Raises UsageError before any worker starts.
    """
    opened, root = open_dataset(dataset), RunFolder(locate(run))
    if plan:
        chosen_split = named_split(opened, plan)
    else:
        columns = group_column, order_column, gap, fold_column
        chosen_split = choose_split(opened.schema, split, folds, seed, repeats, holdout, *columns)
    execution, candidates, makers = settle_training(
        model,
        workers,
        memory,
        cache,
        fold_mode,
        max_retries,
        hang_timeout,
        checkpoint_every,
        keep,
        settings,
        callbacks,
    )
    runs = {name: candidate_folder(root.root, name) for name in candidates}
    workers = execution.workers
    begun = filter(None, (begun_with(folder, workers) for folder in runs.values()))
    lanes, shares = next(begun, (lane_count(workers), workers))
    common = TrainConfig(model, chosen_split, epochs, batch_size, seed, window, lanes, shares, refit)
    configs, parameters = configure(candidates, common, opened.schema)
    models = len(candidates) * (chosen_split.folds * chosen_split.repeats + refit)
    mode, reason = choose_fold_mode(opened, models, common, execution, parameters)
    busy = f"{root.root} is being trained by another command; wait for it to end, or stop it"
    with disk_in_words(root.root), exclusive(root.root, busy):
        return _train_runs(opened, root, configs, candidates, execution, mode, reason, makers, listener, client)


def _train_runs(
    opened: Dataset,
    root: RunFolder,
    configs: Mapping[str, TrainConfig],
    candidates: Mapping[str, dict[str, Any]],
    execution: Execution,
    mode: str,
    reason: str,
    makers: Sequence[CallbackMaker],
    listener: Listener,
    client: Client | None,
) -> dict[str, Any]:
    """Plan, train and merge the runs of all candidates, as far as they are not done, and compare them."""
    runs = {name: candidate_folder(root.root, name) for name in configs}
    place = {"place": absolute(str(root.root))}
    with _task_executor(opened.rows, listener, client) as executor:
        jobs = {name: plan_run(runs[name], opened, configs[name], executor, listener.progress) for name in runs}
        executor.tell(RUN, place)
    titles = {name: str(folder.root).rpartition("/")[2] if name else "" for name, folder in runs.items()}
    named = {title: one for name in runs for title, one in name_folds(jobs[name], runs[name], titles[name]).items()}
    left = [title for title, one in named.items() if not is_done(one.run.fold(one.fold))]
    if 0 < len(left) < len(named):
        listener.announce("folds", f"{len(named) - len(left)} of {len(named)} are done already")
    new = not all(folder.summary.exists() for folder in runs.values())
    with Callbacks(makers if new else [], root.root) as happening:
        happening.tell("run_begun", str(root.root), left, describe(configs, candidates))
        if left:
            job = next(iter(jobs.values()))
            with workers_released(client), ray_cluster(execution.workers, execution.memory or 0) as dashboard:
                listener.announce("Ray dashboard", dashboard)
                mode, reason = settle_fold_mode(mode, reason, job, len(named), execution)
                listener.announce("fold mode", f"{mode}: {reason}")
                train_folds(root, named, job.config.epochs, replace(execution, fold_mode=mode), listener.progress)
        for folder in runs.values():
            if not folder.summary.exists():
                with _task_executor(opened.rows * opened.schema.outputs, listener, client) as executor:
                    executor.tell(RUN, place)
                    merge_run(folder, opened, executor, listener.progress)
        summaries = {name: load_summary(folder) for name, folder in runs.items()}
        result = write_grid(root.root, candidates, summaries) if len(runs) > 1 else summaries[""]
        happening.end(summaries[result.get("best", "")])
    listener.announce("report", str(RunFolder(best_folder(root.root)).page))
    return result


def settle_training(
    model: str,
    workers: int | None,
    memory: str | int | None,
    cache: str | int | None,
    fold_mode: str,
    max_retries: int,
    hang_timeout: float,
    checkpoint_every: str,
    keep: int,
    settings: Mapping[str, Any] | None,
    callbacks: Sequence[str | Callback],
) -> tuple[Execution, dict[str, dict[str, Any]], list[CallbackMaker]]:
    """How to train, the candidates' settings by their names, and what makes the callbacks, from arguments of `train`.

    Raises UsageError for what is wrong whatever the data are.
    """
    check_choice("--fold-mode", fold_mode, FOLD_MODES)
    workers = usual_workers() if workers is None else workers
    if workers < 1:
        raise UsageError(f"--workers {workers}: it must be at least 1")
    if max_retries < 0:
        raise UsageError(f"--max-retries {max_retries}: it must be at least 0")
    if hang_timeout < SHORTEST_HANG:
        raise UsageError(f"--hang-timeout {hang_timeout:g}: it must be at least {SHORTEST_HANG:g} seconds")
    bounds = parse_bytes(memory, "--memory"), parse_bytes(cache, "--cache")
    saving = parse_saving(checkpoint_every, keep)
    makers = [find_callback(one) if isinstance(one, str) else partial(_same, one) for one in callbacks]
    candidates = expand_grid(settings or {})
    for of_one in candidates.values():
        try_recipe(resolve_settings(model, of_one)[0])
    return Execution(workers, *bounds, max_retries, hang_timeout, fold_mode, saving), candidates, makers


def _same(callback: Callback) -> Callback:
    return callback


def describe(configs: Mapping[str, TrainConfig], candidates: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The configuration of a run; of a grid what is common to its candidates, and their settings."""
    value = next(iter(configs.values())).to_json()
    if len(configs) == 1:
        return value
    return {name: item for name, item in value.items() if name not in ("recipe", "model_settings")} | {
        "candidates": candidates
    }


def configure(
    candidates: Mapping[str, Mapping[str, Any]], common: TrainConfig, schema: Schema
) -> tuple[dict[str, TrainConfig], int]:
    """What each candidate trains, from what is `common` to all and its settings; and the parameters of the
    largest model.

    Raises UsageError for what cannot be trained on data with this schema.
    """
    configs, parameters = {}, 0
    for name, settings in candidates.items():
        recipe, own = resolve_settings(common.model, settings)
        configs[name] = replace(common, recipe=recipe, model_settings=own)
        check_config(configs[name], schema)
        parameters = max(parameters, check_model(common.model, schema.sample_shape, schema.outputs, own))
    return configs, parameters


def split_rows(
    dataset: str | Path,
    name: str = "default",
    *,
    folds: int = 5,
    split: str = "auto",
    seed: int = 0,
    repeats: int = 1,
    holdout: float = 0.0,
    group_column: str | None = None,
    order_column: str | None = None,
    gap: float = 0.0,
    fold_column: str | None = None,
    overwrite: bool = False,
    listener: Listener = SILENT,
    client: Client | None = None,
) -> FoldPlan:
    """Assign every row of a dataset to folds and keep that with the dataset as the plan `name`, or open it.

    `split` is kfold, stratified (alike in each class), group or stratified-group (all rows with one value of
    `group_column` together), time (along `order_column`, each fold trained on earlier rows, less a `gap` in the
    column's units), or column (the folds that `fold_column` names, -1 for rows that are never held out). `repeats`
    times over, each with other folds; a share `holdout` of the rows is seen by no model. Raises UsageError where the
    data cannot be split so, ConflictError where there is another plan of that name.
    """
    opened = open_dataset(dataset)
    columns = group_column, order_column, gap, fold_column
    wanted = choose_split(opened.schema, split, folds, seed, repeats, holdout, *columns)
    root = plan_place(opened, name)
    if (root / MANIFEST).exists() and not overwrite and named_split(opened, name) != wanted:
        raise ConflictError(f"{root} holds another plan; choose another name, or replace it with --overwrite")
    with _task_executor(opened.rows, listener, client) as executor:
        return make_plan(opened, wanted, root, executor=executor, progress=listener.progress)


def plan_place(dataset: Dataset, name: str) -> AnyPath:
    """Where a dataset keeps its fold plan of that name. Raises UsageError for what is no name."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UsageError(f"«{name}» is no name for a plan; use letters, digits, dashes and dots")
    return dataset.place / PLANS / name


def named_split(dataset: Dataset, name: str) -> Split:
    """The split of a dataset's plan. Raises UsageError where there is none of that name."""
    place = plan_place(dataset, name)
    if not (place / MANIFEST).exists():
        there = names_in(dataset.place / PLANS) or ["none"]
        raise UsageError(
            f"{dataset.place} has no plan «{name}», it has {', '.join(there)}; «foldstream split» makes one"
        )
    return Split.from_json(open_plan(place).manifest.details["split"])


@contextmanager
def _task_executor(size: int, listener: Listener, client: Client | None) -> Iterator[Executor]:
    """Dask, or where there is little to do (`size` numbers, a second's work) this process: a cluster takes seconds to
    start."""
    if client is None and size <= SMALL_WORK:
        yield SerialExecutor()
    else:
        with dask_executor(listener, client) as executor:
            yield executor


def predict(
    run: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    columns: Sequence[str] | None = None,
    id: str | None = None,
    ensemble: str = "mean",
    listener: Listener = SILENT,
    client: Client | None = None,
) -> int:
    """Predict a dataset, a CSV file with the run's feature columns, or images, by all folds; write a CSV.

    `ensemble` says how the folds' predictions become one: mean, median, vote, or weighted by their held-out losses; or
    refit, for the model of a run with `refit` that was trained on all rows.
    The CSV has the row's id (the value of the `id` column, or of the one that names the training rows if it is there,
    or its number counted from 1) and the most probable class, or the value of each label. `columns` are its names: by
    default ImageId and Label, or
    ImageId and the labels where there are several. Of images it has each one's path, its class and the probability
    of that, or its values. Returns the rows written.
    """
    folder, _ = read_run(locate(run))
    job = load_job(folder)
    usual = default_columns(job.schema)
    names = tuple(columns or usual)
    if len(names) != len(usual):
        raise UsageError(f"--columns {','.join(names)}: name {len(usual)} columns, as in {','.join(usual)}")
    check_ensemble(ensemble, bool(job.schema.classes), job.config.refit)
    target = new_file(out)
    if id and job.schema.image:
        raise UsageError("--id names a column, and images have none; their paths name them")
    with disk_in_words(target), _source_dataset(job, source, target, id, listener, client) as dataset:
        check_same_features(job.schema, dataset.schema, source)
        predicted = predict_rows(job, folder, dataset, ensemble)
        return write_predictions(job.schema, predicted, dataset.rows, target, names, listener.progress)


def write_oof(run: str | Path, out: str | Path, *, listener: Listener = SILENT) -> int:
    """Write the out-of-fold predictions of a complete run as a table: OUT.csv or OUT.parquet.

    A row of it has the row's name, its label, how many models have predicted it without having seen it, and their
    mean: the class and each class's probability, or each label's value. Returns the rows written.
    """
    folder, _ = read_run(locate(run))
    target = new_file(out)
    check_choice("the ending of OUT", Path(str(target)).suffix, tuple(WRITERS))
    predictions = open_arrays(folder.oof, "predictions")
    with disk_in_words(target):
        return write_table(load_job(folder).open_data(), predictions, target, listener.progress)


def new_file(out: str | Path) -> AnyPath:
    target = locate(out)
    if isinstance(target, Path) and target.is_dir():
        raise UsageError(f"{out} is a folder; name a file in it")
    return target


def default_columns(schema: Schema) -> tuple[str, ...]:
    """The names of a CSV of predictions."""
    if schema.image:
        return ("path", *schema.labels, "probability") if schema.classes else ("path", *schema.labels)
    return ("ImageId", *schema.labels) if len(schema.labels) > 1 else ("ImageId", "Label")


@contextmanager
def _source_dataset(
    job: RunJob, source: str | Path, target: AnyPath, id: str | None, listener: Listener, client: Client | None
) -> Iterator[Dataset]:
    """The source if it is a dataset, else its conversion for as long as it is needed, beside the target."""
    place = locate(source)
    if (place / MANIFEST).exists() or (place / WORK / PLAN).exists():
        if id:
            raise UsageError(f"--id names a column of a CSV file, and {source} is a dataset, which has its rows' names")
        yield open_dataset(place)
        return
    scratch = _scratch(target)
    try:
        if form := job.schema.image:
            images = ImageRequest((str(place),), form, labelled=False, shuffle=None)
            with disk_in_words(scratch), dask_executor(listener, client) as executor:
                yield write_images(images, scratch / "source.zarr", executor, listener.progress)
        else:
            request = ConvertRequest(find_sources([str(source)]), id=id, like=job.schema)
            yield _convert_source(request, scratch / "source.zarr", job, listener, client)
    finally:
        remove_tree(scratch)


def _convert_source(
    request: ConvertRequest, out: AnyPath, job: RunJob, listener: Listener, client: Client | None
) -> Dataset:
    """Convert what is to be predicted. Raises RowError with a remedy of which `predict` has no option itself."""
    try:
        return convert_request(request, out, False, listener, client)
    except RowError as error:
        convert = f"«foldstream convert csv FILE OUT.zarr --like {job.dataset}»"
        remedy = f"mend the row, or use {convert}, which has options for such rows, and predict OUT.zarr"
        if error.reason == ABSENT:
            remedy = "fill it, or convert the training data with --missing mean, which fills such, and train again"
        raise RowError(error.source, error.line, error.column, error.reason, remedy, error.unit) from None


def _scratch(target: AnyPath) -> AnyPath:
    """A new place beside a file that is to be written."""
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    return ObjectPath(target.bucket, f"{target.key}.{uuid.uuid4().hex}")


def check_same_features(expected: Schema, found: Schema, source: str | Path) -> None:
    """Raise UsageError unless a dataset has the columns and the shape that a run was trained on."""
    kinds = [(one.features, one.sample_shape, one.categories, one.dates) for one in (expected, found)]
    if kinds[0] != kinds[1]:
        missing = [name for name in expected.features if name not in found.features]
        told = f"samples of shape {found.sample_shape} where the run has {expected.sample_shape}"
        if missing:
            told = f"it lacks {', '.join(missing[:5])}" + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        elif expected.features != found.features:
            told = "they are others, or in another order"
        elif expected.sample_shape == found.sample_shape:
            told = "its categories or dates became other numbers"
        raise UsageError(
            f"{source} does not have the run's columns: {told}; give predict the source itself, or convert that with "
            "--like and the dataset that the run was trained on"
        )


def write_predictions(
    schema: Schema,
    predicted: Iterable[tuple[dict[str, np.ndarray], np.ndarray]],
    rows: int,
    target: AnyPath,
    columns: Sequence[str],
    progress: Progress,
) -> int:
    """Write the predictions of all rows, as `predict_rows` gives them, as a CSV, atomically."""
    done = 0
    with whole_file(target) as file:
        file.write(to_csv([columns]))
        for arrays, predictions in predicted:
            file.write(to_csv(zip(row_names(arrays), *decide(schema, predictions), strict=True)))
            done += len(predictions)
            progress("predict", done, rows, "rows")
    return done


def to_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    """Rows as lines of CSV."""
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()


def row_names(arrays: dict[str, np.ndarray]) -> list[Any]:
    """What the first column calls the rows: the user's key, or the row's number from 1."""
    return keys_of(arrays["key"]) if "key" in arrays else list(arrays["id"] + 1)


def decide(schema: Schema, predictions: np.ndarray) -> list[list[Any]]:
    """For each label the rows' values, or for the one that has classes the name of the most probable one; of images
    with its probability."""
    if schema.classes:
        names = [schema.classes[code] for code in predictions.argmax(axis=1)]
        return [names, [f"{most:.4f}" for most in predictions.max(axis=1)]] if schema.image else [names]
    return [list(values) for values in predictions.T]
