"""Bokeh figures of a run's learning curves, for notebooks."""

from collections.abc import Sequence

from bokeh.layouts import gridplot
from bokeh.models import GridPlot, HoverTool
from bokeh.palettes import Category10
from bokeh.plotting import figure

from ..runs.status import FoldStatus
from .curves import MOST_LINES, RATE, curves_of

MEAN = "#707a84"
WIDTH, HEIGHT = 420, 280  # pixels
COLUMNS = 2


def draw_learning_curves(folds: Sequence[FoldStatus]) -> GridPlot:
    """A figure for each score of the folds' epochs: their curves, and the mean with its range. The losses share one."""
    charts: dict[str, figure] = {}
    for curve in (curve for curve in curves_of(folds) if curve.chart != RATE):
        if curve.chart not in charts:
            charts[curve.chart] = figure(title=curve.chart, width=WIDTH, height=HEIGHT, x_axis_label="epoch")
            tips = [("", "$name"), ("epoch", "@x"), ("", "@y{0.[0000]}")]
            charts[curve.chart].add_tools(HoverTool(tooltips=tips))
        chart, shown = charts[curve.chart], curve.points
        color = MEAN if curve.color is None else Category10[MOST_LINES][curve.color]
        if "low" in shown:
            chart.varea(shown["epoch"], shown["low"], shown["high"], color=color, alpha=0.2)
        chart.line(
            shown["epoch"],
            shown["value"],
            color=color,
            line_width=3 if "low" in shown else 1.5,
            line_dash="dashed" if curve.family == "training" else "solid",
            name=f"{curve.subject}, {curve.family}",
        )
    return gridplot(list(charts.values()), ncols=COLUMNS)
