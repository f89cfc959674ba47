"""The report of a search, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import foldstream as fs
import pytest
from foldstream.storage.dataset import Dataset
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from playwright.sync_api import Browser

from ..browser import chromium, serious_issues, watch_page

WIDTHS = {"light": 1100, "dark": 400}  # of the screen in pixels, in each colour scheme
SPACE = {"lr": (1e-3, 1e9, "log"), "hidden": [8, 16]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_of_search(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a search, some of whose candidates diverge."""
    root = tmp_path_factory.mktemp("search") / "run"
    options = {"model": "mlp", "folds": 2, "epochs": 3, "settings": {"optimizer": "SGD"}, "progress": False}
    fs.search(digits.place, root, space=SPACE, trials=24, width=24, sampler="random", **options)  # type: ignore[arg-type]
    return root / "search.html"


@pytest.mark.parametrize("scheme", WIDTHS)
def test_the_report_of_a_search_opens_offline_and_can_be_read(
    scheme: str, page_of_search: Path, browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": WIDTHS[scheme], "height": 900}, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
    told, asked = watch_page(page)
    page.goto(page_of_search.as_uri())
    assert asked == [page_of_search.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[scheme]
    facts = read_json(locate(page_of_search.parent / "search.json"))["facts"]
    titles = page.locator("h2").all_inner_texts()
    assert titles == ["Result", "Rungs", "Scores", "Importance of the settings", "Candidates"]
    assert page.locator("svg").count() == 2
    assert page.locator("#trials ~ .scroll tbody tr").count() == 24
    assert page.locator("#rungs ~ .scroll tbody tr").count() == len(facts["rungs"])
    assert page.locator("#importance ~ .scroll tbody th").all_inner_texts() == sorted(
        facts["importance"], key=lambda name: -facts["importance"][name]
    )
    assert page.get_by_text("the training loss is nan").count() > 0
    assert page.locator(".scores strong").first.inner_text() == facts["best"]
    assert page.get_by_role("link").get_attribute("href") == f"candidates/{facts['best']}/report.html"
    assert (page_of_search.parent / f"candidates/{facts['best']}/report.html").exists()
    assert serious_issues(page) == []
    assert told == []
    page.screenshot(path=tmp_path / f"search-{scheme}.png", full_page=True)
    page.close()
