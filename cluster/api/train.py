"""Training as a user asks for it. What metadata tell is told at once, before torch, Ray and Dask are loaded."""

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
    """Train a model for each fold, and merge their out-of-fold predictions; see `train`."""
    asked = check_request(request)
    result = complete_result(asked) or _train(asked, session)
    session.listener.announce("report", str(RunFolder(best_folder(asked.root.root)).page))
    return result


def _train(asked: RequestedTraining, session: Session) -> dict[str, Any]:
    """Train what is not complete."""
    root = asked.root.root
    busy = f"{root} is being trained by another command; wait for it to end, or stop it"
    with ExitStack() as stack:
        stack.enter_context(stoppable())
        stack.callback(gc.unfreeze)
        count = 0 if asked.stacked else helper_count(asked.request, asked.dataset, asked.models)
        helpers = [stack.enter_context(closing(Helper())) for _ in range(count)]
        with no_garbage_collection():
            from .training import check_training, train_runs  # only now: the others load torch meanwhile

            training = check_training(asked, helpers)
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
        model: Built-in name, "path/to/file.py:factory" or "package.module:factory", or the function or class itself:
            one that other processes can find, or that this script or notebook defines. A `functools.partial` of it
            gives settings.
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
        RunError: Folds failed more often than they are retried, or the model's own code failed.
        StoppedError: SIGTERM or SIGUSR1 has stopped the training; the same call resumes it.

    Example:
        >>> summary = fs.train("digits.zarr", "runs/digits", model="digits-cnn", folds=5)
        >>> summary["out_of_fold"]["accuracy"]
    """
    return run_training(request, session)
