"""A server on loopback for the page of a run. It polls the record of the run, whether in progress or complete."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import Server

from ...storage.errors import FoldstreamError
from ...storage.places.place import Place
from ..loopback import LOOPBACK, free_port
from ..runs.status import RunRecord, RunStatus, run_status
from .pages import template
from .run_page import RunPage

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


@contextmanager
def run_server(root: Place, port: int = WATCH_PORT) -> Iterator[Server]:
    """Serve the page of the run at `root`, on the given port or a free one. Raises ForeignError if the folder contains
    no run."""
    record = RunPoller(root, run_status(root))

    def open_page(document: Document) -> None:
        context: Any = document.session_context
        scheme = "dark" if context.request.arguments.get("scheme") == [b"dark"] else "light"
        page = RunPage(str(root), scheme, record.status)
        for part in page.parts:
            document.add_root(part)
        document.title, document.theme = str(root), THEMES[scheme]
        document.template = template("live.html")
        document.template_variables["scheme"] = scheme
        document.add_periodic_callback(lambda: page.show(record.status, record.problem), int(1000 * REFRESH_SECONDS))

    port = free_port(port)
    origins = [f"{host}:{port}" for host in (LOOPBACK, "localhost")]
    application = Application(FunctionHandler(open_page))
    options: dict[str, Any] = {"port": port, "address": LOOPBACK, "allow_websocket_origin": origins}
    server = Server({"/": application}, **options)
    server.start()
    record.start()
    try:
        yield server
    finally:
        record.stop()
        record.reader.join(REFRESH_SECONDS)
        server.stop()
        server.unlisten()
