"""The templates of all pages, and how they write numbers."""

import re
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape


def template(name: str) -> Template:
    """A template by its file's name."""
    return _pages.get_template(name)


def number(value: float | None) -> str:
    """Four digits behind the point, or as many of a large or tiny number as tell it."""
    if value is None:
        return "–"
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.4g}"


def share(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """A time in seconds since 1970, as UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def checkpoint(name: str) -> str:
    """A checkpoint's file in words: so many epochs, and steps of the next one."""
    if not (found := re.search(r"epoch-(\d+)-step-(\d+)", name)):
        return ""
    epochs, steps = map(int, found.groups())
    return f"epoch {epochs}, step {steps}" if steps else f"epoch {epochs}"


def cell(value: object) -> str:
    """Text in a cell of a table in Markdown."""
    return str(value).replace("|", "\\|").replace("\n", " ")


_pages = Environment(
    loader=PackageLoader(__package__),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages.filters |= {"number": number, "duration": duration, "clock": clock, "cell": cell, "checkpoint": checkpoint}
