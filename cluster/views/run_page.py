"""The page of a run: the timeline of its folds, its learning curves, and how its time is spent."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bokeh.layouts import row
from bokeh.models import ColumnDataSource, FactorRange, HoverTool
from bokeh.models.widgets import Div
from bokeh.palettes import Category10
from bokeh.plotting import figure

from ..runs.status import FoldStatus, RunStatus
from .curves import MOST_LINES, Curve, curves_of, rates_of, score_names, seconds_left, shares_of_time
from .facts import TIMES
from .pages import template

STATES = {
    "waiting": "#8a949e",
    "running": "#3b82c4",
    "done": "#2e8b57",
    "failed": "#c0392b",
    "interrupted": "#c98a1b",
}
SPENT = dict(zip(TIMES, ("#c0392b", "#3b82c4", "#8e6bbf", "#c98a1b"), strict=True))
MEAN = "#707a84"
QUIET_SECONDS = 60.0  # without updates, after which a run may be dead
MOST_PIXELS = 2000  # height of a figure
GROWTH, PAUSES = 0.1, (10.0, 60.0)
"""Figures are redrawn after this fraction of a run's elapsed time, within these bounds in seconds."""
LINES = "solid: held-out score or rate; dashed: training loss; band: range over folds"
PAPER = {"light": "#ffffff", "dark": "#14181c"}


def panel(*, light: bool = False) -> Div:
    """An HTML element in a Bokeh page, styled like all pages; with `light` colors if the surrounding page sets none, as
    in Dask's dashboard."""
    styles = ["page.css"] + ["light.css"] * light
    return Div(sizing_mode="stretch_width", stylesheets=[template(name).render() for name in styles])


