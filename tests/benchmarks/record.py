"""Writes figures to sections of docs/benchmarks.md between two markers, with the machine that produced them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

Figures = dict[str, Any]
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@contextmanager
def timed(figures: Figures, name: str) -> Iterator[None]:
    """Record how many seconds a block takes."""
    started = perf_counter()
    yield
    figures[f"{name}_seconds"] = perf_counter() - started


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
