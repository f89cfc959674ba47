"""`fs.Run`: scores, predictions and models of a run as Python users want them."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from foldstream.storage.errors import ForeignError, UsageError
from pandas.testing import assert_frame_equal

OPTIONS: dict[str, Any] = {"model": "mlp", "folds": 3, "epochs": 3, "batch_size": 32, "workers": 0, "progress": False}
ROWS = 240


def animals() -> pd.DataFrame:
    """Animals of three kinds with a tag, a weight that is missing for some, a home and a birthday."""
    draw = np.random.default_rng(0)
    kind = draw.integers(0, 3, ROWS)
    weight = np.where(draw.random(ROWS) < 0.1, np.nan, 5.0 * kind + draw.normal(size=ROWS))
    return pd.DataFrame(
        {
            "tag": [f"a{number:03d}" for number in range(ROWS)],
            "weight": weight,
            "length": kind + draw.normal(size=ROWS),
            "home": np.array(["house", "field", None])[draw.integers(0, 3, ROWS)],
            "born": pd.Timestamp("2020-01-01") + pd.to_timedelta(draw.integers(0, 900, ROWS), unit="D"),
            "kind": np.array(["cat", "dog", "emu"])[kind],
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of animals, its dataset, a run and a grid."""
    folder = tmp_path_factory.mktemp("animals")
    animals().to_csv(folder / "animals.csv", index=False)
    fs.convert_csv(folder / "animals.csv", folder / "animals.zarr", label="kind", id="tag")
    fs.train(folder / "animals.zarr", folder / "run", **OPTIONS)
    fs.train(folder / "animals.zarr", folder / "grid", settings={"lr": [0.01, 1e-6]}, **OPTIONS)
    return folder


@pytest.fixture
def run(folder: Path) -> fs.Run:
    return fs.Run(folder / "run")


def test_training_returns_the_run(folder: Path, run: fs.Run) -> None:
    again = fs.train(folder / "animals.zarr", folder / "run", **OPTIONS)
    assert isinstance(again, fs.Run)
    assert again.summary == run.summary
    assert run.metrics == run.summary["out_of_fold"]
    assert run.metrics["accuracy"] > run.baseline["accuracy"]


def test_folds_have_a_row_each(run: fs.Run) -> None:
    assert run.folds.index.tolist() == [0, 1, 2]
    assert run.folds["accuracy"].tolist() == [fold["accuracy"] for fold in run.summary["folds"]]
    assert set(run.folds.columns) == {"epoch", *run.metrics}


def test_out_of_fold_predictions_fit_the_scores(run: fs.Run) -> None:
    oof = run.oof()
    assert oof["tag"].tolist() == animals()["tag"].tolist()
    assert oof["kind"].tolist() == animals()["kind"].tolist()
    assert (oof["kind"] == oof["predicted"]).mean() == pytest.approx(run.metrics["accuracy"])
    assert oof.filter(like="probability_").sum(axis=1).to_numpy() == pytest.approx(1)


def test_predictions_do_not_depend_on_where_the_rows_are(folder: Path, run: fs.Run) -> None:
    frame = animals().drop(columns="kind")
    files = run.predict(folder / "animals.csv")
    assert list(files.columns) == ["tag", "kind", "probability_cat", "probability_dog", "probability_emu"]
    assert (files["kind"] == animals()["kind"]).mean() > 0.8
    assert_frame_equal(run.predict(frame), files)
    assert_frame_equal(run.predict(pa.table(frame)), files)
    assert_frame_equal(run.predict(fs.open(folder / "animals.zarr")), files)
    written = fs.predict(run, folder / "animals.csv", folder / "predictions.csv")
    assert written
    assert pd.read_csv(folder / "predictions.csv")["kind"].tolist() == files["kind"].tolist()


def test_predictions_have_the_index_of_their_rows(run: fs.Run) -> None:
    frame = animals().drop(columns="kind")
    some = frame.sample(30, random_state=1)
    assert_frame_equal(run.predict(some), run.predict(frame).loc[some.index])


def test_predictions_are_written_on_request(folder: Path, run: fs.Run) -> None:
    before = {path.name for path in folder.iterdir()}
    made = run.predict(animals(), out=folder / "made.parquet")
    assert {path.name for path in folder.iterdir()} - before == {"made.parquet"}
    assert_frame_equal(pd.read_parquet(folder / "made.parquet"), made)
    run.predict(animals(), out=folder / "made.csv.gz")
    assert_frame_equal(pd.read_csv(folder / "made.csv.gz"), made, check_dtype=False)
    with pytest.raises(UsageError, match=r"ends in \.csv, \.csv\.gz, \.parquet"):
        run.predict(animals(), out=folder / "made.xlsx")


def test_a_frame_without_the_columns_is_named_as_the_user_knows_it(run: fs.Run) -> None:
    with pytest.raises(UsageError, match=r"^the DataFrame does not have the expected columns: missing: 'weight'"):
        run.predict(animals().drop(columns=["kind", "weight"]))


def test_numbers_as_classes_are_numbers(tmp_path: Path) -> None:
    frame = animals().assign(kind=animals()["kind"].map({"cat": 4, "dog": 5, "emu": 10}))
    frame.to_parquet(tmp_path / "table.parquet")
    fs.convert_csv(tmp_path / "table.parquet", tmp_path / "data.zarr", label="kind", id="tag")
    run = fs.train(tmp_path / "data.zarr", tmp_path / "run", **OPTIONS)
    assert (run.predict(frame)["kind"] == frame["kind"]).mean() > 0.8
    oof = run.oof()
    assert (oof["predicted"] == frame["kind"]).mean() == pytest.approx(run.metrics["accuracy"])


def test_a_grid_compares_candidates_and_stands_for_the_best(folder: Path) -> None:
    grid = fs.Run(folder / "grid")
    assert grid.candidates.index.tolist() == ["lr=0.01", "lr=1e-06"]
    assert grid.candidates["lr"].tolist() == [0.01, 1e-6]
    assert grid.candidates["accuracy"].iloc[0] == grid.metrics["accuracy"]
    assert grid.best.metrics == grid.metrics
    assert grid.best.candidates.index.tolist() == ["lr=0.01"]
    assert grid.summary["best"] == "lr=0.01"
    assert_frame_equal(grid.predict(animals()), grid.best.predict(animals()))


def test_models_are_plain_modules(run: fs.Run) -> None:
    assert len(run.models) == 3
    assert Path(run.report).read_text().startswith("<!")


def test_runs_show_themselves(folder: Path, run: fs.Run) -> None:
    first, scores, report = repr(run).splitlines()
    assert first == f"Run {folder / 'run'}: mlp on {folder / 'animals.zarr'}, 3 folds, 3 epochs"
    assert f"accuracy {run.metrics['accuracy']:.4g} (baseline {run.baseline['accuracy']:.4g})" in scores
    assert report == f"report: {run.report}"
    assert "<th>out-of-fold</th>" in run._repr_html_()
    assert "<th>lr=0.01</th>" in fs.Run(folder / "grid")._repr_html_()


def test_learning_curves_are_drawn(run: fs.Run) -> None:
    charts: list[Any] = [chart for chart, *_ in run.plot().children]
    assert [chart.title.text for chart in charts][:2] == ["loss", "accuracy"]
    names = {drawn.name for drawn in charts[0].renderers}
    assert {"fold 0, training", "fold 2, held out", "mean, held out"} <= names


def test_what_is_no_run_is_refused(folder: Path) -> None:
    with pytest.raises(ForeignError, match="not a run"):
        fs.Run(folder / "animals.zarr")
