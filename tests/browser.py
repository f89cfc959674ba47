"""A real browser without a window: Debian's chromium."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # a page of ours is drawn every ten seconds
PLACES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str:
    """Where the browser is. Skips the test where there is none."""
    for name in PLACES:
        if path := shutil.which(name):
            return path
    pytest.skip("there is no chromium on this machine (Debian: chromium)")


@contextmanager
def chromium() -> Iterator[Browser]:
    path = find_chromium()
    with sync_playwright() as playwright:
        # Its own sandbox wants a user without rights, and these tests open pages of ours alone.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def watch_page(page: Page) -> tuple[list[str], list[str]]:
    """What a page writes to its console from now on, and what it asks for beyond its own data."""
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    return told, asked


def serious_issues(page: Page) -> list[str]:
    """What axe-core finds on a page that keeps people from reading it."""
    found = Axe().run(page).response["violations"]
    return [
        f"{issue['id']}: {node['html'][:200]}"
        for issue in found
        if issue["impact"] in ("serious", "critical")
        for node in issue["nodes"]
    ]


def source_data(page: Page, name: str) -> dict[str, list[Any]]:
    """The columns of a data source of the page, by its name."""
    found: dict[str, list[Any]] = page.evaluate(
        "name => Object.fromEntries(Object.entries(Bokeh.documents[0].get_model_by_name(name).data)"
        ".map(([column, values]) => [column, Array.from(values)]))",
        name,
    )
    return found


@contextmanager
def started_watch(run: Path) -> Iterator[str]:
    """The command that watches a run. Yields its page's address."""
    command = [sys.executable, "-m", "foldstream.cli", "watch", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as watching:
        assert watching.stdout
        address = re.search(r"http://\S+(?=,)", watching.stdout.readline())
        assert address, watching.stdout.read()
        try:
            yield address[0]
        finally:
            watching.send_signal(signal.SIGINT)
        told = watching.stdout.read()
    assert watching.returncode == 0, told
