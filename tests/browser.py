"""A real browser without a window: Debian's chromium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

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
