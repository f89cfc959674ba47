"""Training: a request, checked against the data, becomes the runs of its candidates, which are trained and merged."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import disk_in_words
from ...storage.format import Schema
from ...storage.places.locate import locate
from ...storage.tasks import RUN
from ...training.config import TrainConfig, TrainingOptions
from ...training.model.optimizer import check_optimizer
from ...training.run import RunFold, RunFolder, best_folder, is_done, name_folds
from ...training.settings import check_config, resolve_settings
from ...training.splits.split import Split
from ...training.stream.order import lane_count
from ...training.zoo.factory import ModelCost, check_model
from ..callbacks.callback import Callback, CallbackFactory, Callbacks, find_callback
from ..dask.executor import job_executor
from ..requests import Session, TrainRequest
from ..runs.fold_mode import FoldMode, choose_fold_mode
from ..runs.grid import candidate_folder, expand_grid, write_grid
from ..runs.here import ROOM, train_units_here
from ..runs.run import Trainers, load_lanes, load_summary, prepare_run, train_folds
from ..runs.workers import USUAL_WORKERS, choose_workers, shares_of
from .conversion import absolute
from .entry import entry
from .split import split_of
from .summary import merge_run


class TrainCall(TrainRequest, Session):
    """The keywords of `foldstream.train`."""


@dataclass(frozen=True)
class Training:
    """A request that was checked against its data: the runs of all candidates, by name, and what they train."""

    request: TrainRequest
    dataset: Dataset
    root: RunFolder
    candidates: dict[str, dict[str, Any]]
    configs: dict[str, TrainConfig]
    mode: FoldMode
    factories: list[CallbackFactory]

    @property
    def runs(self) -> dict[str, RunFolder]:
        """The folders of the candidates' runs."""
        return {name: candidate_folder(self.root.root, name) for name in self.candidates}


def run_training(request: TrainRequest, session: Session) -> dict[str, Any]:
    """Train a model for each fold, and merge their out-of-fold predictions; see `train`."""
    training = check_training(request)
    root = training.root.root
    busy = f"{root} is being trained by another command; wait for it to end, or stop it"
    with disk_in_words(root), root.lock(busy):
        return train_runs(training, session)


@entry(TrainCall, TrainRequest)
def train(request: TrainRequest, session: Session) -> dict[str, Any]:
    """Train a model for each fold with Ray Train, and merge their out-of-fold predictions.

    A run that was interrupted resumes from its last checkpoints by the same call; a complete one returns at once. The
    result does not depend on the number of workers, the fold mode, or interruptions.

    Args:
        dataset: Dataset to train on.
        run: Folder of the run, local or in an object store.
        model: Built-in name, "path/to/file.py:factory" or "package.module:factory".
        settings: Settings of the recipe (lr, optimizer, …) and of the model. A list of values makes a grid, whose
            candidates are trained together.
        callbacks: `Callback` objects, or text as `--callback` takes it.
        listener: Notified of progress and of the dashboards' addresses.
        client: Dask client for the merge; by default Dask starts here where there is much to do.
        **options: All other options of `foldstream train`; `foldstream train --help` describes them.

    Returns:
        The summary: rows, the metrics of each fold, their spread, and out-of-fold scores; for a grid the candidates and
        the name of the best one.

    Raises:
        UsageError: An option does not fit, before any worker starts.
        ConflictError: The folder holds another run.
        RunError: Folds failed more often than they are retried.

    Example:
        >>> summary = fs.train("digits.zarr", "runs/digits", model="digits-cnn", folds=5)
        >>> summary["out_of_fold"]["accuracy"]
    """
    return run_training(request, session)


def check_training(request: TrainRequest) -> Training:
    """Check a request against its data. Raises UsageError."""
    dataset, root = open_dataset(str(request.dataset)), RunFolder(locate(str(request.run)))
    split = split_of(request, dataset)
    factories = callback_factories(request)
    candidates = settle_candidates(request)
    folders = (candidate_folder(root.root, name) for name in candidates)
    existing = filter(None, (load_lanes(folder, request.world_size) for folder in folders))
    shares = shares_of(request.workers)
    lanes, shares = next(existing, (lane_count(shares), shares))
    common = common_config(request, split, lanes, shares)
    configs, cost = configure(candidates, common, dataset.schema)
    folds = split.folds * split.repeats + request.refit
    if request.workers is None:
        rows = dataset.rows * request.epochs * folds * len(candidates)
        request = request.model_copy(update={"workers": choose_workers(rows * cost.seconds)})
    mode = choose_fold_mode(dataset, len(candidates) * folds, common, request, cost.parameters)
    return Training(request, dataset, root, candidates, configs, mode, factories)


def settle_candidates(request: TrainRequest) -> dict[str, dict[str, Any]]:
    """The candidates' settings by their names. Raises UsageError for settings that are wrong independently of the
    data."""
    candidates = expand_grid(request.settings or {})
    for settings in candidates.values():
        check_optimizer(resolve_settings(request.model, settings)[0])
    return candidates


