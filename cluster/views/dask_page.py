"""Our page in Dask's dashboard: how far a conversion is. A scheduler that preloads this module has it in its menu.

What it shows are the events that the converting process logs with the scheduler, and what that knows of its workers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, FactorRange, NumeralTickFormatter
from bokeh.models.widgets import Div
from bokeh.plotting import figure
from distributed import Scheduler
from distributed.dashboard.components.scheduler import BOKEH_THEME, env
from distributed.dashboard.core import BokehApplication
from distributed.dashboard.scheduler import template_variables
from tornado.ioloop import IOLoop

from ...pipeline.dask_executor import TOPIC
from .pages import template

PAGE = "foldstream"
UPDATE_MS = 250
RATE_SECONDS = 5.0  # over which a rate is taken
COLORS = {"rows": "#3b82c4", "bytes": "#c98a1b", "memory": "#2e8b57", "limit": "#d9dee3"}

Event = tuple[float, Mapping[str, Any]]
"""When it came, in seconds since 1970, and what a conversion said of itself."""


def dask_setup(scheduler: Scheduler) -> None:
    """Add the page to a scheduler's dashboard. Dask calls it as the scheduler starts."""
    variables = template_variables(scheduler)
    application = BokehApplication({f"/{PAGE}": open_page}, scheduler, prefix="", template_variables=variables)
    scheduler.http_application.add_application(application)
    application.initialize(IOLoop.current())
    variables["pages"].append(PAGE)


def open_page(scheduler: Scheduler, variables: Mapping[str, Any], document: Document) -> None:
    """The page in a document of its own."""
    page = ConversionPage(scheduler)
    page.update()
    document.add_root(page.root)
    document.title, document.theme = "Foldstream", BOKEH_THEME
    document.template = env.get_template("simple.html")
    document.template_variables.update(variables)
    document.add_periodic_callback(page.update, UPDATE_MS)


class ConversionPage:
    """Numbers, rates over time, and each worker's memory."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.facts = Div(sizing_mode="stretch_width", name="facts")
        self.rates = ColumnDataSource({name: [] for name in ("time", "rows", "bytes")}, name="rates")
        self.memory = ColumnDataSource({name: [] for name in ("worker", "used", "limit")}, name="memory")
        self.memory_figure = self._draw_memory()
        charts = [self._draw_rate("rows", "rows/s"), self._draw_rate("bytes", "MB/s read")]
        self.root = column(
            self.facts, row(*charts, sizing_mode="stretch_width"), self.memory_figure, sizing_mode="stretch_width"
        )

    def update(self) -> None:
        """Show how it is now."""
        events = conversion_of(self.scheduler.get_events(TOPIC) or ())
        workers = sorted(self.scheduler.workers.values(), key=lambda worker: str(worker.name))
        rates = rates_of(events)
        self.rates.data = rates
        self.memory.data = {
            "worker": [str(worker.name) for worker in workers],
            "used": [worker.metrics["memory"] for worker in workers],
            "limit": [worker.memory_limit for worker in workers],
        }
        names = [str(worker.name) for worker in workers][::-1]
        if self.memory_figure.y_range.factors != names:
            self.memory_figure.y_range.factors = names
            self.memory_figure.height = 80 + 26 * len(names)
        running = sum(len(worker.executing) for worker in workers)
        last = events[-1][1] if events else None
        left = seconds_left(last, rates["rows"]) if last else None
        self.facts.text = template("conversion.html").render(last=last, running=running, left=left)

    def _draw_rate(self, name: str, title: str) -> Any:
        drawn: Any = figure(title=title, x_axis_type="datetime", height=260, min_width=300, sizing_mode="stretch_width")
        drawn.toolbar_location = None
        drawn.line("time", name, color=COLORS[name], line_width=2, source=self.rates)
        drawn.yaxis.formatter = NumeralTickFormatter(format="0,0")
        drawn.y_range.start = 0
        return drawn

    def _draw_memory(self) -> Any:
        drawn: Any = figure(
            title="memory of each worker, of its limit", y_range=FactorRange(), sizing_mode="stretch_width"
        )
        drawn.toolbar_location = None
        drawn.hbar("worker", right="limit", height=0.7, color=COLORS["limit"], source=self.memory)
        drawn.hbar("worker", right="used", height=0.7, color=COLORS["memory"], source=self.memory)
        drawn.xaxis.formatter = NumeralTickFormatter(format="0.0b")
        drawn.x_range.start = 0
        return drawn


def conversion_of(events: Sequence[Event]) -> list[Event]:
    """The events of the newest conversion's newest stage."""
    newest = [(what["place"], what["stage"]) for _, what in events[-1:]]
    return [(when, what) for when, what in events if [(what["place"], what["stage"])] == newest]


def rates_of(events: Sequence[Event]) -> dict[str, Any]:
    """Rows and megabytes a second over the last seconds, at each event but the first: `time` in ms since 1970."""
    rates: dict[str, list[float]] = {"time": [], "rows": [], "bytes": []}
    first = 0
    for number in range(1, len(events)):
        when, now = events[number]
        while first < number - 1 and when - events[first][0] > RATE_SECONDS:
            first += 1
        before, then = events[first]
        seconds = max(when - before, 1e-3)
        rates["time"].append(1000 * when)
        rates["rows"].append((now["rows_done"] - then["rows_done"]) / seconds)
        rates["bytes"].append((now["bytes_read"] - then["bytes_read"]) / seconds / 1e6)
    return rates


def seconds_left(last: Mapping[str, Any], rates: Sequence[float]) -> float | None:
    """Until the last row at the last rate; None while there is none."""
    if not rates or not rates[-1]:
        return None
    return float((last["rows"] - last["rows_done"]) / rates[-1])
