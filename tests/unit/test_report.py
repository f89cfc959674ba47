"""The report of a run agrees with its record, in each of its forms, whatever the rows are called."""

import base64
import hashlib
import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from foldstream.cluster.api.summary import merge_run
from foldstream.cluster.runs.status import Phase
from foldstream.cluster.views.charts import ticks
from foldstream.cluster.views.facts import command, seconds_of
from foldstream.cluster.views.pages import number
from foldstream.storage.dataset import Dataset
from foldstream.storage.metrics.names import main_scores
from foldstream.storage.places.json_files import read_json
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.run import RunFolder, folds_of, load_job
from foldstream.training.splits.split import Split
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..conftest import convert_file, table
from .test_training import make_job


class Tables(HTMLParser):
    """The cells of all tables of a page, row by row, and the names of all elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.elements: set[str] = set()
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data


def complete_run(dataset: Dataset, root: Path, **options: Any) -> RunFolder:
    """Train and merge a run of three folds in this process."""
    job, run = make_job(dataset, root, **options)
    FoldTrainer(folds_of(job, run, range(3)), Process()).train()
    merge_run(run, dataset, SerialExecutor(), silent)
    return run


@pytest.fixture(scope="module")
def run(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return complete_run(digits, tmp_path_factory.mktemp("report") / "run", model="mlp", settings={"lr": "0.01"})


def test_the_scores_of_classes_are_those_of_scikit_learn(run: RunFolder, digits: Dataset) -> None:
    facts = read_json(run.report)
    predicted = np.asarray(zarr.open_group(run.oof.zarr_store(), mode="r")["prediction"][...]).argmax(axis=1)  # type: ignore[index]
    y = np.asarray(zarr.open_group(digits.root, mode="r")["y"][...])  # type: ignore[index]
    expected = np.stack(precision_recall_fscore_support(y, predicted))
    got = [[one[name] for one in facts["out_of_fold"]["by_class"]] for name in ("precision", "recall", "f1", "rows")]
    np.testing.assert_allclose(got, expected)


def test_the_tables_of_the_page_have_the_figures_of_the_record(run: RunFolder) -> None:
    facts, page = read_json(run.report), Tables(run.page.read_bytes().decode())
    _, _, folds, classes, matrix, times = page.tables
    names, every = main_scores(facts["spread"]), list(facts["spread"])
    assert {"loss", "accuracy", "auc", "train_loss"} < {*names}
    assert folds[0] == ["fold", "training rows", "held-out rows", "epochs", *names]
    for shown, fold in zip(folds[1:-1], facts["folds"], strict=True):
        counts = [str(fold["fold"]), f"{fold['training_rows']:,}", f"{fold['held_out_rows']:,}", str(fold["epochs"])]
        assert shown == [*counts, *(number(fold["scores"][name]) for name in names)]
    done = [read_json(run.fold(fold).done) for fold in range(3)]
    for fold, result in zip(facts["folds"], done, strict=True):
        assert {name: fold["scores"][name] for name in every} == {name: result["metrics"][name] for name in every}
        assert fold["weights"] == result["weights"]
        assert fold["curves"]["loss"] == [epoch["loss"] for epoch in result["history"]]
    by_class = facts["out_of_fold"]["by_class"]
    assert [row[:2] for row in classes[1:]] == [[one["name"], str(one["rows"])] for one in by_class]
    counted = {(t, c): int(cell) for t, row in enumerate(matrix[1:]) for c, cell in enumerate(row[1:]) if cell != "·"}
    assert counted == {(t, c): rows for t, c, rows in facts["out_of_fold"]["confusion"]}
    assert [row[2] for row in times[1:]] == [f"{fold['rows_per_second']:,.0f}" for fold in facts["folds"]]
    summary = read_json(run.summary)
    assert {name: facts["spread"][name] for name in summary["spread"]} == summary["spread"]


def test_the_page_is_self_contained(run: RunFolder) -> None:
    page = run.page.read_bytes().decode()
    assert not Tables(page).elements & {"iframe", "object", "embed"}
    (code,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    assert policy in unescape(page)
    assert set(re.findall(r'(?:src|href)="(data:)?', page)) == {"data:"}
    assert "url(" not in page
    assert page.count("data:image/png") == len(read_json(run.report)["out_of_fold"]["worst"]) == 100


def test_markdown_says_the_same(run: RunFolder) -> None:
    facts, text = read_json(run.report), run.text.read_bytes().decode()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["accuracy", number(facts["out_of_fold"]["scores"]["accuracy"])] in [row[:2] for row in rows]
    for one in facts["out_of_fold"]["by_class"]:
        scores = [number(one[name]) for name in ("precision", "recall", "f1")]
        assert [one["name"], f"{one['rows']:,}", *scores] in rows
    assert facts["command"] in text


def test_tensorboard_shows_the_report_and_the_confusion(run: RunFolder) -> None:
    events = EventAccumulator(str(run.tensorboard / "report"))
    events.Reload()
    (text,) = events.Tensors("report/text_summary")
    assert text.tensor_proto.string_val[0] == run.text.read_bytes()
    (picture,) = events.Images("out_of_fold/confusion")
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)).convert("L"))
    cells = 255 - pixels[16::32, 16::32].astype(float)
    report = read_json(run.report)["out_of_fold"]
    expected = np.zeros((10, 10))
    for truth, chosen, rows in report["confusion"]:
        expected[truth, chosen] = 255 * rows / report["by_class"][truth]["rows"]
    np.testing.assert_allclose(cells, expected, atol=0.51)


def test_the_command_has_every_setting_that_changes_the_training(digits: Dataset, tmp_path: Path) -> None:
    job, run = make_job(digits, tmp_path / "run", settings={"lr": "0.003", "weight_decay": "0.02"})
    told = command(job, run)
    assert "--set lr=0.003" in told, "the default of all recipes, but not that of digits-cnn"
    assert "weight_decay" not in told
    planned = replace(
        job, config=job.config.model_copy(update={"split": Split(kind="group", folds=4, seed=7, column="patient")})
    )
    assert command(planned, run).split(" && ")[0] == (
        f"foldstream split {digits.place} --folds 4 --split group --group-column patient --name again --seed 7"
    )
    assert "--plan again" in command(planned, run)
    assert "--folds" not in command(planned, run).split(" && ")[1]


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    lines = table(300, seed=1).replace(",a\n", ",<i>a</i>|&\n")
    (tmp_path / "rows.csv").write_text(lines)
    data = convert_file(tmp_path / "rows.csv", tmp_path / "rows.zarr", label="label")
    run = complete_run(data, tmp_path / "run", model="mlp", batch_size=16)
    page = Tables(run.page.read_bytes().decode())
    assert "i" not in page.elements
    assert "<i>a</i>|&" in [row[0] for row in page.tables[3]]
    assert "| <i>a</i>\\|& |" in run.text.read_bytes().decode()


def test_regression_targets_have_no_classes(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(table(300).replace("label", "word"))
    data = convert_file(tmp_path / "rows.csv", tmp_path / "rows.zarr", label=("c0", "c2"), task="regression")
    run = complete_run(data, tmp_path / "run", model="mlp", split=Split(kind="kfold", folds=3), batch_size=16)
    facts, page = read_json(run.report), Tables(run.page.read_bytes().decode())
    _, _, folds, worst, more, _ = page.tables
    assert folds[0][4:] == ["loss", "r2", "train_loss", "rmse/c0", "rmse/c2", "mae/c0", "mae/c2"]
    row = facts["out_of_fold"]["worst"][0]
    told = [", ".join(map(number, row[name])) for name in ("truth", "prediction")]
    assert worst[1][:4] == [row["name"], *told, number(row["loss"])]
    assert (len(worst), len(more)) == (1 + 10, 1 + 90)


def test_with_many_classes_the_most_confused_pairs_are_shown(tmp_path: Path) -> None:
    header, *rows = table(400).splitlines()
    lines = [f"{row.rpartition(',')[0]},word {int(row.split(',')[0]) % 40:02}" for row in rows]
    (tmp_path / "rows.csv").write_text("\n".join([header, *lines]) + "\n")
    data = convert_file(tmp_path / "rows.csv", tmp_path / "rows.zarr", label="label")
    run = complete_run(data, tmp_path / "run", model="mlp", split=Split(kind="kfold", folds=3), batch_size=16)
    confusion = read_json(run.report)["out_of_fold"]["confusion"]
    pairs = Tables(run.page.read_bytes().decode()).tables[4][1:]
    assert len(pairs) == 25
    most = sorted((rows for truth, chosen, rows in confusion if truth != chosen), reverse=True)
    assert [int(rows) for _, _, rows in pairs] == most[:25]
    assert all(truth != chosen for truth, chosen, _ in pairs)


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on a table of numbers, words and gaps, with two classes."""
    root, draw = tmp_path_factory.mktemp("two"), np.random.default_rng(0)
    age, city = draw.integers(18, 80, 600), draw.choice(["Oslo", "Bergen"], 600)
    ill = draw.random(600) < np.where(city == "Oslo", 0.2, 0.1) + age / 160
    rows = [f"{'' if a % 7 == 0 else a},{c},{'yes' if i else 'no'}" for a, c, i in zip(age, city, ill, strict=True)]
    (root / "rows.csv").write_text("\n".join(["age,city,ill", *rows]) + "\n")
    data = convert_file(root / "rows.csv", root / "rows.zarr", label="ill")
    return complete_run(data, root / "run", model="mlp", batch_size=16, settings={"lr": "0.02"})


