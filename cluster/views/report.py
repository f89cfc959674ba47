"""The report of a complete run in three forms with the same facts: JSON, Markdown, and a self-contained HTML file that
loads nothing. Its only script copies the command."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ...storage.dataset import Dataset
from ...storage.metrics.names import main_scores
from ...storage.places.json_files import write_json
from ...training.engine.fold_reports import open_logs
from ...training.fitted.baseline import baseline_says
from ...training.run import RunFolder, RunJob
from ...training.settings import trained_loss
from .charts import calibration_chart, curves_chart, precision_recall_chart, roc_chart
from .facts import CACHE_HITS, TIMES, run_facts
from .pages import script, template
from .worst import FIRST_ROWS, Browse, add_features, shown_features, worst_rows

MOST_IN_MATRIX = 30  # classes
MOST_IN_IMAGE = 1000  # classes
IMAGE_PIXELS = 320  # width and height of the image of a confusion matrix
MOST_PAIRS = 25  # of confused classes, listed if the matrix would be too large
TITLES = {"out_of_fold": "Out-of-fold", "holdout": "Holdout"}
LOSSES = {"training": "train_loss", "held out": "loss"}  # share a chart


def write_report(
    run: RunFolder,
    job: RunJob,
    dataset: Dataset,
    merged: Mapping[str, Any],
    baseline: Mapping[str, float],
    browse: Browse,
) -> None:
    """Write report.html, report.md and report.json for a run whose folds are done. `merged` holds the reports of its
    merged predictions by part, `baseline` the scores of a model that ignores the features."""
    facts = run_facts(run, job, dataset, merged, baseline)
    names = shown_features(job.schema)
    for part in merged:
        add_features(facts[part]["worst"], names, browse)
    code, source = script("copy.js")
    seen = {
        **facts,
        "parts": {part: facts[part] for part in merged},
        "name": run.root.name,
        "script": code,
        "script_source": source,
        "features": names,
        "all_features": len(job.schema.tabular.features),
        "first_rows": FIRST_ROWS,
        "ranking": {part: draw_ranking(curves) for part in merged if (curves := facts[part].get("curves"))},
        "titles": TITLES,
        "times": TIMES,
        "cached": any(fold[CACHE_HITS] is not None for fold in facts["folds"]),
        "columns": main_scores(facts["spread"]),
        "baseline_is": baseline_says(job.schema),
        "windows": bool(job.schema.windows),
        "charts": draw_curves(facts["folds"], trained_loss(job.config, job.schema)),
        "calibration": {part: calibration_chart(facts[part]["calibration"]) for part in merged if job.schema.classes},
        "matrix": 0 < len(job.schema.classes) <= MOST_IN_MATRIX,
        "confusion": {part: confusion(facts[part], len(job.schema.classes)) for part in merged if job.schema.classes},
        "worst": {part: worst_rows(facts[part]["worst"], job.schema, dataset) for part in merged},
    }
    run.page.write(template("report.html").render(seen).encode())
    text = template("report.md").render(seen)
    run.text.write(text.encode())
    write_json(run.report, facts)
    log_report(run, text, {part: facts[part] for part in merged if job.schema.classes})


def log_report(run: RunFolder, text: str, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Log the report to TensorBoard as text, and the confusion matrix of each part as an image."""
    logs = open_logs(run.tensorboard / "report", 0)
    logs.add_text("report", text)
    for part, report in parts.items():
        if len(report["by_class"]) > MOST_IN_IMAGE:
            continue
        logs.add_image(f"{part}/confusion", confusion_image(report), dataformats="HW")
    logs.close()


def confusion_image(report: Mapping[str, Any]) -> np.ndarray:
    """Draw a confusion matrix, true classes down and predicted classes across, (height, width) uint8. The darker a
    cell, the larger its share of the true class."""
    classes = len(report["by_class"])
    shares = np.zeros((classes, classes))
    for truth, chosen, rows in report["confusion"]:
        shares[truth, chosen] = rows / report["by_class"][truth]["rows"]
    pixels = np.round(255 * (1 - shares)).astype(np.uint8)
    return np.kron(pixels, np.ones((max(1, IMAGE_PIXELS // classes),) * 2, np.uint8))


def draw_curves(folds: Sequence[Mapping[str, Any]], trained: str) -> dict[str, tuple[Markup, list[str]]]:
    """A chart for each score and one for both losses, each with the names of its lines. If `trained`, the name of what
    is trained on, is another measure than what held-out rows are scored by, each loss has a chart."""
    names = [name for name in main_scores(folds[0]["curves"]) if name not in LOSSES.values()]
    losses = {
        title: [fold["curves"][name] for fold in folds] for title, name in LOSSES.items() if name in folds[0]["curves"]
    }
    own = {trained: {"training": losses.pop("training")}} if trained != "loss" and "training" in losses else {}
    charts = (
        {"loss": losses}
        | own
        | {name: {"held out": [fold["curves"][name] for fold in folds if name in fold["curves"]]} for name in names}
    )
    return {name: (curves_chart(name, families), list(families)) for name, families in charts.items()}


def draw_ranking(curves: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Markup, dict[str, float]]]:
    """The ROC and the precision-recall chart by title, each with the area of each class or label."""
    points = [curve["points"] for curve in curves.values()]
    return {
        "ROC curve": (roc_chart(points), {name: curve["auc"] for name, curve in curves.items()}),
        "Precision-recall curve": (
            precision_recall_chart(points),
            {name: curve["average_precision"] for name, curve in curves.items()},
        ),
    }


def confusion(report: Mapping[str, Any], classes: int) -> Any:
    """The rows of a confusion matrix, each cell as (count, share of its true class); with many classes, the most
    frequently confused pairs."""
    counts = {(truth, chosen): rows for truth, chosen, rows in report["confusion"]}
    if classes > MOST_IN_MATRIX:
        wrong = [(*pair, rows) for pair, rows in counts.items() if pair[0] != pair[1]]
        return sorted(wrong, key=lambda one: -one[2])[:MOST_PAIRS]
    totals = [max(1, one["rows"]) for one in report["by_class"]]
    every = range(classes)
    return [
        [(counts.get((truth, chosen), 0), counts.get((truth, chosen), 0) / totals[truth]) for chosen in every]
        for truth in every
    ]
