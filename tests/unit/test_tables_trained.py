"""Tables as people have them, trained with the default model: constants, times, categories, targets far from zero."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import torch
from foldstream.cli import app
from foldstream.cluster.api.predict import write_oof
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.errors import RowError, UsageError
from foldstream.storage.places.locate import locate
from foldstream.training.model.weights import load_weights
from torch import nn
from typer.testing import CliRunner

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """A function that converts a table and trains on it, and returns the summary."""

    def convert_and_train(table: pd.DataFrame, convert: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        table.to_csv(tmp_path / "table.csv", index=False)
        fs.convert_csv(tmp_path / "table.csv", tmp_path / "data.zarr", label="y", **(convert or {}))
        usual = {"model": "mlp", "epochs": 5, "batch_size": 32, "folds": 3}
        return fs.train(tmp_path / "data.zarr", tmp_path / "run", **{**usual, **options}).summary

    return convert_and_train


def test_an_untrained_model_in_time_predicts_the_mean_of_its_past(train: Train, tmp_path: Path) -> None:
    rows = np.arange(400)
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def zeros(sample_shape, outputs):\n"
        "    layer = nn.Linear(sample_shape[0], outputs)\n"
        "    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)\n"
        "    return layer\n"
    )
    train(
        pd.DataFrame({"day": rows, "a": rows % 7, "y": rows / 4}),
        {"time": "day"},
        model=f"{tmp_path / 'own.py'}:zeros",
        order_column="day",
        gap=10,
        epochs=1,
        settings={"lr": 1e-30, "weight_decay": 0},
    )
    write_oof(tmp_path / "run", tmp_path / "oof.csv")
    oof = pd.read_csv(tmp_path / "oof.csv")
    for predicted, held_out in oof.dropna().groupby("predicted_y"):
        past = rows[rows < held_out["day"].min() - 10] / 4
        assert predicted == pytest.approx(past.mean(), abs=0.1)


def test_a_constant_column_moves_no_prediction(train: Train, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    table = pd.DataFrame({"a": draws.normal(size=300), "b": 14.62, "c": 0.1, "d": 1 / 3, "e": 1e9 + 0.1})
    train(table.assign(y=table.a * 2))
    new = table.head(50)
    found = []
    for rows in (new, new.assign(**{column: new[column] + 0.01 for column in "bcde"})):
        rows.to_csv(tmp_path / "new.csv", index=False)
        fs.predict(tmp_path / "run", tmp_path / "new.csv", tmp_path / "out.csv")
        found.append(pd.read_csv(tmp_path / "out.csv")["y"].to_numpy())
    assert np.abs(found[0] - found[1]).max() < 1e-3


def test_a_text_column_that_decides_the_class_is_learned(train: Train) -> None:
    draws = np.random.default_rng(0)
    city = draws.choice(["Ulm", "Bonn", "Kiel", "Jena", "Trier", "Hamm", "Gera", "Köln", "Marl", "Suhl"], 1000)
    y = np.isin(city, ["Ulm", "Kiel", "Gera", "Suhl"])
    table = pd.DataFrame({"city": city, "noise": draws.normal(size=1000), "y": np.where(y, "yes", "no")})
    assert train(table, epochs=10)["out_of_fold"]["accuracy"] >= 0.99


@pytest.mark.parametrize("iso", [False, True], ids=["numbers", "dates"])
def test_seconds_within_a_minute_decide_the_class(iso: bool, train: Train) -> None:
    draws = np.random.default_rng(0)
    second = draws.integers(0, 60, 2000)
    times = pd.to_datetime(1_700_000_000 // 60 * 60 + second, unit="s") if iso else 1_700_000_000 // 60 * 60 + second
    table = pd.DataFrame({"when": times, "a": draws.normal(size=2000), "y": np.where(second < 30, "early", "late")})
    assert train(table, epochs=20)["out_of_fold"]["accuracy"] >= 0.97


@pytest.mark.parametrize("noise", [5.0, 1e4])
def test_a_target_far_from_zero_is_learned_as_by_least_squares(noise: float, train: Train) -> None:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(5000, 4))
    y = 1.7e9 + 2 * noise * (x @ draws.normal(size=4)) + noise * draws.normal(size=5000)
    table = pd.DataFrame(x, columns=list("abcd")).assign(y=y)
    found = train(table, epochs=20, batch_size=64)["out_of_fold"]["rmse"]
    inputs = np.c_[x, np.ones(len(x))]
    coefficients = np.linalg.lstsq(inputs, y - 1.7e9, rcond=None)[0]
    assert found <= 1.05 * np.sqrt(np.mean((inputs @ coefficients + 1.7e9 - y) ** 2))


def test_missing_values_are_told_and_marked(train: Train, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    a = draws.normal(size=800)
    table = pd.DataFrame({"a": np.where(draws.random(800) < 0.3, np.nan, a), "b": draws.normal(size=800)})
    summary = train(table.assign(y=np.where(table.a.isna(), "gone", "there")), epochs=10)
    assert summary["out_of_fold"]["accuracy"] >= 0.99
    models = fs.load_models(tmp_path / "run")
    data = fs.open(tmp_path / "data.zarr")
    x = torch.from_numpy(BlockReader(data, ("x",)).read(range(2))["x"])
    assert torch.isnan(x).any()
    for model in models:
        assert isinstance(model, nn.Sequential)
        assert model[0](x).shape == (len(x), 3)
        assert torch.isfinite(model(x)).all()


def test_folds_of_different_inputs_are_the_same_from_one_pass_and_one_by_one(train: Train, tmp_path: Path) -> None:
    rows = np.arange(300)
    table = pd.DataFrame({"day": rows, "a": np.where(rows % 10 == 3, np.nan, rows % 7), "b": rows % 5 / 2})
    table["late"] = np.where(rows % 200 > 190, np.nan, rows % 3)  # missing in the training rows of the last fold only
    table["city"] = np.array(list("ABC"))[rows % 3]
    options: dict[str, Any] = {
        "order_column": "day",
        "missing": "indicator+median",
        "normalize": ["minmax", "a=standard"],
    }
    train(table.assign(y=rows % 2), {"time": "day"}, fold_mode="fused", **options)
    fs.train(
        tmp_path / "data.zarr",
        tmp_path / "runs",
        model="mlp",
        epochs=5,
        batch_size=32,
        folds=3,
        fold_mode="runs",
        **options,
    )
    widths = set()
    for fold in range(3):
        one, other = (tmp_path / run / "folds" / str(fold) / "model.safetensors" for run in ("run", "runs"))
        assert one.read_bytes() == other.read_bytes()
        widths.add(sum(size.numel() for size in load_weights(locate(one)).values()))
    assert len(widths) == 2


def test_a_pass_for_folds_computed_as_one_takes_categories_and_missing_values(train: Train) -> None:
    draws = np.random.default_rng(0)
    table = pd.DataFrame({"city": draws.choice(list("ABCDEFGHIJ"), 600), "a": draws.normal(size=600)})
    table.loc[draws.random(600) < 0.2, "a"] = np.nan
    summary = train(
        table.assign(y=np.where(table.city < "D", "yes", "no")), epochs=8, settings={"stack": True, "dropout": 0.0}
    )
    assert summary["out_of_fold"]["accuracy"] >= 0.99


def test_predictions_are_named_by_any_column_beside_the_rows(train: Train, tmp_path: Path) -> None:
    rows = np.arange(120)
    table = pd.DataFrame({"id": rows, "visit": [f"v{row}" for row in rows], "a": rows % 7, "y": rows % 2})
    train(table, {"id": "id", "keep": "visit"}, epochs=1)
    fs.predict(tmp_path / "run", tmp_path / "data.zarr", tmp_path / "out.csv", id="visit")
    assert pd.read_csv(tmp_path / "out.csv")["visit"].tolist() == table.visit.tolist()
    fs.predict(tmp_path / "run", tmp_path / "data.zarr", tmp_path / "out.csv")
    named = pd.read_csv(tmp_path / "out.csv")
    assert named.columns.tolist() == ["id", "y"]
    assert named["id"].tolist() == rows.tolist()
    with pytest.raises(UsageError, match=r"id='visits' is not valid"):
        fs.predict(tmp_path / "run", tmp_path / "data.zarr", tmp_path / "out.csv", id="visits")


def test_rows_that_cannot_be_predicted_are_skipped_and_listed(train: Train, tmp_path: Path) -> None:
    rows = np.arange(60)
    table = pd.DataFrame({"a": rows % 7, "city": np.where(rows % 2, "Ulm", "Bonn"), "y": rows / 7})
    train(table, epochs=1, folds=2)
    new = table.drop(columns="y").head(12).astype(str)
    run, source, out, listed = (tmp_path / name for name in ("run", "new.csv", "out.csv", "out.left_out.csv"))
    new.to_csv(source, index=False)
    with pytest.raises(UsageError, match="proba: the run predicts values, not probabilities"):
        fs.predict(run, source, out, proba=True)
    assert fs.predict(run, source, out, on_error="skip").rows == 12
    sound = pd.read_csv(out, index_col=0)["y"]
    new.loc[[1, 4, 11], "a"] = ["x", "inf", "--"]
    new.loc[[0, 7], "city"] = ["Trier", ""]
    lines = new.to_csv(index=False).splitlines()
    lines[4] += ",too many"
    source.write_text("\n".join([lines[0], "", *lines[1:]]))
    with pytest.raises(
        RowError,
        match=r"line 4, column 'a': 'x' is not a number; fix the row, or skip such rows with on_error=.skip.",
    ):
        fs.predict(run, source, out)
    found = CliRunner().invoke(app, ["predict", str(run), str(source), str(out), "--on-error", "skip"])
    said = found.output.replace("\n", " ")
    assert "skipped: 4 invalid rows, see" in said
    assert "values that do not occur in the training data are treated as unknown: 2 in city" in said
    left = pd.read_csv(out, index_col=0)["y"]
    assert left.index.tolist() == [1, 3, 6, 7, 8, 9, 10, 11]
    pd.testing.assert_series_equal(left.drop([1, 8]), sound[left.index].drop([1, 8]))
    assert (left[[1, 8]] != sound[[1, 8]]).all()
    whys = pd.read_csv(listed)
    assert whys["line"].tolist() == [4, 6, 7, 14]
    assert "'x' is not a number" in set(whys["reason"])
    like = tmp_path / "data.zarr"
    dataset = fs.convert_csv(source, tmp_path / "new.zarr", like=like, on_error="skip", unknown="code")
    fs.predict(run, dataset.root, tmp_path / "same.csv")
    assert (tmp_path / "same.csv").read_bytes() == out.read_bytes()
    new.to_csv(source, index=False)
    fs.predict(run, source, out, on_error="skip")
    assert pd.read_csv(out)["row"].tolist() == [1, 3, 4, 6, 7, 8, 9, 10, 11]
    table.drop(columns="y").to_csv(source, index=False)
    fs.predict(run, source, out, on_error="skip")
    assert not listed.exists()
    frame = pd.DataFrame({"a": [1.0, np.inf, 3.0], "city": ["Ulm", "Ulm", "Trier"]})
    frame.to_parquet(tmp_path / "new.parquet", index=False)
    assert fs.predict(run, tmp_path / "new.parquet", out, on_error="skip").rows == 2
    assert pd.read_csv(listed)["line"].tolist() == [2]
