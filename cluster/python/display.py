"""How objects look in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def run_html(title: str, facts: str, report: str, scores: pd.DataFrame) -> str:
    """A run: its title, its facts, a table of scores and a link to its report."""
    link = f'<a href="{escape(report)}" target="_blank">{escape(report)}</a>'
    table = scores.to_html(float_format="{:.4g}".format, border=0)
    return f"<b>{escape(title)}</b><br>{escape(facts)}{table}<p>Report: {link}</p>"


def dataset_html(title: str, facts: str, columns: pd.DataFrame) -> str:
    """A dataset: its title, its facts and its columns."""
    table = columns.to_html(float_format="{:.4g}".format, border=0, index=False, na_rep="")
    return f"<b>{escape(title)}</b><br>{escape(facts)}{table}"
