"""A server on loopback for the pages of runs. It polls their records, whether in progress or complete."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Any
from urllib.parse import quote

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import Server
from tornado.web import HTTPError, RequestHandler

from ...storage.errors import FoldstreamError, UsageError
from ...storage.places.place import Place
from ...training.run import RunFolder, best_folder, has_candidates
from ..loopback import LOOPBACK, free_port
from ..runs.status import RunRecord, RunStatus, run_status
from .pages import template
from .run_page import RunPage
from .runs_page import RunsPage

log = logging.getLogger(__name__)

WATCH_PORT = 5006
REFRESH_SECONDS = 1.0  # between two refreshes of an open page
POLL_SECONDS = 4.0, 30.0
"""Bounds for the seconds between two polls of the record. The interval grows with the run's elapsed time, because a
browser on the training machine takes computing time from the training."""
GROWTH = 0.02  # fraction of the run's time between two polls
POLL_RATIO = 100.0  # a pause is at least this many times as long as a poll takes
THEMES = {"light": "light_minimal", "dark": "dark_minimal"}


@dataclass
class RunPoller:
    """Polls the status of a run in a background thread, since a bucket may respond slowly."""

    root: Place
    status: RunStatus = field(default_factory=lambda: RunStatus(False, []))
    problem: str = ""
    """Why the last poll failed."""
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.record = RunRecord(self.root)
        self.reader = threading.Thread(target=self._follow, name="foldstream-record", daemon=True)

    def start(self) -> None:
        self.reader.start()

    def stop(self) -> None:
        """Ask the thread to stop, without waiting for it."""
        self.ended.set()

    def _follow(self) -> None:
        pause = 0.0
        while not self.status.complete and not self.ended.wait(pause):
            began = perf_counter()
            try:
                self.status, self.problem = self.record.poll(), ""
            except (OSError, FoldstreamError) as error:  # a file is being written, or the object store is busy
                self.problem = f"cannot read the run's record at the moment: {error}"
                log.warning("%s: %s", self.root, self.problem)
            growth = GROWTH * (time() - self.status.started)
            pause = max(min(max(growth, POLL_SECONDS[0]), POLL_SECONDS[1]), POLL_RATIO * (perf_counter() - began))


def is_run(place: Place) -> bool:
    """Whether a folder is that of a run or of a grid."""
    return RunFolder(place).job.exists() or has_candidates(place)


def find_runs(places: Sequence[Place]) -> dict[str, Place]:
    """Runs by name: each place is a run, or a folder of runs.

    Raises ForeignError for a place that is neither.
    """
    found: list[Place] = []
    for place in places:
        inside = [] if is_run(place) else [place / name for name in place.subfolders() if is_run(place / name)]
        if not inside:
            run_status(place)  # raises if it is not a run
        found += inside or [place]
    names = [place.name for place in found]
    return {place.name if names.count(place.name) == 1 else str(place): place for place in found}


class RunsServer:
    """The pages of some runs, and of runs that are added to their folder while the server runs."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places, self.pollers = places, dict[str, RunPoller]()
        self.add_runs()

    def add_runs(self) -> None:
        """Follow the runs that are not followed yet."""
        for name, place in find_runs(self.places).items():
            if name not in self.pollers:
                self.pollers[name] = RunPoller(place, run_status(place))
                self.pollers[name].start()

    @property
    def statuses(self) -> Mapping[str, RunStatus]:
        """The latest status of each run."""
        return {name: poller.status for name, poller in self.pollers.items()}

    def open_page(self, document: Document) -> None:
        """Fill a document with the page of the run that the address names, or of all runs."""
        context: Any = document.session_context
        asked = {name: values[0].decode() for name, values in context.request.arguments.items()}
        scheme = "dark" if asked.get("scheme") == "dark" else "light"
        self.add_runs()
        single = next(iter(self.pollers)) if len(self.pollers) == 1 else ""
        name = asked.get("run", single)
        page, show = self._run_page(name, scheme, single) if name else self._runs_page(scheme)
        for part in page.parts:
            document.add_root(part)
        document.title, document.theme = f"{page.title} – Foldstream", THEMES[scheme]
        document.template = template("live.html")
        document.template_variables["scheme"] = scheme
        document.add_periodic_callback(show, int(1000 * REFRESH_SECONDS))

    def _run_page(self, name: str, scheme: str, single: str) -> tuple[RunPage, Callable[[], None]]:
        if name not in self.pollers:
            raise UsageError(f"there is no run {name}; the runs are {', '.join(self.pollers)}")
        poller = self.pollers[name]
        report, others = f"report?run={quote(name, safe='')}", "" if single else f"?scheme={scheme}"
        page = RunPage(str(poller.root), scheme, poller.status, report=report, others=others)
        return page, lambda: page.show(poller.status, poller.problem)

    def _runs_page(self, scheme: str) -> tuple[RunsPage, Callable[[], None]]:
        title = self.places[0].name if len(self.places) == 1 else "Runs"
        page = RunsPage(title, scheme, self.statuses)
        return page, lambda: page.show(self.statuses)

    def stop(self) -> None:
        """Stop following all runs."""
        for poller in self.pollers.values():
            poller.stop()
        for poller in self.pollers.values():
            poller.reader.join(REFRESH_SECONDS)


class ReportHandler(RequestHandler):
    """Serves the report of a complete run."""

    def initialize(self, runs: RunsServer, origins: Sequence[str]) -> None:
        self.runs, self.origins = runs, origins

    def get(self) -> None:
        """Respond with the report of the run that the address names."""
        if self.request.host not in self.origins:  # another site's name, resolved to this machine
            raise HTTPError(403)
        name = self.get_query_argument("run")
        if name not in self.runs.pollers:
            raise HTTPError(404)
        try:
            self.finish(RunFolder(best_folder(self.runs.pollers[name].root)).page.read_bytes())
        except FileNotFoundError:
            raise HTTPError(404) from None


@contextmanager
def run_server(places: Sequence[Place], port: int = WATCH_PORT) -> Iterator[Server]:
    """Serve the pages of the runs at `places`, each a run or a folder of runs, on the given port or a free one. Raises
    ForeignError if a folder contains no run."""
    runs, port = RunsServer(places), free_port(port)
    origins = [f"{host}:{port}" for host in (LOOPBACK, "localhost")]
    application = Application(FunctionHandler(runs.open_page))
    reports = (r"/report", ReportHandler, {"runs": runs, "origins": origins})
    options: dict[str, Any] = {"port": port, "address": LOOPBACK, "allow_websocket_origin": origins}
    server = Server({"/": application}, extra_patterns=[reports], **options)
    server.start()
    try:
        yield server
    finally:
        runs.stop()
        server.stop()
        server.unlisten()
