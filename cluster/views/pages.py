"""The templates of all pages, and their number formats."""

import base64
import hashlib
import re
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

from ...storage.machine import size_text


def template(name: str) -> Template:
    """Load a template by its file name."""
    return _pages.get_template(name)


def number(value: float | None) -> str:
    """Format a number with four decimals, or four significant digits if it is large or tiny."""
    if value is None:
        return "–"
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.4g}"


def setting(value: object) -> str:
    """Format the value of a setting, a number with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def share(value: float) -> str:
    """Format a fraction as a percentage."""
    return f"{100 * value:.1f}%"


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def script(name: str) -> tuple[Markup, str]:
    """An inline script, and the source expression by which a content security policy allows exactly this one."""
    text = template(name).render()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"


def clock(seconds: float) -> str:
    """Format a time in seconds since 1970 as UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def checkpoint(name: str) -> str:
    """Format the file name of a checkpoint: completed epochs, and steps of the next epoch."""
    if not (found := re.search(r"epoch-(\d+)-step-(\d+)", name)):
        return ""
    epochs, steps = map(int, found.groups())
    return f"epoch {epochs}, step {steps}" if steps else f"epoch {epochs}"


def cell(value: object) -> str:
    """Escape text for a cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


_pages = Environment(
    loader=PackageLoader(__package__),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages.filters |= {
    "setting": setting,
    "number": number,
    "duration": duration,
    "clock": clock,
    "cell": cell,
    "checkpoint": checkpoint,
    "size": size_text,
}