class RunPage:
    """A run's page, showing its latest status. `inside` another page, it does not set that page's colors.

    Its `parts` should be stacked. If each is a root of the document, changing a text does not repaint any figure.
    """

    def __init__(self, title: str, scheme: str, status: RunStatus, *, inside: bool = False) -> None:
        self.title, self.scheme, self.status = title, scheme, RunStatus(False, [])
        self.next_drawing, self.problem = 0.0, ""
        self.progress: list[Any] | None = None
        self.head, self.folds, self.legend, self.events = (panel(light=inside) for _ in range(4))
        self.legend.text = template("key.html").render(colors=STATES, note="")
        self.timeline, self.spent = ColumnDataSource(name="timeline"), ColumnDataSource(name="spent")
        self.timeline_figure, self.spent_figure = self._draw_timeline(), self._draw_spent()
        self.curves: dict[str, ColumnDataSource] = {}
        self.charts = row([], sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})
        self.key = panel(light=inside)
        drawn = [self.timeline_figure, self.legend, self.spent_figure, self.key, self.charts]
        self.parts = [self.head, self.folds, *drawn, self.events]
        self.show(status)

    def show(self, status: RunStatus, problem: str = "") -> None:
        """Show a status, and the problem that prevents reading a newer one. Only what has changed is redrawn."""
        if status is self.status and problem == self.problem:
            return
        before, self.status, self.problem = self.status, status, problem
        now = datetime.now(UTC).timestamp()
        rates = {unit: of_unit[-1] for unit, of_unit in rates_of(status.folds).items()}
        quiet = not status.complete and now - status.updated > QUIET_SECONDS
        left = None if quiet else seconds_left(status.folds)
        self.head.text = template("head.html").render(
            title=self.title, status=status, quiet=quiet, left=left, problem=problem
        )
        names = score_names(status.folds)
        self.folds.text = template("folds.html").render(folds=status.folds, scores=names, rates=rates)
        self.events.text = template("events.html").render(events=status.events[::-1], failures={*status.failures})
        same = [fold.state for fold in before.folds] == [fold.state for fold in status.folds]
        if now >= self.next_drawing or status.complete or not same:
            self.next_drawing = now + min(max(GROWTH * (now - status.started), PAUSES[0]), PAUSES[1])
            self._show_timeline(status.folds, status.updated if quiet else now)
            self._show_epochs(status.folds)

    def _show_epochs(self, folds: Sequence[FoldStatus]) -> None:
        """Redraw what changes once per epoch."""
        progress = [(len(fold.history), fold.unit, fold.state) for fold in folds]
        if progress == self.progress:
            return
        self.progress = progress
        curves = list(curves_of(folds))
        for curve in curves:
            self._show_curve(curve)
        self.key.text = template("key.html").render(
            colors={curve.subject: _color(curve) for curve in curves}, note=LINES
        )
        self._show_spent(folds)

    def _figure(self, title: str, **options: Any) -> Any:
        drawn = figure(title=title, name=title, toolbar_location=None, sizing_mode="stretch_width", **options)
        drawn.background_fill_color = drawn.border_fill_color = PAPER[self.scheme]
        return drawn

    def _draw_timeline(self) -> Any:
        drawn = self._figure("Fold timeline (UTC)", x_axis_type="datetime", y_range=FactorRange())
        drawn.xaxis.ticker.desired_num_ticks = 3
        drawn.hbar("fold", right="stop", height=0.7, left="start", color="color", source=self.timeline)
        drawn.add_tools(HoverTool(tooltips=[("fold", "@fold"), ("state", "@state"), ("attempt", "@attempt")]))
        return drawn

    def _draw_spent(self) -> Any:
        drawn = self._figure("Time spent in the last epoch (%)", x_range=(0, 100), y_range=FactorRange())
        labels = [name.replace("_", " ") for name in TIMES]
        drawn.hbar_stack(
            list(TIMES), y="rank", height=0.7, color=list(SPENT.values()), source=self.spent, legend_label=labels
        )
        drawn.add_layout(drawn.legend[0], "above")
        drawn.legend.orientation = "horizontal"
        return drawn

    def _show_timeline(self, folds: Sequence[FoldStatus], now: float) -> None:
        phases = [(fold.name, phase) for fold in folds for phase in fold.phases]
        _set_rows(self.timeline_figure, [fold.name for fold in folds], 80)
        self.timeline.data = {
            "fold": [name for name, _ in phases],
            "state": [phase.state for _, phase in phases],
            "attempt": [phase.attempt for _, phase in phases],
            "start": [1000 * phase.start for _, phase in phases],
            "stop": [1000 * (phase.stop or now) for _, phase in phases],
            "color": [STATES[phase.state] for _, phase in phases],
        }

    def _show_spent(self, folds: Sequence[FoldStatus]) -> None:
        shares = shares_of_time(folds)
        _set_rows(self.spent_figure, list(shares), 90)
        by_name = {name: [of_rank[name] for of_rank in shares.values()] for name in TIMES}
        self.spent.data = {"rank": list(shares), **by_name}

    def _show_curve(self, curve: Curve) -> None:
        if curve.name in self.curves:
            self.curves[curve.name].data = dict(curve.points)
            return
        source = self.curves[curve.name] = ColumnDataSource(dict(curve.points), name=curve.name)
        chart, dash = self._chart(curve.chart), "dashed" if curve.family == "training" else "solid"
        color, width = _color(curve), 2
        if "low" in curve.points:
            chart.varea("epoch", "low", "high", color=color, alpha=0.2, source=source)
            width = 3
        label = f"{curve.subject}, {curve.family}"
        chart.line("epoch", "value", color=color, line_width=width, line_dash=dash, source=source, name=label)

    def _chart(self, title: str) -> Any:
        """The figure with this title, created if necessary."""
        for drawn in self.charts.children:
            if drawn.name == title:
                return drawn
        drawn = self._figure(title, height=280, min_width=320)
        drawn.xaxis.axis_label = "epoch"
        drawn.add_tools(HoverTool(tooltips=[("", "$name"), ("epoch", "@epoch"), ("", "@value{0.[0000]}")]))
        self.charts.children = [*self.charts.children, drawn]
        return drawn


def _color(curve: Curve) -> str:
    return MEAN if curve.color is None else Category10[MOST_LINES][curve.color]


def _set_rows(drawn: Any, names: Sequence[str], above: int) -> None:
    """Give a figure one row per name, the first on top, and a matching height with `above` pixels for the rest."""
    if drawn.y_range.factors != names[::-1]:
        drawn.y_range.factors = list(names[::-1])
        drawn.height = above + min(26 * len(names), MOST_PIXELS)
