"""Charts of curves by epoch, side by side, which grow while a page is open."""

from typing import Any

import numpy as np
from bokeh.layouts import row
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.palettes import Category10
from bokeh.plotting import figure

from .curves import MOST_LINES, STEPS, Curve, Points

MEAN = "#707a84"
PAPER = {"light": "#ffffff", "dark": "#14181c"}


def color_of(number: int | None) -> str:
    """The color of a curve; without a number, that of a mean among its folds."""
    return MEAN if number is None else Category10[MOST_LINES][number % MOST_LINES]


def empty_figure(title: str, scheme: str, **options: Any) -> Any:
    """A figure in the colors of a page."""
    drawn = figure(title=title, name=title, toolbar_location=None, sizing_mode="stretch_width", **options)
    drawn.background_fill_color = drawn.border_fill_color = PAPER[scheme]
    return drawn


class CurveCharts:
    """The charts of a page in the colors of a scheme, as one `row` of its document."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.sources: dict[str, ColumnDataSource] = {}
        self.row = row([], sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})

    def show(self, curve: Curve) -> None:
        """Draw a curve, or its new points."""
        if curve.name in self.sources:
            if not _same(self.sources[curve.name].data, curve.points):
                self.sources[curve.name].data = dict(curve.points)
            return
        source = self.sources[curve.name] = ColumnDataSource(dict(curve.points), name=curve.name)
        chart, dash = self._chart(curve.chart), "dashed" if curve.family == "training" else "solid"
        color, width = color_of(curve.color), 2
        if "low" in curve.points:
            chart.varea("epoch", "low", "high", color=color, alpha=0.2, source=source)
            width = 3
        if curve.chart == STEPS:
            dash, width = "solid", 1
        label = f"{curve.subject}, {curve.family}"
        chart.line("epoch", "value", color=color, line_width=width, line_dash=dash, source=source, name=label)

    def _chart(self, title: str) -> Any:
        """The figure with this title, created if necessary."""
        for drawn in self.row.children:
            if drawn.name == title:
                return drawn
        drawn = empty_figure(title, self.scheme, height=280, min_width=320)
        drawn.xaxis.axis_label = "epoch"
        epoch = "@epoch{0.[00]}"
        drawn.add_tools(HoverTool(tooltips=[("", "$name"), ("epoch", epoch), ("", "@value{0.[0000]}")]))
        self.row.children = [*self.row.children, drawn]
        return drawn


def _same(shown: Any, points: Points) -> bool:
    """Whether these points are shown already."""
    return all(np.array_equal(shown[name], values, equal_nan=True) for name, values in points.items())
