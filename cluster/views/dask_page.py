"""Foldstream's pages in Dask's dashboard: the progress of a conversion, and a training run. A scheduler that preloads
this module shows them in its menu.

The conversion page shows events that the converting process logs with the scheduler, and the scheduler's facts about
its workers. The run page shows the record of the run whose location was last sent to the scheduler.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, FactorRange, NumeralTickFormatter
from bokeh.plotting import figure
from distributed import Scheduler
from distributed.dashboard.components.scheduler import BOKEH_THEME, env
from distributed.dashboard.core import BokehApplication
from distributed.dashboard.scheduler import template_variables
from tornado.ioloop import IOLoop

from ...storage.machine import this_machine
from ...storage.places.locate import locate
from ...storage.tasks import CONVERSION, DONE, RUN
from .pages import template
from .run_page import RunPage, panel
from .watch import REFRESH_SECONDS, RunPoller

UPDATE_MS = 250
RATE_SECONDS = 5.0  # window over which rates are averaged
COLORS = {"rows": "#3b82c4", "bytes": "#c98a1b", "memory": "#2e8b57", "limit": "#d9dee3"}

Event = tuple[float, Mapping[str, Any]]
"""When an event was logged, in seconds since 1970, and the progress of the conversion."""


def dask_setup(scheduler: Scheduler) -> None:
    """Add the pages to a scheduler's dashboard. Called by Dask when the scheduler starts."""
    variables = template_variables(scheduler)
    pages = {CONVERSION: open_conversion, RUN: open_run}
    routes = {f"/{name}": page for name, page in pages.items()}
    application = BokehApplication(routes, scheduler, prefix="", template_variables=variables)
    scheduler.http_application.add_application(application)
    application.initialize(IOLoop.current())
    variables["pages"] += pages


def open_conversion(scheduler: Scheduler, variables: Mapping[str, Any], document: Document) -> None:
    """Fill a document with the page of the newest conversion."""
    page = ConversionPage(scheduler)
    page.update()
    document.add_periodic_callback(page.update, UPDATE_MS)
    _fill(document, variables, page.root)


def open_run(scheduler: Scheduler, variables: Mapping[str, Any], document: Document) -> None:
    """Fill a document with the page of the newest run."""
    page = LatestRunPage(scheduler)
    page.update()
    document.add_periodic_callback(page.update, int(1000 * REFRESH_SECONDS))
    document.on_session_destroyed(lambda context: page.leave())
    _fill(document, variables, page.root)


def _fill(document: Document, variables: Mapping[str, Any], root: Any) -> None:
    document.add_root(root)
    document.title, document.theme = "Foldstream", BOKEH_THEME
    document.template = env.get_template("simple.html")
    document.template_variables.update(variables)


class LatestRunPage:
    """The page of the run that was last reported to the scheduler. Its record is read while the page is open."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler, self.place = scheduler, ""
        self.record: RunPoller | None = None
        nothing = panel(light=True)
        nothing.text = "<p>No run has started yet.</p>"
        self.root = column(nothing, sizing_mode="stretch_width")

    def update(self) -> None:
        """Show the current state."""
        events = self.scheduler.get_events(RUN) or ()
        place = events[-1][1]["place"] if events else ""
        if place != self.place:
            self.leave()
            self.place, self.record = place, RunPoller(locate(place))
            self.record.start()
            self.page = RunPage(place, "light", self.record.status, inside=True)
            self.root.children = self.page.parts
        elif self.record:
            self.page.show(self.record.status, self.record.problem)

    def leave(self) -> None:
        """Stop reading the record."""
        if self.record:
            self.record.stop()


class ConversionPage:
    """Numbers, rates over time, and the memory of each worker."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.facts = panel(light=True)
        self.rates = ColumnDataSource({name: [] for name in ("time", "rows", "bytes")}, name="rates")
        self.memory = ColumnDataSource({name: [] for name in ("worker", "used", "limit")}, name="memory")
        self.memory_figure = self._draw_memory()
        charts = [self._draw_rate("rows", "Rows/s"), self._draw_rate("bytes", "MB/s read")]
        beside = row(*charts, sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})
        self.root = column(self.facts, beside, self.memory_figure, sizing_mode="stretch_width")

    def update(self) -> None:
        """Show the current state."""
        events = conversion_of(self.scheduler.get_events(CONVERSION) or ())
        workers = sorted(self.scheduler.workers.values(), key=lambda worker: str(worker.name))
        rates = rates_of([event for event in events if event[1]["stage"] != DONE])
        self.rates.data = rates
        self.memory.data = {
            "worker": [str(worker.name) for worker in workers],
            "used": [worker.metrics["memory"] / 1e9 for worker in workers],
            "limit": [(worker.memory_limit or this_machine().memory) / 1e9 for worker in workers],  # none here
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
        drawn.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
        drawn.y_range.start = 0
        return drawn

    def _draw_memory(self) -> Any:
        drawn: Any = figure(title="Worker memory, GB", y_range=FactorRange(), sizing_mode="stretch_width")
        drawn.toolbar_location = None
        drawn.hbar("worker", right="limit", height=0.7, color=COLORS["limit"], source=self.memory)
        drawn.hbar("worker", right="used", height=0.7, color=COLORS["memory"], source=self.memory)
        drawn.xaxis.formatter = NumeralTickFormatter(format="0.0")
        drawn.x_range.start = 0
        return drawn


def conversion_of(events: Sequence[Event]) -> list[Event]:
    """The events of the newest stage of the newest conversion, and the one that says that it is complete."""
    ends = [number for number, (_, what) in enumerate(events[:-1]) if what["stage"] == DONE]
    own = events[ends[-1] + 1 if ends else 0 :]
    stages = [(what["place"], what["stage"]) for _, what in own if what["stage"] != DONE]
    return [(when, what) for when, what in own if what["stage"] == DONE or (what["place"], what["stage"]) == stages[-1]]


def rates_of(events: Sequence[Event]) -> dict[str, Any]:
    """Rows and megabytes per second, averaged over the last seconds, at each event except the first; `time` in ms since
    1970. Empty for stages that do not process rows yet."""
    rates: dict[str, list[float]] = {"time": [], "rows": [], "bytes": []}
    if events and "rows_done" not in events[-1][1]:
        return rates
    first = 0
    for number in range(1, len(events)):
        when, now = events[number]
        while first + 1 < number and when - events[first + 1][0] >= RATE_SECONDS:
            first += 1
        before, then = events[first]
        seconds = max(when - before, 1e-3)
        rates["time"].append(1000 * when)
        rates["rows"].append((now["rows_done"] - then["rows_done"]) / seconds)
        rates["bytes"].append((now["bytes_read"] - then["bytes_read"]) / seconds / 1e6)
    return rates


def seconds_left(last: Mapping[str, Any], rates: Sequence[float]) -> float | None:
    """Seconds until the last row at the latest rate; None if the rate is unknown."""
    if not rates or not rates[-1]:
        return None
    return float((last["rows"] - last["rows_done"]) / rates[-1])
