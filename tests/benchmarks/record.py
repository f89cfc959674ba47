"""Writes figures to sections of docs/benchmarks.md between two markers, with the machine that produced them."""

import os
import re
from datetime import date
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def machine() -> str:
    """A description of this machine, and the month."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return f"{len(os.sched_getaffinity(0))} cores ({model[1] if model else 'unknown'}), {date.today():%B %Y}"


def write_section(name: str, lines: list[str]) -> None:
    """Replace the text between the markers of a section."""
    begin, end = f"<!-- {name}: written by its command -->", f"<!-- end of {name} -->"
    before, _, rest = PAGE.read_text().partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text("\n".join([before + begin, "", *lines, end]) + after)
