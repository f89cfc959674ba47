"""The report of a complete run in three forms, all of the same facts: JSON, Markdown, and one HTML file that needs
nothing else, neither scripts nor a network."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ...pipeline.images.preview import is_image_shape, render_sample
from ...storage.dataset import Dataset
from ...storage.files import write_atomic, write_json
from ...storage.format import Schema
from ...storage.reader import BlockReader
from ...training.engine.event_logs import open_logs
from ...training.run import RunFolder, RunJob
from .charts import calibration_chart, curves_chart
from .facts import TIMES, run_facts
from .pages import number, share, template

MOST_IN_MATRIX = 30  # classes
MOST_PICTURED = 1000  # classes
PICTURE = 320  # pixels of a confusion, across and down
MOST_PAIRS = 25  # of classes that are taken for each other, where a matrix would be too large
TITLES = {"out_of_fold": "Out of fold", "holdout": "Holdout"}
LOSSES = {"training": "train_loss", "held out": "loss"}  # in one chart


def write_report(run: RunFolder, job: RunJob, dataset: Dataset, merged: Mapping[str, Any]) -> None:
    """Write report.html, report.md and report.json into a run whose folds are done, with the reports of its `merged`
    predictions by their parts."""
    facts = run_facts(run, job, dataset, merged)
    seen = {
        **facts,
        "parts": {part: facts[part] for part in merged},
        "titles": TITLES,
        "times": TIMES,
        "charts": draw_curves(facts["folds"]),
        "calibration": {part: calibration_chart(facts[part]["calibration"]) for part in merged if job.schema.classes},
        "matrix": 0 < len(job.schema.classes) <= MOST_IN_MATRIX,
        "confusion": {part: confusion(facts[part], len(job.schema.classes)) for part in merged if job.schema.classes},
        "worst": {part: worst_rows(facts[part]["worst"], job.schema, dataset) for part in merged},
    }
    write_atomic(run.page, template("report.html").render(seen).encode())
    text = template("report.md").render(seen)
    write_atomic(run.text, text.encode())
    write_json(run.report, facts)
    log_report(run, text, {part: facts[part] for part in merged if job.schema.classes})


def log_report(run: RunFolder, text: str, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Have TensorBoard show the report as text, and each part's confusion as a picture."""
    logs = open_logs(run.tensorboard / "report", 0)
    logs.add_text("report", text)
    for part, report in parts.items():
        if len(report["by_class"]) > MOST_PICTURED:
            continue
        logs.add_image(f"{part}/confusion", confusion_picture(report), dataformats="HW")
    logs.close()


def confusion_picture(report: Mapping[str, Any]) -> np.ndarray:
    """True classes downwards, most probable ones across, (height, width) uint8: the darker, the more of its class."""
    classes = len(report["by_class"])
    shares = np.zeros((classes, classes))
    for truth, chosen, rows in report["confusion"]:
        shares[truth, chosen] = rows / report["by_class"][truth]["rows"]
    pixels = np.round(255 * (1 - shares)).astype(np.uint8)
    return np.kron(pixels, np.ones((max(1, PICTURE // classes),) * 2, np.uint8))


def draw_curves(folds: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Markup, list[str]]]:
    """A chart for each score, and one for the losses; and what each of its lines is."""
    names = [name for name in folds[0]["curves"] if name not in LOSSES.values()]
    losses = {
        title: [fold["curves"][name] for fold in folds] for title, name in LOSSES.items() if name in folds[0]["curves"]
    }
    charts = {"loss": losses} | {name: {"held out": [fold["curves"][name] for fold in folds]} for name in names}
    return {name: (curves_chart(name, families), list(families)) for name, families in charts.items()}


def confusion(report: Mapping[str, Any], classes: int) -> Any:
    """The rows of a matrix, each of (rows, share of its class), or of many classes the pairs that are most often taken
    for each other."""
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


def worst_rows(rows: Sequence[Mapping[str, Any]], schema: Schema, dataset: Dataset) -> list[dict[str, Any]]:
    """The worst rows in words, with a picture of those that are pictures."""
    reader, told = BlockReader(dataset, ["x"]), []
    for row in rows:
        truth, prediction = row["truth"], row["prediction"]
        if schema.classes:
            chosen = max(range(len(prediction)), key=prediction.__getitem__)
            own = int(truth[0])
            words = {
                "truth": schema.classes[own],
                "predicted": f"{schema.classes[chosen]} ({share(prediction[chosen])})",
            }
        else:
            words = {
                "truth": ", ".join(map(number, truth)),
                "predicted": ", ".join(map(number, prediction)),
            }
        told.append({"row": row["row"], "name": row["name"], "loss": row["loss"], "picture": "", **words})
        if is_image_shape(schema.sample_shape):
            block, place = divmod(row["row"], dataset.layout.block_rows)
            buffer = io.BytesIO()
            render_sample(reader.read([block])["x"][place], dataset).save(buffer, "PNG")
            told[-1]["picture"] = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return told
