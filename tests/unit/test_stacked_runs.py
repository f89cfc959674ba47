"""Out-of-fold predictions as features: what is stored, which folds are used, how new rows are predicted."""

import re
import shutil
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import torch
from foldstream.cluster.prediction.members import read_members
from foldstream.cluster.serve.bodies import GivenRow
from foldstream.cluster.serve.service import Service
from foldstream.pipeline.stacking.convert import convert_stack
from foldstream.pipeline.stacking.spec import StackedRun, StackRequest
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset, open_arrays, open_dataset
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.fold_plan import among, open_plan
from foldstream.storage.format.arrays import TABLE
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor
from foldstream.training.model.prediction import load_ensemble

from ..conftest import contents
from ..executors import Cut, CutExecutor

MODELS = {"wide": {"hidden": 64}, "narrow": {"hidden": 8}}
OPTIONS: dict[str, Any] = {"model": "mlp", "folds": 3, "epochs": 2, "batch_size": 64, "workers": 0}


@pytest.fixture(scope="module")
def runs(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the digits with the same folds, a dataset of their predictions alone, and a run on it."""
    folder = tmp_path_factory.mktemp("stacked")
    for name, settings in MODELS.items():
        fs.train(digits.place, folder / name, settings=settings, holdout=0.2, **OPTIONS)
    fs.stack([folder / name for name in MODELS], folder / "only.zarr", only=True)
    fs.train(folder / "only.zarr", folder / "upper", model="mlp", settings={"layers": 0}, epochs=2)
    return folder


def rows_of(dataset: Dataset, *names: str) -> dict[str, np.ndarray]:
    return BlockReader(dataset, names).read(range(dataset.layout.blocks))


def unseen(run: Path) -> np.ndarray:
    """The predictions of a run for all rows, each by models that have not seen the row."""
    parts = [
        rows_of(open_arrays(run / f"{part}.zarr", "predictions"), "prediction")["prediction"]  # type: ignore[arg-type]
        for part in ("oof", "holdout")
    ]
    return np.where(np.isnan(parts[0]), parts[1], parts[0])


def test_features_are_the_predictions_of_models_that_have_not_seen_the_row(runs: Path, digits: Dataset) -> None:
    stacked = open_dataset(runs / "only.zarr")
    found, expected = rows_of(stacked, "x", "y", "id"), rows_of(digits, "y", "id")
    by_hand = [unseen(runs / name).astype(np.float64) for name in MODELS]
    odds = np.concatenate([np.log(one) - np.log1p(-one) for one in by_hand], axis=1)
    np.testing.assert_allclose(found["x"], odds, rtol=1e-5, atol=1e-5)
    assert not np.isnan(found["x"]).any()
    for name in ("y", "id"):
        assert found[name].tobytes() == expected[name].tobytes()
    classes = digits.schema.classes
    assert stacked.schema.features == tuple(f"{name}/{one}" for name in MODELS for one in classes)
    assert (stacked.layout, stacked.schema.classes) == (digits.layout, classes)


def test_a_run_on_predictions_has_the_folds_of_their_runs(runs: Path) -> None:
    lower, upper = (open_plan(runs / name / "folds.zarr") for name in ("wide", "upper"))
    assert upper.models == lower.models
    assert upper.holdout == lower.holdout
    codes = [rows_of(plan, "fold")["fold"] for plan in (lower, upper)]  # type: ignore[arg-type]
    assert codes[0].tobytes() == codes[1].tobytes()
    for model in upper.models:
        assert not (among(codes[1], model.train) & among(codes[1], model.held_out)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"folds": 4}, "folds=4"), ({"split": "kfold"}, 'split="kfold"'), ({"holdout": 0.1}, "holdout=0.1")],
    ids=["number", "kind", "holdout"],
)
def test_other_folds_are_refused(options: dict[str, Any], message: str, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{message}: the features are predictions of models")):
        fs.train(runs / "only.zarr", tmp_path / "run", model="mlp", epochs=1, **options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=re.escape(f"{message}: the features are predictions of models")):
        fs.split_rows(runs / "only.zarr", "other", **options)
    assert not (runs / "only.zarr" / "splits" / "other").exists()


def test_without_the_folds_of_its_runs_nothing_is_trained(runs: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs / "only.zarr", tmp_path / "only.zarr"))
    shutil.rmtree(copy / "splits")
    with pytest.raises(UsageError, match="lacks the folds of the runs whose predictions it has"):
        fs.train(copy, tmp_path / "run", model="mlp", epochs=1)


def test_new_rows_are_predicted_by_the_lower_runs_first(runs: Path, digits: Dataset) -> None:
    members = read_members(locate(str(runs / "upper")))
    images = torch.from_numpy(rows_of(digits, "x")["x"][:20])
    lower = [read_members(locate(str(runs / name))).load("mean")(images) for name in MODELS]
    form = open_dataset(runs / "only.zarr").schema.stacked
    assert form
    features = np.concatenate([form.features_of(one) for one in lower], axis=1)
    upper = load_ensemble(members.jobs[0], members.runs[0])
    expected = upper(torch.from_numpy(features.astype(np.float32)))
    assert members.load("mean")(images).tobytes() == expected.tobytes()
    frame = fs.Run(runs / "upper").predict(digits.place)
    assert len(frame) == len(digits)
    columns = [f"probability_{name}" for name in digits.schema.classes]
    np.testing.assert_allclose(frame[columns].to_numpy()[:20], expected, rtol=1e-5)


def test_rows_that_a_lower_run_was_trained_on_are_not_scored(runs: Path, digits: Dataset, tmp_path: Path) -> None:
    assert fs.predict(runs / "upper", digits.place, tmp_path / "out.csv").scored == {}


def test_columns_beside_images_and_tables_keep_their_own_features(runs: Path, digits: Dataset, tmp_path: Path) -> None:
    beside = fs.stack([runs / "wide"], tmp_path / "beside.zarr")
    found = rows_of(beside, "x", TABLE)
    assert found["x"].tobytes() == rows_of(digits, "x")["x"].tobytes()
    np.testing.assert_allclose(found[TABLE], rows_of(open_dataset(runs / "only.zarr"), "x")["x"][:, :10], rtol=1e-6)
    draws = np.random.default_rng(0)
    table = pd.DataFrame({"a": draws.normal(size=200), "kind": draws.choice(["u", "v"], 200), "w": draws.random(200)})
    table["y"] = table.a * 2 + (table.kind == "u") + draws.normal(size=200) / 10
    data = fs.convert(table, tmp_path / "table.zarr", label="y")
    options: dict[str, Any] = {"model": "mlp", "folds": 2, "epochs": 2, "batch_size": 16}
    lower = fs.train(data, tmp_path / "lower", **options)
    stacked = fs.stack([lower], tmp_path / "stacked.zarr")
    assert stacked.schema.features == ("a", "kind", "w", "lower/y")
    assert stacked.schema.categories == data.schema.categories
    values = rows_of(stacked, "x")["x"]
    assert values[:, :3].astype(data.schema.x_dtype).tobytes() == rows_of(data, "x")["x"].tobytes()
    oof = rows_of(open_arrays(tmp_path / "lower" / "oof.zarr", "predictions"), "prediction")["prediction"]  # type: ignore[arg-type]
    np.testing.assert_allclose(values[:, 3], oof[:, 0], rtol=1e-6)
    upper = fs.train(stacked, tmp_path / "upper", model="mlp", epochs=2, batch_size=16)
    new = table.drop(columns="y").iloc[:7]
    assert np.isfinite(upper.predict(new)["y"]).all()


def test_a_lower_run_that_was_trained_again_is_an_error(runs: Path, tmp_path: Path, digits: Dataset) -> None:
    summary = runs / "wide" / "summary.json"
    before = summary.read_bytes()
    summary.write_bytes(before + b" ")
    try:
        with pytest.raises(ConflictError, match="wide has been trained again since then"):
            fs.predict(runs / "upper", digits.place, tmp_path / "out.csv")
        with pytest.raises(ConflictError, match="wide has been trained again since its predictions became features"):
            fs.train(runs / "only.zarr", tmp_path / "run", model="mlp", epochs=1)
        assert not (tmp_path / "run").exists()
        with pytest.raises(ConflictError, match=r"another dataset: trained again since: \S+/wide; choose another name"):
            fs.stack([runs / name for name in MODELS], runs / "only.zarr", only=True)
        with pytest.raises(ConflictError, match="the runs were wide, narrow and are now narrow; choose"):
            fs.stack([runs / "narrow"], runs / "only.zarr", only=True)
    finally:
        summary.write_bytes(before)


def test_an_ensemble_may_be_a_model_on_the_predictions(runs: Path, digits: Dataset, tmp_path: Path) -> None:
    both = fs.ensemble([runs / name for name in MODELS], tmp_path / "both", method="stack")
    upper = fs.Run(tmp_path / "both" / "stacker")
    assert both.metrics == upper.metrics
    assert both.weights == {}
    assert len(both.members) == 2
    assert both.oof().equals(upper.oof())
    assert both.predict(digits.place).equals(upper.predict(digits.place))
    assert "a linear model on the predictions" in (tmp_path / "both" / "report.md").read_text()
    again = fs.ensemble([runs / name for name in MODELS], tmp_path / "both", method="stack")
    assert again.metrics == both.metrics
    with pytest.raises(ConflictError, match="method was stack"):
        fs.ensemble([runs / name for name in MODELS], tmp_path / "both", method="nnls")


def test_a_run_on_predictions_is_served(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    table = pd.DataFrame({"a": draws.normal(size=120), "b": draws.normal(size=120)})
    table["y"] = np.where(table.a + table.b > 0, "yes", "no")
    data = fs.convert(table, tmp_path / "table.zarr", label="y")
    lower = fs.train(data, tmp_path / "lower", model="mlp", folds=2, epochs=1, batch_size=16)
    upper = fs.train(fs.stack([lower], tmp_path / "s.zarr"), tmp_path / "upper", model="mlp", epochs=1, batch_size=16)
    [answer] = Service(tmp_path / "upper").answer([[GivenRow({"a": "0.5", "b": "1.5"}, b"")]])
    frame = upper.predict(pd.DataFrame({"a": [0.5], "b": [1.5]}))
    assert answer.predictions[0]["probabilities"]["yes"] == pytest.approx(frame["probability_yes"][0], rel=1e-5)


def test_a_conversion_that_is_cut_off_resumes_to_the_same_bytes(runs: Path, digits: Dataset, tmp_path: Path) -> None:
    oof, holdout = (str(runs / "wide" / f"{part}.zarr") for part in ("oof", "holdout"))
    run = StackedRun(str(runs / "wide"), "stamp", "wide", oof, holdout)
    request = StackRequest(digits.reference, digits.identity, (run,), True)
    quiet = convert_stack(request, tmp_path / "quiet.zarr", SerialExecutor())
    for tasks in (0, 1, 3):
        with pytest.raises(Cut):
            convert_stack(request, tmp_path / "cut.zarr", CutExecutor(tasks))
    resumed = convert_stack(request, tmp_path / "cut.zarr", SerialExecutor())
    assert contents(resumed) == contents(quiet)
    assert resumed.identity == quiet.identity


def test_samples_without_columns_take_predictions_alone(tmp_path: Path) -> None:
    table = pd.DataFrame({"t": [[1, 2, 3], [2, 3], [1], [3, 1]] * 15, "y": [0, 1, 0, 1] * 15})
    table.to_parquet(tmp_path / "t.parquet")
    data = fs.convert(tmp_path / "t.parquet", tmp_path / "t.zarr", label="y", tokens="t")
    run = fs.train(data, tmp_path / "run", folds=2, epochs=1, batch_size=8)
    with pytest.raises(UsageError, match="samples are sequences of token ids, to which no columns can be added"):
        fs.stack([run], tmp_path / "s.zarr")
    stacked = fs.stack([run], tmp_path / "s.zarr", only=True)
    upper = fs.train(stacked, tmp_path / "upper", model="mlp", epochs=1, batch_size=8)
    assert len(upper.predict(tmp_path / "t.parquet")) == 60
