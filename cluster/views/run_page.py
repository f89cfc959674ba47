"""The page of a run: the timeline of its folds, its learning curves, and how its time is spent."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bokeh.models import ColumnDataSource, FactorRange, HoverTool
from bokeh.models.widgets import Div

from ...storage.machine import size_text
from ...storage.metrics.names import main_scores
from ..runs.status import FoldStatus, RunStatus
from .curve_charts import CurveCharts, color_of, empty_figure
from .curves import RATE, curves_of, rates_of, score_names, seconds_left, shares_of_time
from .facts import CACHE_HITS, TIMES
from .pages import template

STATES = {
    "waiting": "#8a949e",
    "running": "#3b82c4",
    "done": "#2e8b57",
    "failed": "#c0392b",
    "interrupted": "#c98a1b",
}
SPENT = dict(zip(TIMES, ("#c0392b", "#3b82c4", "#8e6bbf", "#c98a1b"), strict=True))
QUIET_SECONDS = 60.0  # without updates, after which a run may be dead
MOST_SCORES = 4  # columns of the table; all have charts
MOST_PIXELS = 2000  # height of a figure
GROWTH, PAUSES = 0.1, (10.0, 60.0)
"""Figures are redrawn after this fraction of a run's elapsed time, within these bounds in seconds."""
LINES = "solid: held-out score or rate; dashed: training loss; band: range over folds"


def panel(*, light: bool = False) -> Div:
    """An HTML element in a Bokeh page, styled like all pages; with `light` colors if the surrounding page sets none, as
    in Dask's dashboard."""
    styles = ["page.css"] + ["light.css"] * light
    return Div(sizing_mode="stretch_width", stylesheets=[template(name).render() for name in styles])


def state_of(status: RunStatus) -> str:
    """The state of a run in words."""
    done = sum(fold.done for fold in status.folds)
    count = f"{done} of {len(status.folds)} folds done"
    if status.complete:
        return f"complete: {count}"
    if not status.folds:
        return "waiting for the run's record"
    if all(fold.done or fold.diverged for fold in status.folds):
        return f"merging predictions: {count}"
    states = {fold.state for fold in status.folds}
    if states & {"running", "started"}:
        return f"training: {count}"
    return f"waiting: {count}" if states <= {"waiting", "paused", "done", "diverged"} else f"stopped: {count}"


def waits_for(status: RunStatus) -> str:
    """What a run without curves waits for; empty if it has some."""
    if not status.folds or status.complete or any(fold.history for fold in status.folds):
        return ""
    started = [fold for fold in status.folds if fold.state in ("running", "started")]
    if not started:
        return (
            "No fold is training yet: the data are being prepared, the workers are starting, or the command was "
            "stopped. Curves appear here as soon as a fold trains."
        )
    first = max(started, key=lambda fold: fold.epochs)
    return (
        f"The first epoch is {first.epochs:.0%} done ({first.name}). Scores on held-out rows appear after it; the "
        "training loss within the epoch is below as soon as it is known."
    )


def memory_of(folds: Sequence[FoldStatus]) -> dict[str, str]:
    """The memory of the processes that train, by what they train: of the running ones, or of all if none is running."""
    running = [fold for fold in folds if fold.state == "running"]
    newest = sorted((fold for fold in running or folds if fold.steps), key=lambda fold: fold.updated)
    return {fold.unit: _memory(**fold.steps["used"]) for fold in newest}


def _memory(memory: int, gpu: Mapping[str, Any] | None = None) -> str:
    """The memory of a process, and of its GPU, as text."""
    words = f"{size_text(memory)} of memory"
    if gpu:
        words += f", {size_text(gpu['memory'])} of {size_text(gpu['total'])} on {gpu['name']}"
    return words


