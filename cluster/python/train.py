"""`fs.train` and `fs.search`, which return the run."""

from ..api.entry import entry
from ..api.train import run_training
from ..requests import Keywords, SearchRequest, Session, TrainRequest
from .run import Run


class TrainCall(TrainRequest, Keywords):
    """The keywords of `foldstream.train`."""


@entry(TrainCall, TrainRequest)
def train(request: TrainRequest, session: Session) -> Run:
    """Train a model for each fold with Ray Train and merge the out-of-fold predictions.

    The same call resumes an interrupted run from its last checkpoints, and returns immediately if the run is complete.
    The result does not depend on the number of workers, the fold mode or interruptions.

    Args:
        dataset: Dataset to train on.
        run: Folder of the run, local or in an object store.
        model: "auto", which chooses a model, the epochs and the batch size by the dataset; another built-in name;
            "path/to/file.py:factory" or "package.module:factory"; or the function or class itself: one that other
            processes can find, or that this script or notebook defines. A `functools.partial` of it gives settings.
        settings: Settings of the recipe (lr, optimizer, …) and of the model. A list of values makes a grid, whose
            candidates are trained together.
        callbacks: `Callback` objects, or strings as accepted by `--callback`.
        listener: Notified of progress and of the dashboards' addresses.
        client: Dask client for the merge; by default Dask starts in this process if there is enough work.
        **options: All other options of `foldstream train`; see `foldstream train --help`.

    Returns:
        The run: its scores, predictions, models and report.

    Raises:
        UsageError: An option is invalid; raised before any worker starts.
        ConflictError: The folder contains another run.
        RunError: Folds still failed after the maximum number of retries, or the model's own code failed.
        StoppedError: SIGTERM or SIGUSR1 stopped the training; the same call resumes it.

    Example:
        >>> run = fs.train("flowers.zarr", "runs/flowers", model="mlp", folds=3, epochs=5, batch_size=16)
        >>> run.metrics["accuracy"] > run.baseline["accuracy"]
        True
    """
    run_training(request, session)
    return Run(str(request.run))


class SearchCall(SearchRequest, Keywords):
    """The keywords of `foldstream.search`."""


@entry(SearchCall, SearchRequest)
def search(request: SearchRequest, session: Session) -> Run:
    """Search the settings of a training: candidates are drawn and trained together, and those that lose stop early.

    The same call resumes an interrupted search, and returns immediately if it is finished. With more `trials`, a search
    goes on. A candidate that is never stopped has the same weights as `fs.train` with its settings.

    Args:
        dataset: Dataset to train on.
        run: Folder of the search, local or in an object store.
        space: The values of each setting: a list of choices, `(low, high)`, `(low, high, "log")`, or a dictionary with
            `low`, `high` and `log` or `step`.
        trials: Number of candidates; by default 16, for the sampler "grid" all combinations.
        sampler: How candidates are drawn: "tpe", "random", "qmc" or "grid".
        reduction: One in so many candidates goes on from each rung.
        width: Candidates that are drawn and trained together.
        rungs: Folds and epochs after which candidates are compared, e.g. `[{"folds": 1, "epochs": 1}]`; by default they
            follow from the reduction, the epochs and the number of rows.
        settings: Settings that all candidates have.
        listener: Notified of progress and of the dashboards' addresses.
        client: Dask client for the merge; by default Dask starts in this process if there is enough work.
        **options: All other options of `fs.train`.

    Returns:
        The run of the best candidate, whose `trials` are all candidates.

    Raises:
        UsageError: An option is invalid; raised before any worker starts.
        ConflictError: The folder contains another search, or a run.
        RunError: All candidates have failed, or candidates failed for other reasons than their settings.
        StoppedError: SIGTERM or SIGUSR1 stopped the training; the same call resumes it.

    Example:
        >>> space = {"lr": (1e-3, 1e-1, "log"), "hidden": [16, 32]}
        >>> run = fs.search("flowers.zarr", "runs/search", space=space, trials=4, model="mlp", folds=3, epochs=3)
        >>> len(run.trials)
        4
    """
    run_training(request.as_training(), session)
    return Run(str(request.run))
