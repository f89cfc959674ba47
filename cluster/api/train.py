"""Training as a user asks for it. What metadata tell is told at once: torch, Ray and Dask, which take seconds to load,
are imported only once a request fits its data and its run is not complete."""

import gc
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError, disk_in_words
from ...storage.machine import no_garbage_collection
from ...storage.places.json_files import read_json
from ...storage.places.locate import locate
from ...training.config import TrainConfig, TrainingOptions
from ...training.ray.helper import Helper
from ...training.run import RunFolder, best_folder
from ...training.settings import check_task, recipe_of, sort_settings
from ...training.splits.split import Split
from ...training.stream.order import check_batch_size, lane_count
from ..callbacks.callback import Callback, CallbackFactory, find_callback
from ..listener import Listener
from ..requests import Session, TrainRequest
from ..runs.grid import candidate_folder, expand_grid, write_grid
from ..runs.run import is_complete, load_lanes, load_summary
from ..runs.workers import choose_workers, helper_count, shares_of
from .entry import entry
from .split import split_of


class TrainCall(TrainRequest, Session):
    """The keywords of `foldstream.train`."""


@dataclass(frozen=True)
class RequestedTraining:
    """A request as far as metadata can check it: its data and split, the folder of its run, the settings of its
    candidates by their names, and the lanes and shares of each batch."""

    request: TrainRequest
    dataset: Dataset
    split: Split
    root: RunFolder
    candidates: dict[str, dict[str, Any]]
    factories: list[CallbackFactory]
    lanes: int
    shares: int

    @property
    def runs(self) -> dict[str, RunFolder]:
        """The folders of the candidates' runs."""
        return {name: candidate_folder(self.root.root, name) for name in self.candidates}

    @property
    def models(self) -> int:
        """The number of models of all candidates."""
        return len(self.candidates) * (self.split.folds * self.split.repeats + self.request.refit)


def run_training(request: TrainRequest, session: Session) -> dict[str, Any]:
    """Train a model for each fold, and merge their out-of-fold predictions; see `train`."""
    asked = check_request(request)
    root = asked.root.root
    if result := complete_result(asked, session.listener):
        return result
    session.listener.announce("training", f"{asked.models} models of {request.model} on {asked.dataset.rows:,} rows")
    busy = f"{root} is being trained by another command; wait for it to end, or stop it"
    with disk_in_words(root), root.lock(busy), ExitStack() as stack:
        stack.callback(gc.unfreeze)
        count = helper_count(request, asked.dataset, asked.models)
        helpers = [stack.enter_context(closing(Helper())) for _ in range(count)]
        with no_garbage_collection():
            from .training import check_training, train_runs  # only now: the others load torch meanwhile

            training = check_training(asked, helpers)
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


def check_request(request: TrainRequest) -> RequestedTraining:
    """Check a request against the metadata of its dataset and its run. Raises UsageError."""
    dataset, root = open_dataset(str(request.dataset)), RunFolder(locate(str(request.run)))
    check_task(dataset.schema)
    split, factories, candidates = split_of(request, dataset), callback_factories(request), check_settings(request)
    folders = (candidate_folder(root.root, name) for name in candidates)
    existing = filter(None, (load_lanes(folder, request.world_size) for folder in folders))
    shares = shares_of(choose_workers(request, dataset))
    lanes, shares = next(existing, (lane_count(shares), shares))
    check_batch_size(request.batch_size, lanes)
    return RequestedTraining(request, dataset, split, root, candidates, factories, lanes, shares)


def check_settings(request: TrainRequest) -> dict[str, dict[str, Any]]:
    """The candidates' settings by their names. Raises UsageError for a recipe that is not valid."""
    candidates = expand_grid(request.settings or {})
    for settings in candidates.values():
        recipe_of(request.model, settings)
    return candidates


def callback_factories(request: TrainRequest) -> list[CallbackFactory]:
    """What makes the callbacks of a request. Raises UsageError for one that cannot be found."""
    return [find_callback(one) if isinstance(one, str) else partial(_same, one) for one in request.callbacks]


def _same(callback: Callback) -> Callback:
    return callback


def common_config(request: TrainRequest, split: Split, lanes: int, shares: int) -> TrainConfig:
    """What all candidates of a request have in common."""
    return TrainConfig(**request.part(TrainingOptions), split=split, lanes=lanes, shares=shares)


def complete_result(asked: RequestedTraining, listener: Listener) -> dict[str, Any] | None:
    """The result that is recorded if exactly this training is complete. Otherwise None: to tell what differs takes a
    closer look."""
    common = common_config(asked.request, asked.split, asked.lanes, asked.shares)
    for name, run in asked.runs.items():
        if not run.summary.exists():
            return None
        try:
            own = read_json(run.job)["config"]["model_settings"]  # of the model, which is not loaded
            recipe, settings = sort_settings(common.model, asked.candidates[name], own)
            config = common.model_copy(update={"recipe": recipe, "model_settings": settings})
            if not is_complete(run, asked.dataset, config):
                return None
        except (UsageError, FileNotFoundError):
            return None
    return finished_result(asked, listener)


def finished_result(asked: RequestedTraining, listener: Listener) -> dict[str, Any]:
    """The summary of the run, or of a grid with all of its candidates, once all runs are complete."""
    root, summaries = asked.root.root, {name: load_summary(run) for name, run in asked.runs.items()}
    result = write_grid(root, asked.candidates, summaries) if len(summaries) > 1 else summaries[""]
    listener.announce("report", str(RunFolder(best_folder(root)).page))
    return result