class RunPage:
    """A run's page, showing its latest status. `inside` another page, it does not set that page's colors.

    Its `parts` should be stacked. If each is a root of the document, changing a text does not repaint any figure. The
    `links` are names and addresses: the report's, as soon as there is one, and of other pages.
    """

    def __init__(
        self,
        place: str,
        scheme: str,
        status: RunStatus,
        *,
        inside: bool = False,
        report: str = "",
        others: str = "",
    ) -> None:
        self.place, self.scheme, self.status = place, scheme, RunStatus(False, [])
        self.title = place.rpartition("/")[2] or place
        self.report, self.others = report, others
        self.next_drawing, self.problem = 0.0, ""
        self.progress: list[Any] | None = None
        self.head, self.folds, self.legend, self.key, self.events = (panel(light=inside) for _ in range(5))
        self.legend.text = template("key.html").render(colors=STATES, note="")
        self.timeline, self.spent = ColumnDataSource(name="timeline"), ColumnDataSource(name="spent")
        self.timeline_figure, self.spent_figure = self._draw_timeline(), self._draw_spent()
        self.charts = CurveCharts(scheme)
        drawn = [self.key, self.charts.row, self.timeline_figure, self.legend, self.spent_figure]
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
            title=self.title,
            place=self.place,
            status=status,
            state=state_of(status),
            quiet=quiet,
            left=left,
            problem=problem,
            scores=main_scores(status.scores),
            report=self.report,
            others=self.others,
        )
        names = score_names(status.folds)[:MOST_SCORES]
        self.folds.text = template("folds.html").render(
            folds=status.folds,
            scores=names,
            rates=rates,
            cached=any(CACHE_HITS in fold.scores for fold in status.folds),
            memory=memory_of(status.folds),
            waiting=waits_for(status),
        )
        self.events.text = template("events.html").render(events=status.events[::-1], failures={*status.failures})
        same = [fold.state for fold in before.folds] == [fold.state for fold in status.folds]
        if now >= self.next_drawing or status.complete or not same:
            self.next_drawing = now + min(max(GROWTH * (now - status.started), PAUSES[0]), PAUSES[1])
            self._show_timeline(status.folds, status.updated if quiet else now)
            self._show_curves(status.folds)

    def _show_curves(self, folds: Sequence[FoldStatus]) -> None:
        """Redraw what changes within epochs, and after each."""
        progress = [(len(fold.history), fold.unit, fold.state, fold.steps.get("losses")) for fold in folds]
        if progress == self.progress:
            return
        self.progress = progress
        curves = list(curves_of(folds))
        for curve in curves:
            self.charts.show(curve)
        colors = {curve.subject: color_of(curve.color) for curve in curves if curve.chart != RATE}
        self.key.text = template("key.html").render(colors=colors, note=LINES) if curves else ""
        self._show_spent(folds)

    def _draw_timeline(self) -> Any:
        options = {"x_axis_type": "datetime", "y_range": FactorRange(), "visible": False}
        drawn = empty_figure("Fold timeline (UTC)", self.scheme, **options)
        drawn.xaxis.ticker.desired_num_ticks = 3
        drawn.hbar("fold", right="stop", height=0.7, left="start", color="color", source=self.timeline)
        drawn.add_tools(HoverTool(tooltips=[("fold", "@fold"), ("state", "@state"), ("attempt", "@attempt")]))
        return drawn

    def _draw_spent(self) -> Any:
        options = {"x_range": (0, 100), "y_range": FactorRange(), "visible": False}
        drawn = empty_figure("Time spent in the last epoch (%)", self.scheme, **options)
        labels = [name.replace("_", " ") for name in TIMES]
        drawn.hbar_stack(
            list(TIMES), y="rank", height=0.7, color=list(SPENT.values()), source=self.spent, legend_label=labels
        )
        drawn.add_layout(drawn.legend[0], "above")
        drawn.legend.orientation = "horizontal"
        return drawn

    def _show_timeline(self, folds: Sequence[FoldStatus], now: float) -> None:
        phases = [(fold.name, phase) for fold in folds for phase in fold.phases]
        _set_rows(self.timeline_figure, [fold.name for fold in folds] if phases else [], 80)
        self.legend.visible = bool(phases)
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


def _set_rows(drawn: Any, names: Sequence[str], above: int) -> None:
    """Give a figure one row per name, the first on top, and a matching height with `above` pixels for the rest. A
    figure without rows is not shown."""
    drawn.visible = bool(names)
    if drawn.y_range.factors != names[::-1]:
        drawn.y_range.factors = list(names[::-1])
        drawn.height = above + min(26 * len(names), MOST_PIXELS)
