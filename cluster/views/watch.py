"""A server for a run's page, on loopback: it reads the run's record, wherever the run is and whether it is over."""

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
from ...storage.object_path import AnyPath
from ..loopback import LOOPBACK, free_port
from ..runs.status import RunRecord, RunStatus, run_status
from .pages import template
from .run_page import RunPage

log = logging.getLogger(__name__)

WATCH_PORT = 5006
REFRESH_SECONDS = 1.0  # between two looks of a page at what was read
POLL_SECONDS = 4.0, 30.0
"""Seconds between two looks at the record: at the beginning, and later, for a browser on the machine that trains takes
its share of that."""
GROWTH = 0.02  # of the run's time until the next look, between these
POLL_RATIO = 100.0  # of what a look takes, at least
THEMES = {"light": "light_minimal", "dark": "dark_minimal"}


@dataclass
class RunPoller:
    """A run's status, read again and again by a thread of its own: a bucket may take its time to answer."""

    root: AnyPath
    status: RunStatus = field(default_factory=lambda: RunStatus(False, []))
    problem: str = ""
    """Why it could not be read the last time."""
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.record = RunRecord(self.root)
        self.reader = threading.Thread(target=self._follow, name="foldstream-record", daemon=True)

    def start(self) -> None:
        self.reader.start()

    def stop(self) -> None:
        """Have the thread end, without waiting for it."""
        self.ended.set()

    def _follow(self) -> None:
        pause = 0.0
        while not self.status.complete and not self.ended.wait(pause):
            began = perf_counter()
            try:
                self.status, self.problem = self.record.poll(), ""
            except (OSError, FoldstreamError) as error:  # a file that is written just now, a store that is busy
                self.problem = f"the record cannot be read just now: {error}"
                log.warning("%s: %s", self.root, self.problem)
            growth = GROWTH * (time() - self.status.started)
            pause = max(min(max(growth, POLL_SECONDS[0]), POLL_SECONDS[1]), POLL_RATIO * (perf_counter() - began))


@contextmanager
def run_server(root: AnyPath, port: int = WATCH_PORT) -> Iterator[Server]:
    """A server for the page of the run at `root`, on the port or on a free one. Raises ForeignError where there is no
    run."""
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
