"""Losses and their weights, with scikit-learn or torch beside them."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import torch
from foldstream.cluster.api.predict import write_oof
from foldstream.storage.errors import UsageError
from foldstream.storage.format.schema import Schema
from foldstream.storage.format.statistics import Statistics
from foldstream.storage.metrics.scoring import Scoring
from foldstream.storage.places.locate import locate
from foldstream.training.config import Recipe
from foldstream.training.fitted.class_weights import class_weights
from foldstream.training.fitted.strategies import parse_class_weight
from foldstream.training.model.objective import Objective
from foldstream.training.run import RunFolder, read_result
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

SCHEMA = Schema(("a",), (1,), "float32", ("y",), "classification", "uint8", ("no", "maybe", "yes"))
ROWS = (70, 20, 10)
STATISTICS = Statistics((0.0,), (1.0,), (0.0,), (1.0,), class_rows=ROWS)


def test_balanced_weights_are_scikit_learns() -> None:
    y = np.repeat([0, 1, 2], ROWS)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    found = class_weights(SCHEMA, STATISTICS, ("balanced",))
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    both = class_weights(SCHEMA, STATISTICS, ("balanced", "yes=2"))
    assert both is not None
    np.testing.assert_allclose(both, expected * [1, 1, 2], rtol=1e-15)
    assert class_weights(SCHEMA, STATISTICS, ()) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("options", [(), ("balanced",), ("no=0.5", "yes=3")], ids=str)
def test_the_loss_to_train_on_is_weighted_and_that_to_score_by_is_not(
    options: tuple[str, ...], smoothing: float
) -> None:
    objective = Objective(SCHEMA, STATISTICS, Recipe(label_smoothing=smoothing), options)
    outputs, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    weights = class_weights(SCHEMA, STATISTICS, options)
    given = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    each = functional.cross_entropy(outputs, y, given, reduction="none", label_smoothing=smoothing)
    assert objective(outputs, y).item() == pytest.approx(each.mean().item(), rel=1e-6)
    held_out = Scoring(SCHEMA).of_rows(objective.predict(outputs).numpy(), y.numpy())["loss"]
    assert held_out.mean() == pytest.approx(functional.cross_entropy(outputs, y).item(), rel=1e-6)


@pytest.mark.parametrize("text", ["", "balance", "yes", "yes=", "yes=-1", "yes=inf", "yes=nan"])
def test_weights_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be balanced, or a class and its weight"):
        parse_class_weight(text)


@pytest.mark.parametrize(
    ("schema", "options", "message"),
    [
        (SCHEMA, ("yse=2",), "the class does not exist; did you mean 'yes'"),
        (Schema(("a",), (1,), "float32", ("y",), "regression", "float64"), ("balanced",), "the dataset has no classes"),
    ],
)
def test_weights_that_do_not_fit_the_data_are_refused(schema: Schema, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        class_weights(schema, STATISTICS, options)


def test_rare_classes_are_found_as_by_a_weighted_logistic_regression(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(6000, 5))
    y = (x @ [1.0, -0.5, 0.3, 0.0, 0.8] + draws.normal(size=6000) > 2.7).astype(int)
    assert 0.03 < y.mean() < 0.07
    pd.DataFrame(x, columns=list("abcde")).assign(y=y).to_csv(tmp_path / "rare.csv", index=False)
    fs.convert_csv(tmp_path / "rare.csv", tmp_path / "data.zarr", label="y")
    options: dict[str, Any] = {"model": "mlp", "epochs": 15, "batch_size": 128, "settings": {"layers": 0, "lr": 0.03}}
    found = {}
    for name, weight in (("plain", ()), ("balanced", "balanced")):
        fs.train(tmp_path / "data.zarr", tmp_path / name, class_weight=weight, **options)
        write_oof(tmp_path / name, tmp_path / f"{name}.csv")
        oof = pd.read_csv(tmp_path / f"{name}.csv")
        found[name] = balanced_accuracy_score(oof["y"], oof["predicted"])
    fold = np.arange(6000) % 5
    predicted = np.empty(6000, int)
    for number in range(5):
        model = LogisticRegression(class_weight="balanced").fit(x[fold != number], y[fold != number])
        predicted[fold == number] = model.predict(x[fold == number])
    expected = balanced_accuracy_score(y, predicted)
    assert found["balanced"] == pytest.approx(expected, abs=0.01)
    assert found["plain"] < expected - 0.1
    rows = read_result(RunFolder(locate(tmp_path / "balanced")).fold(0))["statistics"]["class_rows"]
    assert sum(rows) == 4800
    assert rows[1] == pytest.approx(y.sum() * 0.8, abs=1)


def test_a_baseline_stands_beside_the_scores(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    table = pd.DataFrame({"a": draws.normal(size=500), "kind": draws.choice(["x", "y", "z"], 500, p=[0.6, 0.3, 0.1])})
    table["price"] = 100 + draws.normal(size=500)
    for label, other in (("kind", "price"), ("price", "kind")):
        table.drop(columns=other).to_csv(tmp_path / "t.csv", index=False)
        fs.convert_csv(tmp_path / "t.csv", tmp_path / label, label=label)
        run = tmp_path / f"{label}-run"
        summary = fs.train(tmp_path / label, run, model="mlp", folds=4, epochs=1, split="contiguous").summary
        y, fold = table[label].to_numpy(), np.arange(500) // 125
        if label == "price":
            means = np.array([y[fold != number].mean() for number in range(4)])
            squared = np.mean((y - means[fold]) ** 2)
            assert summary["baseline"] == pytest.approx({"loss": squared, "rmse": np.sqrt(squared)}, rel=1e-9)
            continue
        names = np.array(["x", "y", "z"])
        shares = np.array([[(y[fold != number] == name).mean() for name in names] for number in range(4)])[fold]
        codes = np.searchsorted(names, y.astype(str))
        assert summary["baseline"]["accuracy"] == (shares.argmax(axis=1) == codes).mean()
        assert summary["baseline"]["loss"] == pytest.approx(log_loss(codes, shares), rel=1e-9)
        assert "top3" not in summary["out_of_fold"], "of three classes"
