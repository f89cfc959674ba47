"""The built documentation: every link leads somewhere, and the reference has every public name and every command."""

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from inspect import Parameter, isfunction, signature
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import foldstream as fs
import pytest
from foldstream.cli import app
from foldstream.training.config import Recipe
from typer.main import get_command

from ..browser import chromium, serious_issues, served

ROOT = Path(__file__).parents[2]
PACKAGE = "__init__.py", "cli.py", "cluster", "pipeline", "storage", "training"


class Page(HTMLParser):
    """What a page links to, its anchors, and its text by the anchor of the heading above."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.sections: dict[str, list[str]] = {}
        self._section = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if anchor := values.get("id") or (values.get("name") if tag == "a" else None):
            self.anchors.add(anchor)
            if tag in ("h1", "h2", "h3", "h4"):
                self._section = anchor
        self.links += [link for name in ("href", "src") if (link := values.get(name))]
        if tag == "table":
            self._add("<table>")

    def handle_data(self, data: str) -> None:
        self._add(data)

    def _add(self, text: str) -> None:
        self.sections.setdefault(self._section, []).append(text)

    def text(self, anchor: str) -> str:
        """The text below a heading, up to the next one."""
        return " ".join("".join(self.sections[anchor]).split())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    (reference := folder / "reference" / "foldstream").mkdir(parents=True)
    for name in PACKAGE:
        (reference / name).symlink_to(ROOT / name)
    environment = os.environ | {"FOLDSTREAM_REFERENCE": str(reference.parent), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site."""
    return {path: Page(path) for path in site.rglob("*.html")}


def broken_links(pages: dict[Path, Page], site: Path) -> Iterator[str]:
    """Each link of a page to a file or an anchor that does not exist."""
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = path if not parts.path else Path(os.path.normpath(path.parent / unquote(parts.path)))
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].anchors if target in pages else {""}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in known):
                yield f"{path.relative_to(site)}: {link}"


def test_every_link_leads_to_a_page_and_an_anchor(pages: dict[Path, Page], site: Path) -> None:
    assert len(pages) > 60
    assert list(broken_links(pages, site)) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<h1 id="x">A</h1><a href="#y">1</a><a href="b.html">2</a><a href="#x">3</a>')
    assert list(broken_links({tmp_path / "a.html": Page(tmp_path / "a.html")}, tmp_path)) == [
        "a.html: #y",
        "a.html: b.html",
    ]


def parameters_of(thing: Any) -> list[Parameter]:
    found = [one for one in signature(thing).parameters.values() if one.name != "self"]
    return [one for one in found if one.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]


def callables() -> Iterator[str]:
    """The public functions, the classes that people make objects of, and the methods of all classes, by name."""
    for name in fs.__all__:
        thing = getattr(fs, name)
        if not isinstance(thing, type):
            yield name
            continue
        if "Args:" in (thing.__doc__ or ""):
            yield name
        yield from (
            f"{name}.{one}"
            for one, what in vars(thing).items()
            if isfunction(what) and what.__name__ == one and one[0] != "_"
        )


@pytest.mark.parametrize("name", [*callables()])
def test_the_reference_has_a_signature_and_a_table_of_parameters(
    name: str, pages: dict[Path, Page], site: Path
) -> None:
    text = pages[site / "reference" / "python" / "index.html"].text(f"foldstream.{name}")
    parameters = parameters_of(attrgetter(name)(fs))
    before, _, described = text.partition("Parameters:")
    assert f"{name.rpartition('.')[2]}(" in before, text[:200]
    assert not parameters or "<table>" in described
    for parameter in parameters:
        assert f" {parameter.name}" in before or f"({parameter.name}" in before
        assert f" {parameter.name} " in described, parameter.name


def test_the_reference_has_every_command_with_its_options(pages: dict[Path, Page], site: Path) -> None:
    page = pages[site / "reference" / "commands" / "index.html"]

    def check(command: Any, name: str) -> None:
        for key, one in getattr(command, "commands", {}).items():
            inner = f"{name} {key}"
            text = page.text(inner.replace(" ", "-"))
            assert all(option in text for parameter in one.params for option in parameter.opts if option[0] == "-"), (
                name
            )
            check(one, inner)

    check(get_command(app), "foldstream")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_have_no_serious_issues_of_accessibility(scheme: Any, site: Path) -> None:
    names = "", "quickstart/table/", "concepts/", "reference/python/", "guides/model/", "notebooks/table/"
    with served(site) as address, chromium() as browser:
        for name in names:
            page = browser.new_page(viewport={"width": 400, "height": 900}, color_scheme=scheme)
            page.goto(f"{address}/{name}")
            assert page.evaluate("document.documentElement.scrollWidth") == 400, name
            assert serious_issues(page) == [], name
            page.close()


def test_the_page_of_settings_has_each_setting(pages: dict[Path, Page], site: Path) -> None:
    text = pages[site / "reference" / "settings" / "index.html"].text("settings")
    assert [name for name in Recipe.settings() if f" {name} " not in text] == []
