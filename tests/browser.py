"""A real headless browser: Chromium from Debian."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # our pages are redrawn every ten seconds
PLACES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str:
    """The path of the browser. Skips the test if it is not installed."""
    for name in PLACES:
        if path := shutil.which(name):
            return path
    pytest.skip("Chromium is not installed (Debian package: chromium)")


@contextmanager
def chromium() -> Iterator[Browser]:
    path = find_chromium()
    with sync_playwright() as playwright:
        # Chromium's sandbox requires an unprivileged user. These tests open only our own pages.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def watch_page(page: Page) -> tuple[list[str], list[str]]:
    """Record the console messages of a page, and the URLs that it requests, except for `data:` URLs."""
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url) if not request.url.startswith("data:") else None)
    return messages, requests


def serious_issues(page: Page, part: str | None = None) -> list[str]:
    """The serious and critical accessibility violations that axe-core finds on a page, or in the part of it that this
    selector matches."""
    found = Axe().run(page, context=part).response["violations"]
    return [
        f"{issue['id']}: {node['html'][:200]}"
        for issue in found
        if issue["impact"] in ("serious", "critical")
        for node in issue["nodes"]
    ]


def source_data(page: Page, name: str) -> dict[str, list[Any]]:
    """The columns of a Bokeh data source of the page, found by its name."""
    found: dict[str, list[Any]] = page.evaluate(
        "name => Object.fromEntries(Object.entries(Bokeh.documents[0].get_model_by_name(name).data)"
        ".map(([column, values]) => [column, Array.from(values)]))",
        name,
    )
    return found


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of a folder. Yields its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def started_watch(run: Path) -> Iterator[str]:
    """Run 'foldstream watch' on a run. Yields the URL of its page."""
    command = [sys.executable, "-m", "foldstream.cli", "watch", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as watching:
        assert watching.stdout
        address = re.search(r"http://\S+(?=,)", watching.stdout.readline())
        assert address, watching.stdout.read()
        try:
            yield address[0]
        finally:
            watching.send_signal(signal.SIGINT)
        output = watching.stdout.read()
    assert watching.returncode == 0, output