def test_the_curves_of_two_classes_are_those_of_scikit_learn(two_classes: RunFolder) -> None:
    job = load_job(two_classes)
    probability = np.asarray(zarr.open_group(two_classes.oof.zarr_store(), mode="r")["prediction"][...])[:, 1]  # type: ignore[index]
    y = np.asarray(zarr.open_group(job.dataset, mode="r")["y"][...])  # type: ignore[index]
    curves = read_json(two_classes.report)["out_of_fold"]["curves"]
    assert list(curves) == ["yes"]
    assert curves["yes"]["auc"] == pytest.approx(roc_auc_score(y, probability))
    assert curves["yes"]["average_precision"] == pytest.approx(average_precision_score(y, probability))
    rates, recalls, precisions = np.array(curves["yes"]["points"]).T
    assert 50 < len(rates) <= 100
    assert np.trapezoid([0.0, *recalls], [0.0, *rates]) == pytest.approx(curves["yes"]["auc"], abs=0.01)
    every = zip(*precision_recall_curve(y, probability)[:2], strict=True)
    found = {(round(precision, 9), round(recall, 9)) for precision, recall in every}
    assert {(round(p, 9), round(r, 9)) for p, r in zip(precisions, recalls, strict=True)} <= found


def test_the_worst_rows_have_the_values_of_the_source(two_classes: RunFolder) -> None:
    lines = (Path(load_job(two_classes).dataset).parent / "rows.csv").read_text().splitlines()
    _, _, _, _, _, worst, more, _ = Tables(two_classes.page.read_bytes().decode()).tables
    assert worst[0] == ["row", "true", "predicted", "loss", "age", "city"]
    assert (len(worst), len(more)) == (1 + 10, 1 + 90)
    for name, truth, _, _, *features in [*worst[1:], *more[1:]]:
        assert [*features, truth] == lines[1 + int(name)].split(",")


