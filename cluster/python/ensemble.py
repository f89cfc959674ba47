"""`fs.ensemble`, and the ensemble that it returns as an object."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from ...storage.errors import ForeignError
from ...storage.metrics.names import in_usual_order, main_scores
from ...storage.options import as_text
from ...storage.places.json_files import read_json
from ...storage.places.locate import locate
from ...training.run import ENSEMBLE, RunFolder
from ..api.browse import BrowsableDataset
from ..api.entry import entry
from ..ensembles.ensemble import make_ensemble
from ..ensembles.stack import stack_runs
from ..listener import Listener
from ..prediction.members import read_members
from ..requests import EnsembleRequest, Keywords, Session, StackRequest
from .predictions import oof_frame, predict_frame

if TYPE_CHECKING:
    import pandas as pd


class Ensemble:
    """An ensemble of several runs, as `fs.ensemble` returns it. `fs.Ensemble(path)` opens an earlier one, on disk or in
    an object store. It takes the place of its path in `fs.predict`.

    Args:
        path: Path or URL of an ensemble.

    Raises:
        ForeignError: The folder is not a complete ensemble.

    Example:
        >>> both = fs.Ensemble("runs/both")
        >>> both
        Ensemble .../runs/both: flowers ..., wide ...
        out-of-fold: loss ..., accuracy ...
        report: .../runs/both/report.html
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.place = locate(as_text(path))
        """Where the ensemble is."""
        if not (self.place / ENSEMBLE).exists():
            raise ForeignError(
                f"{self.place} is not a complete ensemble (it has no {ENSEMBLE}); make one with fs.ensemble(runs, "
                f"'{self.place}')"
            )
        self.summary: dict[str, Any] = read_json(self.place / ENSEMBLE)
        """All facts as a dictionary: the members with their scores, the weights, the scores of the ensemble."""

    def __fspath__(self) -> str:
        return str(self.place)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each member by its name, found by the predictions of all rows; empty if a model combines
        them."""
        weighted = self.summary["method"] != "stack"
        return {member["name"]: member["weight"] for member in self.summary["members"] if weighted}

    @property
    def metrics(self) -> dict[str, float]:
        """The out-of-fold scores by name: the weights of a row's prediction are found without the rows of its fold."""
        scores: dict[str, float] = self.summary["out_of_fold"]
        return {name: scores[name] for name in in_usual_order(scores)}

    @property
    def members(self) -> pd.DataFrame:
        """The weights and out-of-fold scores of the members, a row each."""
        import pandas as pd

        every = self.summary["members"]
        index = pd.Index([member["name"] for member in every], name="member")
        rows = [
            {"weight": self.weights.get(one["name"]), **{name: one["out_of_fold"].get(name) for name in self.metrics}}
            for one in every
        ]
        return pd.DataFrame(rows, index)

    @property
    def report(self) -> str:
        """Path or URL of the report as a web page."""
        return str(RunFolder(self.place).page)

    def oof(self) -> pd.DataFrame:
        """Read the out-of-fold predictions of all rows, in the columns of `Run.oof`.

        Returns:
            A DataFrame with a row for each row of the dataset.

        Raises:
            ForeignError: The dataset has been replaced or removed.

        Example:
            >>> oof = fs.Ensemble("runs/both").oof()
            >>> len(oof)
            150
        """
        members = read_members(self.place)
        dataset = members.open_data()
        return oof_frame(dataset, members.root, dataset.schema)

    def predict(
        self,
        source: Any,
        *,
        out: str | PathLike[str] | None = None,
        id: str | None = None,
        table: str | PathLike[str] | None = None,
        on_error: str = "stop",
        ensemble: str = "mean",
        workers: int | None = None,
        listener: Listener | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Predict new rows with all members, weighted.

        Args:
            source: DataFrame (pandas, Polars, Arrow), NumPy array, dataset, or path of a table or of images.
            out: File to write the predictions to, whose name ends in .csv, .csv.gz or .parquet.
            id: Column of the source that identifies the rows.
            table: For images with columns beside them: table of these columns.
            on_error: "stop" at the first invalid row or image, or "skip" them.
            ensemble: How each member combines the predictions of its folds, see `fs.predict`.
            workers: Workers on Ray for a path or a dataset with `out`, see `fs.predict`.
            listener: Notified of progress instead of the progress bars.
            progress: Show progress bars in a terminal or notebook.

        Returns:
            A DataFrame as that of `Run.predict`.

        Raises:
            UsageError: An option does not match the members.
            ConflictError: A member has been trained again since its weight was found.
            SourceError: The source cannot be read, or does not have the members' columns.

        Example:
            >>> frame = pandas.read_csv("flowers.csv")
            >>> len(fs.Ensemble("runs/both").predict(frame.drop(columns="species")))
            150
        """
        options = {"id": id, "table": table, "on_error": on_error, "ensemble": ensemble, "workers": workers}
        return predict_frame(self.place, source, out, options, listener=listener, progress=progress)

    def __repr__(self) -> str:
        weights = ", ".join(f"{name} {weight:.3f}" for name, weight in self.weights.items())
        shown = [(name, self.metrics[name]) for name in main_scores(self.metrics)[:4]]
        scores = ", ".join(f"{name} {value:.4g}" for name, value in shown)
        return f"Ensemble {self.place}: {weights}\nout-of-fold: {scores}\nreport: {self.report}"


class EnsembleCall(EnsembleRequest, Keywords):
    """The keywords of `foldstream.ensemble`."""


@entry(EnsembleCall, EnsembleRequest)
def ensemble(request: EnsembleRequest, session: Session) -> Ensemble:
    """Weigh several complete runs on one dataset with the same folds by their out-of-fold predictions.

    The same call resumes what was interrupted, and returns a complete ensemble at once. Its out-of-fold score is as
    honest as that of a run: the weights for the rows of a fold are found without these rows. The final weights, with
    which new rows are predicted, are found by all rows.

    Args:
        runs: Complete runs, or grids, whose best candidate counts.
        out: Folder of the ensemble.
        method: "greedy", selection with replacement (Caruana et al. 2004) by a metric; "nnls", non-negative least
            squares; or "mean", equal weights.
        metric: Metric by which greedy selection is done; by default what the first run monitors, or else the loss.
        seed: Seed of the rows that greedy selection sees if not all of them fit into `memory`.
        memory: Memory for the predictions that greedy selection sees; by default 256 MB.
        dask: Address of a Dask scheduler; by default this process does the work.

    Returns:
        The ensemble: its weights, scores and predictions.

    Raises:
        UsageError: The runs differ in their data or folds, or are not complete.
        ConflictError: The folder contains something else.

    Example:
        >>> both = fs.ensemble(["runs/flowers", "runs/wide"], "runs/both")
        >>> sorted(both.weights)
        ['flowers', 'wide']
    """
    make_ensemble(request, session)
    return Ensemble(str(request.out))


class StackCall(StackRequest, Keywords):
    """The keywords of `foldstream.stack`."""


@entry(StackCall, StackRequest)
def stack(request: StackRequest, session: Session) -> BrowsableDataset:
    """Make a dataset with the out-of-fold predictions of runs as features.

    A run on it has the folds of these runs, so that no prediction among its features has seen a row of the fold that it
    is held out from. It predicts new rows by the other runs first. The same call resumes.

    Args:
        runs: Folders of complete runs on one dataset with the same folds.
        out: Dataset to write.
        only: Leave out the features that the runs were trained on.
        overwrite: Replace an existing dataset.
        dask: Address of a Dask scheduler; by default this process does the work.
        listener: Notified of progress.
        client: Dask client.

    Returns:
        The dataset.

    Raises:
        UsageError: The runs do not fit together, or columns cannot be added to their samples.
        ConflictError: `out` already contains something else.

    Example:
        >>> stacked = fs.stack(["runs/flowers", "runs/wide"], "stacked.zarr")
        >>> stacked.schema.features[-1]
        'wide/virginica'
    """
    made = stack_runs(request, session)
    return BrowsableDataset(made.place, made.manifest, made.identity)
