"""The page of several runs side by side: a table, and the mean curves of each."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any
from urllib.parse import quote

from ..runs.status import RunStatus
from .curve_charts import CurveCharts, color_of
from .curves import MOST_LINES, Curve, curves_of, score_names, seconds_left
from .pages import template
from .run_page import panel, state_of

MOST_SCORES = 4  # columns


class RunsPage:
    """A page of several runs, by name, showing their latest status."""

    def __init__(self, title: str, scheme: str, statuses: Mapping[str, RunStatus]) -> None:
        self.title, self.shown = title, dict[str, RunStatus]()
        self.table, self.key, self.charts = panel(), panel(), CurveCharts(scheme)
        self.parts = [self.table, self.key, self.charts.row]
        self.show(statuses)

    def show(self, statuses: Mapping[str, RunStatus]) -> None:
        """Show the statuses of the runs, if any has changed."""
        if all(status is self.shown.get(name) for name, status in statuses.items()):
            return
        self.shown = dict(statuses)
        scores = list(dict.fromkeys(name for status in statuses.values() for name in score_names(status.folds)))
        scores = [name for name in scores if name != "train_loss"][:MOST_SCORES]
        rows = [run_row(name, status, scores) for name, status in statuses.items()]
        self.table.text = template("runs.html").render(title=self.title, rows=rows, scores=scores)
        curves = list(mean_curves(statuses))
        for curve in curves:
            self.charts.show(curve)
        colors = {curve.subject: color_of(curve.color) for curve in curves}
        note = "means over each run's folds; dashed: training loss; band: range over folds"
        self.key.text = template("key.html").render(colors=colors, note=note) if curves else ""


def run_row(name: str, status: RunStatus, scores: list[str]) -> dict[str, Any]:
    """What the table says of a run: out-of-fold scores, or before it is complete the folds' mean so far."""
    folds = [fold for fold in status.folds if fold.history]
    last = {score: [fold.scores[score] for fold in folds if score in fold.scores] for score in scores}
    means = {score: fmean(values) for score, values in last.items() if values}
    epochs, total = (sum(getattr(fold, of) for fold in status.folds) for of in ("epochs", "total_epochs"))
    return {
        "name": name,
        "link": f"?run={quote(name, safe='')}",
        "state": state_of(status).partition(":")[0],
        "folds": f"{sum(fold.done for fold in status.folds)} of {len(status.folds)}",
        "done": 1.0 if status.complete else epochs / total if total else 0.0,
        "left": seconds_left(status.folds),
        "scores": {**means, **status.scores},
        "about": status.about,
    }


def mean_curves(statuses: Mapping[str, RunStatus]) -> Iterator[Curve]:
    """The mean curves of each run, in its color; of a grid, those of each candidate."""
    for number, (name, status) in enumerate(statuses.items()):
        for curve in curves_of(status.folds):
            if "low" in curve.points:
                subject = f"{name} {curve.subject.removesuffix('mean')}".strip()
                yield replace(curve, subject=subject, color=number % MOST_LINES)
