"""A run as an object: its scores, predictions, models and report."""

from __future__ import annotations

from functools import cached_property
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any

from ...storage.metrics.names import in_usual_order, main_scores
from ...storage.options import as_text
from ...storage.places.json_files import read_json
from ...storage.places.locate import locate
from ...training.run import GRID, load_job
from ..listener import Listener
from ..runs.run import read_run
from ..search.record import search_status
from ..wording import python_words
from .predictions import oof_frame, predict_frame

if TYPE_CHECKING:
    import pandas as pd
    from bokeh.models import GridPlot
    from torch import nn

SHOWN = 4  # scores, in a line


class Run:
    """A complete run, as `fs.train` returns it. `fs.Run(path)` opens an earlier one, on disk or in an object store.

    A run takes the place of its path in every function: `fs.predict(run, ...)`, `fs.export(run, ...)`. The scores,
    predictions and models of a grid are those of its best candidate.

    Args:
        path: Path or URL of a complete run.

    Raises:
        ForeignError: The folder is not a run.
        UsageError: The run is not complete.

    Example:
        >>> run = fs.Run("runs/flowers")
        >>> run
        Run .../runs/flowers: mlp on .../flowers.zarr, 3 folds, 5 epochs
        out-of-fold: loss ... (baseline 1.099), accuracy ... (baseline ...), ...
        report: .../runs/flowers/report.html
        >>> len(run.folds)
        3
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.place = locate(as_text(path))
        """Where the run is."""
        with python_words():
            self._folder, self._own = read_run(self.place)
        grid = self.place / GRID
        self.summary: dict[str, Any] = read_json(grid) if grid.exists() else self._own
        """All results as a dictionary: those of `summary.json`, or for a grid the comparison of its candidates."""

    def __fspath__(self) -> str:
        return str(self.place)

    @property
    def metrics(self) -> dict[str, float]:
        """The out-of-fold scores by name: each row is predicted by the models that have not seen it."""
        scores: dict[str, float] = self._own["out_of_fold"]
        return {name: scores[name] for name in in_usual_order(scores)}

    @property
    def baseline(self) -> dict[str, float]:
        """The scores of a model that ignores the features; compare them with `metrics`."""
        return dict(self._own.get("baseline", {}))

    @property
    def folds(self) -> pd.DataFrame:
        """The scores of each fold's model on its held-out rows, a row per fold."""
        import pandas as pd

        folds = self._own["folds"]
        names = [name for name in in_usual_order(self.metrics) if all(name in fold for fold in folds)]
        index = pd.Index([fold["fold"] for fold in folds], name="fold")
        return pd.DataFrame([{name: fold[name] for name in ("epoch", *names)} for fold in folds], index)

    @property
    def candidates(self) -> pd.DataFrame:
        """The settings and out-of-fold scores of a grid's candidates, the best one first; a run that is no grid is its
        only candidate."""
        import pandas as pd

        if "candidates" not in self.summary:
            return pd.DataFrame([self.metrics], pd.Index([self.place.name], name="candidate"))
        best, every = self.summary["best"], self.summary["candidates"]
        every = sorted(every, key=lambda one: one["name"] != best)
        index = pd.Index([one["name"] for one in every], name="candidate")
        scores = in_usual_order(every[0]["out_of_fold"])
        rows = [one["settings"] | {name: one["out_of_fold"].get(name) for name in scores} for one in every]
        return pd.DataFrame(rows, index)

    @property
    def trials(self) -> pd.DataFrame:
        """The candidates of a search, in the order in which they were drawn: their settings, the last rung that each
        has reached and the mean score of its folds there, its state, why it was stopped. Empty for a run that is no
        search."""
        import pandas as pd

        every = search_status(self.place)
        index = pd.Index([one["name"] for one in every], name="candidate")
        return pd.DataFrame(
            [one["settings"] | {name: one[name] for name in ("rung", "score", "state", "why")} for one in every], index
        )

    @property
    def best(self) -> Run:
        """The run of a grid's best candidate; a run that is no grid itself."""
        return self if self._folder.root == self.place else Run(self._folder.root)

    @property
    def report(self) -> str:
        """Path or URL of the report as a web page."""
        return str(self._folder.page)

    @property
    def models(self) -> list[nn.Module]:
        """The models of all folds as plain torch modules, see `fs.load_models`."""
        from ...training.model.export import load_models

        return load_models(self._folder.root)

    def oof(self) -> pd.DataFrame:
        """Read the out-of-fold predictions of all rows.

        Returns:
            A DataFrame with a row for each row of the dataset: its id, or its number, the columns beside the features,
            the label, the number of models that predicted it without having seen it, and their mean prediction:
            `predicted`, the most probable class, and `probability_CLASS` for each class; `probability_LABEL` for
            multi-label data, and `predicted_LABEL` for regression.

        Raises:
            ForeignError: The dataset has been replaced or removed.

        Example:
            >>> oof = fs.Run("runs/flowers").oof()
            >>> wrong = oof[oof["species"] != oof["predicted"]]
            >>> len(oof)
            150
        """
        return oof_frame(load_job(self._folder).open_data(), self._folder, self._schema)

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
        """Predict new rows with the models of all folds.

        Args:
            source: DataFrame (pandas, Polars, Arrow), NumPy array, dataset, or path of a table or of images.
            out: File to write the predictions to, whose name ends in .csv, .csv.gz or .parquet; by default nothing is
                written. For predictions larger than memory, use `fs.predict`.
            id: Column of the source that identifies the rows.
            table: For images with columns beside them: table of these columns.
            on_error: "stop" at the first invalid row or image, or "skip" them.
            ensemble: How to combine the folds' predictions, see `fs.predict`.
            workers: Workers on Ray for a path or a dataset with `out`, see `fs.predict`; others are predicted in this
                process.
            listener: Notified of progress instead of the progress bars.
            progress: Show progress bars in a terminal or notebook.

        Returns:
            A DataFrame: the id, or the number of the row from 1; the predicted label, named as in training; and
            `probability_CLASS` for each class, or `probability_LABEL` for multi-label data. Predictions of a pandas
            DataFrame have its index.

        Raises:
            UsageError: An option does not match the run.
            SourceError: The source cannot be read, or does not have the run's columns.

        Example:
            >>> frame = pandas.read_csv("flowers.csv")
            >>> fs.Run("runs/flowers").predict(frame.drop(columns="species")).columns.tolist()
            ['row', 'species', 'probability_setosa', 'probability_versicolor', 'probability_virginica']
        """
        options = {"id": id, "table": table, "on_error": on_error, "ensemble": ensemble, "workers": workers}
        return predict_frame(self.place, source, out, options, listener=listener, progress=progress)

    def plot(self) -> GridPlot:
        """Draw the learning curves of all folds, a chart for each score.

        Returns:
            A Bokeh layout; `bokeh.io.show` shows it in a browser, or in a notebook after `output_notebook()`.

        Example:
            >>> curves = fs.Run("runs/flowers").plot()
            >>> bokeh.io.save(curves, "curves.html", title="Curves", resources=bokeh.resources.CDN)
            '.../curves.html'
        """
        from ..runs.status import RunRecord
        from ..views.figures import draw_learning_curves

        return draw_learning_curves(RunRecord(self.place).poll().folds)

    def __repr__(self) -> str:
        return f"Run {self.place}: {self._title}\nout-of-fold: {self._scores()}\nreport: {self.report}"

    def _repr_html_(self) -> str:
        title, report = escape(f"Run {self.place}"), escape(self.report)
        table = self._table().to_html(float_format="{:.4g}".format, border=0)
        link = f'<a href="{report}" target="_blank">{report}</a>'
        return f"<b>{title}</b><br>{escape(self._title)}{table}<p>Report: {link}</p>"

    @cached_property
    def _schema(self) -> Any:
        return load_job(self._folder).schema

    @property
    def _title(self) -> str:
        job = load_job(self._folder)
        folds = len(self._own["folds"])
        what = f"{job.config.model.rpartition('/')[2]} on {job.dataset}, {folds} folds, {job.config.epochs} epochs"
        if "candidates" in self.summary:
            count = len(search_status(self.place)) or len(self.summary["candidates"])
            return f"the best of {count} candidates, {self.summary['best']}, is {what}"
        return what

    def _scores(self) -> str:
        shown = [(name, self.metrics[name]) for name in main_scores(self.metrics)[:SHOWN]]
        return ", ".join(
            f"{name} {value:.4g}" + (f" (baseline {self.baseline[name]:.4g})" if name in self.baseline else "")
            for name, value in shown
        )

    def _table(self) -> pd.DataFrame:
        """The main scores of the folds and those of all rows."""
        import pandas as pd

        names = main_scores(self.metrics)
        if "candidates" in self.summary:
            return self.candidates.drop(columns=[name for name in self.metrics if name not in names])
        folds = self.folds.reindex(columns=names)
        return pd.concat([folds, pd.DataFrame([self.metrics], ["out-of-fold"])[names]])
