"""What users call besides the conversion: split, train, predict. The command line and `import foldstream` share it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError, check_choice, disk_in_words
from ...storage.files import exclusive
from ...storage.format import Schema
from ...storage.machine import parse_bytes
from ...storage.object_path import locate
from ...storage.tasks import RUN
from ...training.config import TrainConfig, check_config, resolve_settings
from ...training.engine.checkpoint_policy import parse_checkpoint_policy
from ...training.model.optimizer import try_recipe
from ...training.run import RunFolder, best_folder, is_done, name_folds
from ...training.splits.split import choose_split
from ...training.stream.order import lane_count
from ...training.zoo.factory import check_model
from ..callbacks.callback import Callback, CallbackMaker, Callbacks, find_callback
from ..dask.executor import _task_executor
from ..dask.on_ray import workers_released
from ..listener import SILENT, Listener
from ..ray.job_cluster import ray_cluster, usual_workers
from ..runs.fold_mode import FOLD_MODES, Execution, choose_fold_mode, settle_fold_mode
from ..runs.grid import candidate_folder, expand_grid, write_grid
from ..runs.run import begun_with, load_summary, plan_run, train_folds
from .conversion import absolute
from .split import named_split
from .summary import merge_run

SHORTEST_HANG = 5.0  # seconds: below, what is only slow would count as hung


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
    checkpoints = parse_checkpoint_policy(checkpoint_every, keep)
    makers = [find_callback(one) if isinstance(one, str) else partial(_same, one) for one in callbacks]
    candidates = expand_grid(settings or {})
    for of_one in candidates.values():
        try_recipe(resolve_settings(model, of_one)[0])
    return Execution(workers, *bounds, max_retries, hang_timeout, fold_mode, checkpoints), candidates, makers


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
