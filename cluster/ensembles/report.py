"""The report of an ensemble in three forms with the same facts: JSON, Markdown, and a self-contained HTML file that
loads nothing."""

from collections.abc import Mapping
from typing import Any

from ...storage.metrics.names import in_usual_order, main_scores
from ...storage.metrics.scoring import Scoring
from ...storage.places.json_files import write_json
from ...training.run import RunFolder
from ..views.charts import bars_chart
from ..views.pages import template

TITLES = {"out_of_fold": "Out-of-fold", "holdout": "Holdout"}
METHODS = {
    "greedy": "greedy selection with replacement",
    "nnls": "non-negative least squares",
    "mean": "equal weights",
    "stack": "a linear model on the predictions",
}


def write_ensemble_report(folder: RunFolder, facts: Mapping[str, Any], scoring: Scoring) -> None:
    """Write report.html, report.md and report.json for an ensemble."""
    parts = [part for part in TITLES if part in facts]
    seen = {
        **facts,
        "name": folder.root.name,
        "place": str(folder.root),
        "parts": parts,
        "scores": {part: facts[part] for part in parts},
        "intervals": {part: facts[f"{part}_intervals"] for part in parts},
        "titles": TITLES,
        "how": f"{METHODS[facts['method']]}, {describe_rows(facts)}",
        "columns": {part: main_scores(in_usual_order(facts[part])) for part in parts},
        "best": {part: best_values(facts, part, scoring) for part in parts},
        "weighted": facts["method"] != "stack",
        "chart": bars_chart("weights", {one["name"]: one["weight"] for one in facts["members"]}),
    }
    folder.page.write(template("ensemble.html").render(seen).encode())
    folder.text.write(template("ensemble.md").render(seen).encode())
    write_json(folder.report, dict(facts))


def best_values(facts: Mapping[str, Any], part: str, scoring: Scoring) -> dict[str, float]:
    """The best score of a single member by its name, where members have it."""
    found = dict[str, float]()
    for name in facts[part]:
        values = [one[part][name] for one in facts["members"] if one[part].get(name) is not None]
        if values:
            found[name] = max(values) if scoring.higher_is_better(name) else min(values)
    return found


def describe_rows(facts: Mapping[str, Any]) -> str:
    """By which rows the weights were found, in words."""
    words = f"by {facts['rows']:,} rows"
    if facts["sampled"] < facts["rows"]:
        words = f"by a uniform sample of {facts['sampled']:,} of {facts['rows']:,} rows"
    if facts["uncovered"]:
        words += f"; {facts['uncovered']:,} rows without out-of-fold predictions do not count"
    return words
