"""What people see, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from foldstream.storage.dataset import Dataset
from foldstream.storage.files import read_json
from playwright.sync_api import Browser

from ..browser import chromium, serious_issues, watch_page
from ..unit.test_report import complete_run

WIDTHS = {"light": 1100, "dark": 400}  # of the screen in pixels, in each colour scheme


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pages") / "run"
    complete_run(digits, root, model="mlp")
    return root / "report.html"


@pytest.mark.parametrize("scheme", WIDTHS)
def test_the_report_opens_offline_and_can_be_read(scheme: str, report: Path, browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": WIDTHS[scheme], "height": 900}, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
    told, asked = watch_page(page)
    page.goto(report.as_uri())
    assert asked == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[scheme]
    facts = read_json(report.with_suffix(".json"))
    titles = page.locator("h2").all_inner_texts()
    expected = ["Out of fold: 1,200 rows", "Folds", "Curves", "Out of fold: classes", "Out of fold: the worst 100 rows"]
    assert titles == [*expected, "Time", "The same once more"]
    assert page.locator("svg").count() == 4
    assert page.locator(".scores strong").first.inner_text() == f"{facts['out_of_fold']['scores']['accuracy']:.4f}"
    pictures = page.locator(".pictures img")
    assert pictures.count() == 100
    assert pictures.evaluate_all("all => all.every(one => one.naturalWidth == 112)")
    assert page.locator("code").first.inner_text() == facts["command"]
    assert serious_issues(page) == []
    assert told == []
    page.close()