def test_the_recipe_marks_what_is_not_the_default(two_classes: RunFolder) -> None:
    main, others = Tables(two_classes.page.read_bytes().decode()).tables[:2]
    marks = {name: (value, mark) for name, value, mark in main[1:]}
    assert marks["lr"] == ("0.02", "set")
    assert marks["batch_size"] == ("16", "set")
    assert marks["folds"] == ("3", "set")
    assert marks["optimizer"] == ("AdamW", "default")
    assert marks["split"] == ("stratified", "default")
    assert {mark for _, _, mark in others[1:]} == {"default"}
    assert ["patience", "0", "default"] in others


def test_the_total_time_is_that_in_which_any_fold_was_trained() -> None:
    phases = [
        Phase("waiting", 0, 0.0, 10.0),
        Phase("failed", 1, 10.0, 20.0),
        Phase("done", 1, 15.0, 30.0),
        Phase("waiting", 1, 20.0, 50.0),
        Phase("done", 2, 50.0, 60.0),
    ]
    assert seconds_of(phases) == 30.0
    assert seconds_of(phases[:1]) is None


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.8, 0.97), (-3, 3), (1e-7, 3e-7), (12, 90_000), (0.5, 1.5)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 11
    assert low - 1e-9 <= found[0] <= found[-1] <= high * (1 + 1e-9)
    assert all(len(f"{tick:.12g}".strip("-0.").replace(".", "").split("e")[0]) <= 4 for tick in found)


def test_ticks_of_epochs_are_whole() -> None:
    assert ticks(1, 3, whole=True) == [1, 2, 3]
    assert ticks(1, 5000, whole=True) == [1000, 2000, 3000, 4000, 5000]
