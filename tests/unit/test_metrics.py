"""Each metric equals scikit-learn's, from sums of parts as from all rows, and chooses what `--monitor` says."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
from foldstream.pipeline.predictions.scores import MergedScores
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import open_arrays, open_dataset
from foldstream.storage.errors import RunError, UsageError
from foldstream.storage.format.arrays import SideColumn
from foldstream.storage.format.schema import Schema
from foldstream.storage.metrics.ranking import RankSums, order_key
from foldstream.storage.metrics.sample import RowSample
from foldstream.storage.metrics.scoring import Scoring
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from sklearn import metrics as theirs

from ..conftest import WriteCsv, convert_file


def classes(names: str) -> Schema:
    return Schema(("a",), (1,), "uint8", ("y",), "classification", "uint8", tuple(names))


LABELS = Schema(("a",), (1,), "uint8", ("p", "q", "r"), "multilabel", "uint8")
VALUES = Schema(("a",), (1,), "uint8", ("price",), "regression", "float64")


def rows_of(schema: Schema, rows: int = 700, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions with many ties, truth and weights."""
    draw = np.random.default_rng(seed)
    weight = draw.uniform(0.1, 3, rows)
    if schema.task == "regression":
        y = draw.normal(1e6, 3, (rows, len(schema.labels)))
        return y + draw.normal(0, 1, y.shape), y[:, 0] if y.shape[1] == 1 else y, weight
    if schema.task == "multilabel":
        y = (draw.random((rows, 3)) < (0.5, 0.2, 0.02)).astype(np.uint8)
        predicted = np.clip(y * 0.3 + draw.random(y.shape) * 0.7, 0, 1)
        return np.round(predicted, 2).astype(np.float32), y, weight
    count = len(schema.classes)
    y = draw.choice(count - 1, rows, p=draw.dirichlet(np.ones(count - 1))).astype(np.uint8)  # the last one is missing
    if count == 2:
        y = (draw.random(rows) < 0.1).astype(np.uint8)
    scores = np.round(draw.random((rows, count)) + 0.7 * (np.arange(count) == y[:, None]), 1) + 0.1
    predicted = scores / scores.sum(axis=1, keepdims=True)
    return predicted.astype(np.float32), y, weight


def score(scoring: Scoring, predicted: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> dict[str, Any]:
    """The report of rows that come in five parts."""
    every = []
    for rows in np.array_split(np.arange(len(y)), 5):
        truth = {"y": y[rows]} | ({"weight": weight[rows]} if weight is not None else {})
        every.append(MergedScores.of(scoring, predicted[rows], truth, rows, 1.3))
    for part in every[1:]:
        every[0].add(part)
    return every[0].to_json()


def weighted_if(schema: Schema, weighted: bool) -> Schema:
    beside = (SideColumn("w", "weight", "number"),)
    return replace(schema, roles={"weight": ("w",)}, beside=beside) if weighted else schema


def of_classes(predicted: np.ndarray, y: np.ndarray, weight: np.ndarray | None, names: str) -> dict[str, float]:
    """What scikit-learn says of probabilities of classes."""
    warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
    chosen, count = predicted.argmax(axis=1), len(names)
    f1 = theirs.f1_score(y, chosen, labels=range(count), average=None, sample_weight=weight, zero_division=np.nan)
    occur = [code for code in range(count) if 0 < (y == code).sum() < len(y)]
    ranked = [1] if count == 2 else occur
    expected = {
        "accuracy": theirs.accuracy_score(y, chosen, sample_weight=weight),
        "balanced_accuracy": theirs.balanced_accuracy_score(y, chosen, sample_weight=weight),
        "f1": theirs.f1_score(y, chosen, average="macro", sample_weight=weight),
        "mcc": theirs.matthews_corrcoef(y, chosen, sample_weight=weight),
        "brier": theirs.brier_score_loss(
            y, predicted[:, 1] if count == 2 else predicted, sample_weight=weight, labels=range(count)
        ),
        "auc": np.mean([theirs.roc_auc_score(y == code, predicted[:, code], sample_weight=weight) for code in ranked]),
        "average_precision": np.mean(
            [theirs.average_precision_score(y == code, predicted[:, code], sample_weight=weight) for code in ranked]
        ),
        **{f"f1/{name}": value for name, value in zip(names, f1, strict=True) if not np.isnan(value)},
    }
    if count > 4:
        expected["top3"] = theirs.top_k_accuracy_score(y, predicted, k=3, labels=range(count), sample_weight=weight)
    return expected


WEIGHTED = pytest.mark.parametrize("weighted", [False, True], ids=["rows", "weights"])


@WEIGHTED
@pytest.mark.parametrize("names", ["ny", "abcd", "abcdefg"])
def test_metrics_of_classes_are_those_of_scikit_learn(names: str, weighted: bool) -> None:
    schema = weighted_if(classes(names), weighted)
    predicted, y, weight = rows_of(schema)
    report = score(Scoring(schema), predicted, y, weight if weighted else None)
    expected, found = of_classes(predicted, y, weight if weighted else None, names), report["scores"]
    for name in ("accuracy", "top3"):  # scikit-learn counts ties by the class's number
        expected.pop(name, None)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=2e-6)
    assert found.keys() == {"loss", "accuracy", *expected, *(["top3"] if len(names) > 4 else [])}
    assert report["errors"] == {}
    for name, (low, high) in report["intervals"].items():
        assert low - 1e-9 <= found[name] <= high + 1e-9, name


