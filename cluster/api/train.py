"""Train a run. Problems that the metadata reveals are reported at once, before torch, Ray and Dask are imported."""

import gc
from contextlib import ExitStack, closing
from typing import Any

from ...storage.errors import disk_in_words
from ...storage.machine import no_garbage_collection
from ...training.ray.helper import Helper
from ...training.run import RunFolder, best_folder
from ...training.stopping import stoppable
from ..requests import Session, TrainRequest
from ..runs.workers import helper_count
from .entry import entry
from .training_request import RequestedTraining, check_request, complete_result


class TrainCall(TrainRequest, Session):
    """The keywords of `foldstream.train`."""


def run_training(request: TrainRequest, session: Session) -> dict[str, Any]:
    """Train a model for each fold and merge the out-of-fold predictions; see `train`."""
    asked = check_request(request)
    session.listener.announce("training", f"{asked.config.model} on {request.dataset}, in {request.run}")
    result = complete_result(asked) or _train(asked, session)
    session.listener.announce("report", str(RunFolder(best_folder(asked.root.root)).page))
    return result


def _train(asked: RequestedTraining, session: Session) -> dict[str, Any]:
    """Train the folds that are not complete."""
    root = asked.root.root
    busy = f"{root} is being trained by another command; wait for it to finish, or stop it"
    with ExitStack() as stack:
        stack.enter_context(stoppable())
        stack.callback(gc.unfreeze)
        count = 0 if asked.stacked else helper_count(asked.request, asked.dataset, asked.models, asked.config.epochs)
        helpers = [stack.enter_context(closing(Helper())) for _ in range(count)]
        with no_garbage_collection():
            from .training import check_training, train_runs  # only now: the others load torch meanwhile

            training = check_training(asked, helpers)
        with disk_in_words(root), root.lock(busy):
            return train_runs(training, session)


@entry(TrainCall, TrainRequest)
def train(request: TrainRequest, session: Session) -> dict[str, Any]:
    """Train a model for each fold with Ray Train and merge the out-of-fold predictions.

    The same call resumes an interrupted run from its last checkpoints, and returns immediately if the run is complete.
    The result does not depend on the number of workers, the fold mode or interruptions.

    Args:
        dataset: Dataset to train on.
        run: Folder of the run, local or in an object store.
        model: Built-in name, "path/to/file.py:factory" or "package.module:factory", or the function or class itself:
            one that other processes can find, or that this script or notebook defines. A `functools.partial` of it
            gives settings.
        settings: Settings of the recipe (lr, optimizer, …) and of the model. A list of values makes a grid, whose
            candidates are trained together.
        callbacks: `Callback` objects, or strings as accepted by `--callback`.
        listener: Notified of progress and of the dashboards' addresses.
        client: Dask client for the merge; by default Dask starts in this process if there is enough work.
        **options: All other options of `foldstream train`; see `foldstream train --help`.

    Returns:
        The summary: rows, the metrics of each fold, their spread, and the out-of-fold scores; for a grid, the
        candidates and the name of the best one.

    Raises:
        UsageError: An option is invalid; raised before any worker starts.
        ConflictError: The folder contains another run.
        RunError: Folds still failed after the maximum number of retries, or the model's own code failed.
        StoppedError: SIGTERM or SIGUSR1 stopped the training; the same call resumes it.

    Example:
        >>> summary = fs.train("digits.zarr", "runs/digits", model="digits-cnn", folds=5)
        >>> summary["out_of_fold"]["accuracy"]
    """
    return run_training(request, session)