def callback_factories(request: TrainRequest) -> list[CallbackFactory]:
    """What makes the callbacks of a request. Raises UsageError for one that cannot be found."""
    return [find_callback(one) if isinstance(one, str) else partial(_same, one) for one in request.callbacks]


def _same(callback: Callback) -> Callback:
    return callback


def common_config(request: TrainRequest, split: Split, lanes: int, shares: int) -> TrainConfig:
    """What all candidates of a request have in common."""
    return TrainConfig(**request.part(TrainingOptions), split=split, lanes=lanes, shares=shares)


def configure(
    candidates: Mapping[str, Mapping[str, Any]], common: TrainConfig, schema: Schema
) -> tuple[dict[str, TrainConfig], ModelCost]:
    """What each candidate trains, from what is `common` to all and its settings; and the cost of the largest model.

    Raises UsageError for what cannot be trained on data with this schema.
    """
    configs, costs = {}, []
    for name, settings in candidates.items():
        recipe, own = resolve_settings(common.model, settings)
        configs[name] = common.model_copy(update={"recipe": recipe, "model_settings": own})
        check_config(configs[name], schema)
        costs.append(check_model(common.model, schema.sample_shape, schema.outputs, own))
    return configs, ModelCost(max(one.parameters for one in costs), max(one.seconds for one in costs))


def train_runs(training: Training, session: Session) -> dict[str, Any]:
    """Plan, train and merge the runs of all candidates, as far as they are not done, and compare them."""
    runs, root, listener = training.runs, training.root.root, session.listener
    named = plan_runs(training, session)
    left = [title for title, one in named.items() if not is_done(one.run.fold(one.fold))]
    if 0 < len(left) < len(named):
        listener.announce("folds", f"{len(named) - len(left)} of {len(named)} are complete already")
    incomplete = {name: folder for name, folder in runs.items() if not folder.summary.exists()}
    with Callbacks(training.factories if incomplete else [], root) as callbacks:
        callbacks.notify("run_begun", str(root), left, describe(training))
        if left:
            train_left(training, named, session)
        for folder in incomplete.values():
            merge(training, folder, session)
        summaries = {name: load_summary(folder) for name, folder in runs.items()}
        result = write_grid(root, training.candidates, summaries) if len(runs) > 1 else summaries[""]
        callbacks.finish(summaries[result.get("best", "")])
    listener.announce("report", str(RunFolder(best_folder(root)).page))
    return result


def plan_runs(training: Training, session: Session) -> dict[str, RunFold]:
    """Assign the folds of all runs. Returns the folds by their names."""
    dataset, runs = training.dataset, training.runs
    with job_executor(session.listener, session.client) as executor:
        jobs = {
            name: prepare_run(runs[name], dataset, config, executor, session.listener.progress)
            for name, config in training.configs.items()
        }
        executor.publish(RUN, _run_page(training))
    titles = {name: str(folder.root).rpartition("/")[2] if name else "" for name, folder in runs.items()}
    return {title: one for name in runs for title, one in name_folds(jobs[name], runs[name], titles[name]).items()}


def train_left(training: Training, folds: Mapping[str, RunFold], session: Session) -> None:
    """Train the folds that are not complete: in this process, or by workers on the Ray cluster of the job."""
    if not training.request.workers:
        how = f"in this process; --workers {USUAL_WORKERS} starts worker processes instead"
        session.listener.announce("training", how)
        train_units(training, folds, session, Trainers(training.mode, ROOM, train_units_here))
        return
    from .on_ray import trainers_on_ray  # Ray takes a second to load

    with trainers_on_ray(training.request, training.mode, folds, session) as trainers:
        train_units(training, folds, session, trainers)


def train_units(training: Training, folds: Mapping[str, RunFold], session: Session, trainers: Trainers) -> None:
    """Train the folds that are not complete, in units that follow from the fold mode."""
    mode, listener = trainers.mode, session.listener
    listener.announce("fold mode", f"{mode.name}: {mode.reason}")
    # Callbacks stay in this process: workers get the rest of the request as it is.
    settled = training.request.model_copy(update={"fold_mode": mode.name, "callbacks": ()})
    train_folds(training.root, folds, settled, trainers, listener.progress)


def merge(training: Training, run: RunFolder, session: Session) -> None:
    """Merge the predictions of a run whose folds are complete."""
    dataset = training.dataset
    with job_executor(session.listener, session.client) as executor:
        executor.publish(RUN, _run_page(training))
        merge_run(run, dataset, executor, session.listener.progress)


def _run_page(training: Training) -> dict[str, str]:
    """Where the dashboard's page finds the run."""
    return {"place": absolute(str(training.root.root))}


def describe(training: Training) -> dict[str, Any]:
    """The configuration of a run; of a grid what is common to its candidates, and their settings."""
    value = next(iter(training.configs.values())).model_dump()
    if len(training.configs) == 1:
        return value
    return {name: item for name, item in value.items() if name not in ("recipe", "model_settings")} | {
        "candidates": training.candidates
    }