@WEIGHTED
def test_metrics_of_labels_are_those_of_scikit_learn(weighted: bool) -> None:
    schema = weighted_if(LABELS, weighted)
    predicted, y, weights = rows_of(schema)
    weight = weights if weighted else None
    found, said = score(Scoring(schema), predicted, y, weight)["scores"], predicted >= 0.5
    each = theirs.f1_score(y, said, average=None, sample_weight=weight)
    expected = {
        "loss": np.mean(
            [theirs.log_loss(y[:, i], predicted[:, i].astype(float), sample_weight=weight) for i in range(3)]
        ),
        "subset_accuracy": theirs.accuracy_score(y, said, sample_weight=weight),
        "f1": each.mean(),
        "brier": np.mean([theirs.brier_score_loss(y[:, i], predicted[:, i], sample_weight=weight) for i in range(3)]),
        "auc": theirs.roc_auc_score(y, predicted, sample_weight=weight),
        "average_precision": theirs.average_precision_score(y, predicted, sample_weight=weight),
        **{f"f1/{label}": value for label, value in zip("pqr", each, strict=True)},
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


@WEIGHTED
@pytest.mark.parametrize("labels", [("price",), ("price", "size")], ids=len)
def test_metrics_of_targets_are_those_of_scikit_learn(labels: tuple[str, ...], weighted: bool) -> None:
    schema = weighted_if(replace(VALUES, labels=labels), weighted)
    predicted, y, weights = rows_of(schema)
    weight, scoring = weights if weighted else None, Scoring(schema, "quantile loss", 0.9, (1e6,) * len(labels))
    found, truth = score(scoring, predicted, y, weight)["scores"], y.reshape(predicted.shape)
    for number, label in enumerate([""] if len(labels) == 1 else [f"/{label}" for label in labels]):
        columns, given = (truth[:, number], predicted[:, number]), {"sample_weight": weight}
        expected = {
            f"rmse{label}": theirs.root_mean_squared_error(*columns, **given),
            f"mae{label}": theirs.mean_absolute_error(*columns, **given),
            f"r2{label}": theirs.r2_score(*columns, **given),
            f"mape{label}": theirs.mean_absolute_percentage_error(*columns, **given),
            f"quantile_loss{label}": theirs.mean_pinball_loss(*columns, alpha=0.9, **given),
        }
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert found["loss"] == pytest.approx(theirs.mean_pinball_loss(truth, predicted, alpha=0.9, sample_weight=weight))
    assert found["r2"] == pytest.approx(theirs.r2_score(truth, predicted, sample_weight=weight), rel=1e-6)


def test_a_metric_that_is_not_defined_is_left_out() -> None:
    one_class = score(Scoring(classes("ny")), np.full((20, 2), 0.5, np.float32), np.zeros(20, np.uint8))["scores"]
    assert {"auc", "average_precision", "f1/y"}.isdisjoint(one_class)
    assert one_class["balanced_accuracy"] == 1.0
    some_zero = score(Scoring(VALUES, "mse"), np.ones((20, 1)), np.arange(20.0) % 2)["scores"]
    assert "mape" not in some_zero
    assert {"r2", "mae"} <= some_zero.keys()


def test_auc_of_more_values_than_fit_is_within_its_bound() -> None:
    draw = np.random.default_rng(1)
    y = draw.random(60_000) < 0.05
    p = (1 / (1 + np.exp(-draw.normal(y * 1.5 - 3, 1)))).astype(np.float32)
    exact = {"auc": theirs.roc_auc_score(y, p), "average_precision": theirs.average_precision_score(y, p)}
    for most in (100_000, 3000, 300):
        forwards, backwards = RankSums(1, most), RankSums(1, most)
        parts = np.array_split(np.arange(len(y)), 11)
        for ranks, order in ((forwards, parts), (backwards, parts[::-1])):
            for rows in order:
                one = RankSums(1, most)
                one.add(p[rows, None], y[rows, None])
                ranks.merge(*one.parts())
        found, errors = forwards.metrics()
        assert (found, errors) == backwards.metrics()
        for name, value in exact.items():
            assert abs(found[name] - value) <= errors[name] + 1e-12
            assert errors[name] < (0.05 if most == 300 else 0.005)
            assert (errors[name] == 0) == (most == 100_000)


def test_keys_are_in_the_order_of_probabilities_at_both_ends() -> None:
    p = np.unique(
        np.concatenate([10.0 ** -np.arange(0.0, 45, 0.1), 1 - 10.0 ** -np.arange(0.0, 8, 0.1)]).astype(np.float32)
    )
    assert (np.diff(order_key(p).astype(np.int64)) > 0).all()
    assert order_key(np.array([0.0, 1.0], np.float32)).tolist() == [0, 0x7E000000]


def test_a_sample_of_rows_does_not_depend_on_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldstream.storage.metrics.sample.MOST_ROWS", 100)
    predicted, y, weight = rows_of(classes("ny"))
    whole = RowSample.of(np.arange(700), predicted, y, weight)
    first, second = (
        RowSample.of(rows, predicted[rows], y[rows], weight[rows]) for rows in np.split(np.arange(700), [90])
    )
    for sample in (RowSample.union([first, second]), RowSample.union([second, first])):
        assert (sample.total, len(sample.rows)) == (700, 100)
        assert np.array_equal(sample.rows, whole.rows)
        assert np.array_equal(sample.prediction, predicted[whole.rows])


@pytest.mark.parametrize("most", [50_000, 300], ids=["all rows", "a sample"])
def test_intervals_are_as_wide_as_those_of_resampled_rows(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldstream.storage.metrics.sample.MOST_ROWS", most)
    predicted, y, _ = rows_of(classes("abcd"), rows=1500)
    found, draw = score(Scoring(classes("abcd")), predicted, y)["intervals"], np.random.default_rng(0)
    resampled: dict[str, list[float]] = {}
    for _ in range(200):
        rows = draw.integers(0, len(y), len(y))
        for name, value in of_classes(predicted[rows], y[rows], None, "abcd").items():
            resampled.setdefault(name, []).append(value)
    for name in ("auc", "average_precision", "balanced_accuracy", "f1", "mcc"):
        low, high = np.percentile(resampled[name], (2.5, 97.5))
        assert np.diff(found[name])[0] == pytest.approx(high - low, rel=0.25 if most > 1500 else 0.5), name


def train_table(write_csv: WriteCsv, folder: Path, **options: Any) -> dict[str, Any]:
    """A run on 300 rows, a tenth of which are of the class `yes`."""
    draw = np.random.default_rng(0)
    yes = draw.random(300) < 0.1
    lines = [
        f"{a:.3f},{b:.3f},{'yes' if y else 'no'}" for a, b, y in zip(*draw.normal(yes, 1, (2, 300)), yes, strict=True)
    ]
    data = folder / "data"
    if not data.exists():
        convert_file(write_csv("a,b,kind\n" + "\n".join(lines) + "\n"), data, "kind")
    settings = {"hidden": 4, "lr": 0.05, **options.pop("settings", {})}
    return fs.train(
        data, folder / "run", model="mlp", folds=2, batch_size=32, workers=0, settings=settings, **options
    ).summary


def test_the_monitored_metric_stops_early_and_keeps_the_best_weights(write_csv: WriteCsv, tmp_path: Path) -> None:
    summary = train_table(write_csv, tmp_path, epochs=12, monitor="auc", settings={"patience": 3})
    for number, fold in enumerate(summary["folds"]):
        history = read_json(locate(tmp_path / "run" / "folds" / str(number) / "done.json"))["history"]
        aucs = [epoch["auc"] for epoch in history]
        assert fold["auc"] == max(aucs)
        assert fold["epoch"] == aucs.index(max(aucs)) + 1
        assert len(history) == min(12, fold["epoch"] + 3)
    held_out = read_json(locate(tmp_path / "run" / "report.json"))["out_of_fold"]["models"]
    assert [model["scores"]["f1"] for model in held_out] == pytest.approx([fold["f1"] for fold in summary["folds"]])


def test_candidates_for_several_targets_are_ranked_whatever_their_units(write_csv: WriteCsv, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    lines = [f"{x:.3f},{x + e / 9:.3f},{10_000 * n:.0f}" for x, e, n in zip(*draw.normal(0, 1, (3, 200)), strict=True)]
    convert_file(write_csv("x,small,noise\n" + "\n".join(lines) + "\n"), tmp_path / "data", ("small", "noise"))
    settings = {"hidden": 16, "lr": [1e-9, 0.05]}
    options: dict[str, Any] = {"model": "mlp", "folds": 2, "epochs": 8, "batch_size": 16, "settings": settings}
    grid = fs.train(tmp_path / "data", tmp_path / "run", workers=0, **options).summary
    untrained, trained = (one["out_of_fold"] for one in grid["candidates"])
    assert untrained["loss"] < trained["loss"]  # which is that of the noise
    assert untrained["r2/small"] < trained["r2/small"]
    assert (grid["metric"], grid["best"]) == ("r2", grid["candidates"][1]["name"])


def test_candidates_with_other_losses_are_ranked_by_a_metric_of_all(write_csv: WriteCsv, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    lines = [f"{x:.3f},{100 * x + e:.3f}" for x, e in zip(*draw.normal(0, 1, (2, 200)), strict=True)]
    convert_file(write_csv("x,price\n" + "\n".join(lines) + "\n"), tmp_path / "data", "price", task="regression")
    settings = {"hidden": 4, "lr": 0.05, "loss": ["mse_loss", "l1_loss", "quantile"]}
    options: dict[str, Any] = {"model": "mlp", "folds": 2, "epochs": 2, "batch_size": 16, "settings": settings}
    grid = fs.train(tmp_path / "data", tmp_path / "run", workers=0, **options).summary
    r2 = {one["name"]: one["out_of_fold"]["r2"] for one in grid["candidates"]}
    assert (grid["metric"], grid["best"]) == ("r2", max(r2, key=r2.__getitem__))
    options["monitor"] = "mae"
    grid = fs.train(tmp_path / "data", tmp_path / "by-mae", workers=0, **options).summary
    mae = {one["name"]: one["out_of_fold"]["mae"] for one in grid["candidates"]}
    assert (grid["metric"], grid["best"]) == ("mae", min(mae, key=mae.__getitem__))
    median = grid["candidates"][2]["out_of_fold"]
    assert median["loss"] == pytest.approx(median["mae"] / 2)


def test_the_loss_of_a_regression_has_the_units_of_the_target(write_csv: WriteCsv, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    lines = [f"{x:.3f},{1000 * x + e:.3f}" for x, e in zip(*draw.normal(0, 1, (2, 200)), strict=True)]
    convert_file(write_csv("x,price\n" + "\n".join(lines) + "\n"), tmp_path / "data", "price", task="regression")
    settings = {"hidden": 4, "optimizer": "SGD", "lr": 1e-12, "weight_decay": 0.0, "dropout": 0.0}
    summary = fs.train(
        tmp_path / "data", tmp_path / "run", model="mlp", folds=2, epochs=1, workers=0, settings=settings
    ).summary
    for fold in summary["folds"]:
        assert fold["loss"] == pytest.approx(fold["rmse"] ** 2)
        assert fold["train_loss"] == pytest.approx(fold["loss"], rel=0.5)  # of other rows, by the same weights
    scores = summary["out_of_fold"]
    assert scores["loss"] == pytest.approx(scores["rmse"] ** 2)
    assert summary["baseline"]["loss"] == pytest.approx(summary["baseline"]["rmse"] ** 2)


def test_a_metric_to_monitor_must_exist_and_be_defined(write_csv: WriteCsv, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="roc"):
        train_table(write_csv, tmp_path, epochs=1, monitor="roc")
    assert not Scoring(LABELS).higher_is_better("loss/a")
    assert Scoring(LABELS).higher_is_better("f1/loss")
    lines = [f"{i},{'yes' if i < 2 else 'no'}" for i in range(200)]
    convert_file(write_csv("a,kind\n" + "\n".join(lines) + "\n"), tmp_path / "few", "kind")
    options: dict[str, Any] = {"model": "mlp", "epochs": 2, "workers": 0, "settings": {"hidden": 4, "patience": 1}}
    with pytest.raises(RunError, match=r"monitor=\"auc\" is not defined for its held-out rows, e\.g\. because they"):
        fs.train(tmp_path / "few", tmp_path / "few-run", split="kfold", folds=10, monitor="auc", **options)


OWN = """
import numpy as np


def cost(y, prediction, sample_weight=None):
    chosen = prediction.argmax(axis=1)
    return np.average(np.where(y == chosen, 0, np.where(y == 1, 10, 1)), weights=sample_weight)


cost.greater_is_better = False


def broken(y, prediction):
    return "much"


def accuracy(y, prediction):
    return 1.0
"""


def test_a_metric_of_the_users_is_computed_and_monitored(write_csv: WriteCsv, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    options: dict[str, Any] = {"epochs": 8, "metric": f"{file}:cost", "monitor": "cost"}
    summary = train_table(write_csv, tmp_path, **options, settings={"patience": 2})
    file.unlink()  # the run has a copy
    dataset, merged = open_dataset(tmp_path / "data"), open_arrays(tmp_path / "run" / "oof.zarr", "predictions")
    y = BlockReader(dataset, ["y"]).read(range(dataset.layout.blocks))["y"]
    predicted = BlockReader(merged, ["prediction"]).read(range(dataset.layout.blocks))["prediction"]
    wrong = predicted.argmax(axis=1) != y
    assert summary["out_of_fold"]["cost"] == pytest.approx(np.where(wrong, np.where(y == 1, 10, 1), 0).mean())
    low, high = summary["out_of_fold_intervals"]["cost"]
    assert low < summary["out_of_fold"]["cost"] < high
    for number, fold in enumerate(summary["folds"]):
        history = read_json(locate(tmp_path / "run" / "folds" / str(number) / "done.json"))["history"]
        costs = [epoch["cost"] for epoch in history]
        assert (fold["cost"], fold["epoch"]) == (min(costs), costs.index(min(costs)) + 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "failed for y of shape .* could not convert string to float"),
        ("accuracy", "there is a metric 'accuracy' already; rename the function"),
        ("missing", "does not define a function 'missing'"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused(name: str, message: str, write_csv: WriteCsv, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(UsageError, match=message):
        train_table(write_csv, tmp_path, epochs=1, metric=f"{tmp_path}/own.py:{name}")
    assert not (tmp_path / "run" / "run.json").exists()
