"""The whole road through the command line, with real Dask and Ray: convert, train, predict, resume, refuse."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import zarr
from distributed import Client
from foldstream.pipeline.dask_executor import DaskExecutor
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.dataset import Dataset

from ..conftest import EXAMPLES, convert_file, table

MODEL = """
from torch import nn

def linear(sample_shape, outputs, hidden=8):
    size = 1
    for n in sample_shape:
        size *= n
    return nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

def wrong(sample_shape, outputs):
    return linear(sample_shape, outputs + 1)

def broken(sample_shape, outputs):
    raise ValueError("no such layer")
"""


def foldstream(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "foldstream.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env={**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def trained(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the user's own small model: 3 folds, 2 workers."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "own.py").write_text(MODEL)
    run = folder / "run"
    options = ("--folds", "3", "--epochs", "3", "--batch-size", "32", "--workers", "2", "--set", "hidden=32")
    done = foldstream("train", digits.root, run, "--model", f"{folder}/own.py:linear", "--set", "lr=0.01", *options)
    assert done.returncode == 0, done.stderr
    assert "out-of-fold, 1,200 rows" in done.stdout
    assert "balanced_accuracy" in done.stdout
    assert "wait, s" in done.stdout
    assert "Ray dashboard: http://127.0.0.1:" in done.stdout
    return run


def test_out_of_fold_predictions_cover_each_row_once_and_give_the_score(trained: Path, digits: Dataset) -> None:
    oof = zarr.open_group(trained / "oof.zarr", mode="r")
    prediction, count = (np.asarray(oof[name][...]) for name in ("prediction", "count"))  # type: ignore[index]
    y = np.asarray(zarr.open_group(digits.root, mode="r")["y"][...])  # type: ignore[index]
    summary = json.loads((trained / "summary.json").read_text())
    assert prediction.shape == (1200, 10)
    assert (count == 1).all()
    np.testing.assert_allclose(prediction.sum(axis=1), 1, rtol=1e-5)
    assert summary["out_of_fold"]["accuracy"] == pytest.approx((prediction.argmax(axis=1) == y).mean())
    assert summary["out_of_fold"]["accuracy"] > 0.7
    own = prediction[np.arange(len(y)), y].astype(np.float64)
    assert summary["out_of_fold"]["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-6)
    by_fold = np.average([fold["accuracy"] for fold in summary["folds"]])
    assert summary["out_of_fold"]["accuracy"] == pytest.approx(by_fold, abs=1e-6)
    loss_by_fold = np.average([fold["loss"] for fold in summary["folds"]])  # the folds are of one size
    assert summary["out_of_fold"]["loss"] == pytest.approx(loss_by_fold, rel=1e-5)


def test_folds_are_stratified_and_logged(trained: Path, digits: Dataset) -> None:
    folds = np.asarray(zarr.open_group(trained / "folds.zarr", mode="r")["fold"][...])  # type: ignore[index]
    assert np.bincount(folds).tolist() == [400, 400, 400]
    for fold in range(3):
        assert list((trained / "tensorboard" / f"fold-{fold}").glob("events*"))
    assert len(digits) == len(folds)


def test_a_complete_run_is_not_trained_again_and_another_job_is_refused(
    trained: Path, digits: Dataset, digits_csv: Path, tmp_path: Path
) -> None:
    options = ("--folds", "3", "--epochs", "3", "--batch-size", "32", "--set", "hidden=32", "--set", "lr=0.01")
    model = ("--model", f"{trained.parent}/own.py:linear")
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    again = foldstream("train", digits.root, trained, *model, *options)
    assert again.returncode == 0
    other = foldstream("train", digits.root, trained, *model, *options, "--seed", "1")
    assert other.returncode == 2
    assert "contains another run: seed was 0 and is now 1; choose" in other.stderr
    fewer = convert_file(digits_csv, tmp_path / "fewer.zarr", "label", shape=(1, 28, 28), shuffle=1)
    data = foldstream("train", fewer.root, trained, *model, *options)
    assert data.returncode == 2
    assert "the dataset is different" in data.stderr
    source = trained.parent / "own.py"
    source.write_text(MODEL + "\n")
    changed = foldstream("train", digits.root, trained, *model, *options)
    source.write_text(MODEL)
    assert changed.returncode == 2
    assert "the file own.py of the code has changed" in changed.stderr
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_the_command_of_the_report_trains_the_same_weights(trained: Path) -> None:
    name, *words = shlex.split(json.loads((trained / "report.json").read_text())["command"])
    assert name == "foldstream"
    assert words[:3:2] == ["train", f"{trained}-again"]
    done = foldstream(*words)
    assert done.returncode == 0, done.stderr
    assert f"report: {trained}-again/report.html" in done.stdout
    for fold in range(3):
        weights = [Path(f"{run}/folds/{fold}/model.safetensors").read_bytes() for run in (trained, f"{trained}-again")]
        assert weights[0] == weights[1]


def test_predictions_of_a_csv_and_of_its_dataset_agree(trained: Path, dask_client: Client, tmp_path: Path) -> None:
    out = tmp_path / "sub.csv"
    source = EXAMPLES / "test.csv.gz"
    assert fs.predict(trained, source, out, client=dask_client).rows == 1000
    rows = list(csv.reader(out.read_text().splitlines()))
    assert rows[0] == ["row", "label"]
    assert [row[0] for row in rows[1:]] == [str(i) for i in range(1, 1001)]
    assert {row[1] for row in rows[1:]} <= set("0123456789")
    dataset = fs.convert_csv(source, tmp_path / "test.zarr", shape=(1, 28, 28), client=dask_client)
    fs.predict(trained, dataset.root, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.csv", "sub.csv", "test.zarr"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_out_of_fold_predictions_as_a_table(ending: str, trained: Path, digits: Dataset, tmp_path: Path) -> None:
    out = tmp_path / f"oof.{ending}"
    done = foldstream("oof", trained, out)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
    prediction = np.asarray(zarr.open_group(trained / "oof.zarr", mode="r")["prediction"][...])  # type: ignore[index]
    assert table.columns[:4].tolist() == ["row", "label", "models", "predicted"]
    np.testing.assert_allclose(table.iloc[:, 4:].to_numpy(), prediction, rtol=1e-6)
    report = json.loads((trained / "report.json").read_text())["out_of_fold"]
    accuracy = (table["label"].astype(str) == table["predicted"].astype(str)).mean()
    assert report["scores"]["accuracy"] == pytest.approx(accuracy)
    low, high = report["intervals"]["accuracy"]
    assert low < accuracy < high
    assert high - low < 0.1
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_a_holdout_is_scored_by_all_models_of_all_repeats(digits: Dataset, tmp_path: Path) -> None:
    options = ("--folds", "2", "--repeats", "2", "--holdout", "0.25", "--epochs", "2", "--batch-size", "32")
    done = foldstream("train", digits.root, tmp_path / "run", "--model", "mlp", *options, "--refit")
    assert done.returncode == 0, done.stderr
    assert "out-of-fold, 900" in done.stdout
    assert "holdout, 300" in done.stdout
    counts = [
        np.asarray(zarr.open_group(tmp_path / "run" / name, mode="r")["count"][...])  # type: ignore[index]
        for name in ("oof.zarr", "holdout.zarr")
    ]
    assert np.unique(counts[0], return_counts=True)[1].tolist() == [300, 900]
    np.testing.assert_array_equal(counts[1], np.where(counts[0] == 0, 4, 0))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["holdout"]["accuracy"] > 0.6
    assert len(summary["folds"]) == 4
    refit = json.loads((tmp_path / "run" / "folds" / "4" / "done.json").read_text())
    assert refit["metrics"]["rows"] + refit["metrics"]["dropped"] == 900
    outs = [tmp_path / f"{kind}.csv" for kind in ("mean", "refit")]
    for out in outs:
        assert foldstream("predict", tmp_path / "run", digits.root, out, "--ensemble", out.stem).returncode == 0
    assert outs[0].read_bytes() != outs[1].read_bytes()


def test_a_grid_is_trained_together_and_its_best_candidate_predicts(digits: Dataset, tmp_path: Path) -> None:
    command = ("train", digits.root, tmp_path / "run", "--model", "mlp", "--folds", "2", "--epochs", "1")
    done = foldstream(*command, "--set", "lr=0.003,0.00001", "--set", "hidden=32")
    assert done.returncode == 0, done.stderr
    assert "fold mode: fused" in done.stdout
    grid = json.loads((tmp_path / "run" / "grid.json").read_text())
    assert [one["settings"] for one in grid["candidates"]] == [
        {"lr": "0.003", "hidden": "32"},
        {"lr": "0.00001", "hidden": "32"},
    ]
    assert grid["best"] == "lr=0.003"
    scores = [one["out_of_fold"]["accuracy"] for one in grid["candidates"]]
    assert scores[0] > scores[1]
    more = foldstream(*command, "--set", "lr=0.003,0.00001,0.03", "--set", "hidden=32")
    assert more.returncode == 0, more.stderr
    assert len(json.loads((tmp_path / "run" / "grid.json").read_text())["candidates"]) == 3
    assert fs.predict(tmp_path / "run", digits.root, tmp_path / "out.csv").rows == 1200


def test_a_test_set_with_other_columns_is_refused(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(table(5))
    done = foldstream("predict", trained, other, tmp_path / "out.csv")
    assert done.returncode == 2
    assert "does not have the expected columns: missing: 'pixel0'" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["other.csv"]


def test_dask_gives_the_bytes_of_the_serial_executor(
    digits: Dataset, digits_csv: Path, dask_client: Client, tmp_path: Path
) -> None:
    request = ConvertRequest((describe_source(str(digits_csv)),), labels=("label",), shape=(1, 28, 28))
    dataset = convert(request, tmp_path / "dask.zarr", DaskExecutor(dask_client))
    assert dataset.identity == digits.identity


def test_a_scheduler_that_runs_elsewhere_converts_and_reports(
    usual_blocks: None, digits_csv: Path, dask_processes: Client, tmp_path: Path
) -> None:
    report, address = tmp_path / "report.html", dask_processes.scheduler.address
    options = ("--label", "label", "--shape", "1,28,28", "--dask", address, "--report", report)
    done = foldstream("convert", "csv", digits_csv, tmp_path / "dask.zarr", *options)
    assert done.returncode == 0, done.stderr
    here = convert_file(digits_csv, tmp_path / "here.zarr", "label", shape=(1, 28, 28))
    assert fs.open(tmp_path / "dask.zarr").identity == here.identity
    assert "write_shard_task" in report.read_text()
    assert len(dask_processes.scheduler_info()["workers"]) == 2, "the scheduler and its workers go on"


def test_a_scheduler_that_is_not_there_is_refused(digits_csv: Path, tmp_path: Path) -> None:
    done = foldstream("convert", "csv", digits_csv, tmp_path / "x.zarr", "--dask", "nowhere://1.2.3.4:5")
    assert done.returncode == 2
    assert "--dask nowhere://1.2.3.4:5: no scheduler responds" in done.stderr
    assert not (tmp_path / "x.zarr").exists()


def test_a_regression_on_two_labels_learns_and_scores_in_their_units(dask_client: Client, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(600, 3))
    y = np.stack([1000 + 50 * (x @ [1.0, -2.0, 0.5]), -3 + x @ [0.1, 0.2, -0.3]], axis=1)
    lines = [",".join([*(f"{value:.4f}" for value in row), f"r{i}"]) for i, row in enumerate(np.hstack([x, y]))]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,price,weight,name", *lines]))
    dataset = fs.convert_csv(
        tmp_path / "t.csv", tmp_path / "t.zarr", label=["price", "weight"], id="name", client=dask_client
    )
    summary = fs.train(
        dataset.root,
        tmp_path / "run",
        model="mlp",
        folds=2,
        epochs=40,
        batch_size=32,
        settings={"hidden": 32, "dropout": 0.0, "lr": 0.01},
        client=dask_client,
    ).summary
    scores = summary["out_of_fold"]
    assert scores["rmse/price"] < 0.15 * y[:, 0].std()
    assert scores["rmse/weight"] < 0.15 * y[:, 1].std()
    of_folds = np.mean([fold["rmse/price"] ** 2 for fold in summary["folds"]])
    assert of_folds**0.5 == pytest.approx(scores["rmse/price"], rel=1e-4)
    with pytest.raises(fs.FoldstreamError, match="name,price,weight"):
        fs.predict(tmp_path / "run", dataset.root, tmp_path / "out.csv", columns=("name", "y"))
    fs.predict(tmp_path / "run", dataset.root, tmp_path / "out.csv")
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert rows[0] == ["name", "price", "weight"]
    assert [row[0] for row in rows[1:4]] == ["r0", "r1", "r2"]
    for label in range(2):
        assert np.corrcoef([float(row[1 + label]) for row in rows[1:]], y[:, label])[0, 1] > 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "csv", "nothing.csv", "out.zarr"], "nothing.csv cannot be read"),
        (["convert", "csv", "{csv}", "out.zarr", "--label", "labl"], "did you mean 'label'?"),
        (["convert", "csv", "{csv}", "out.zarr", "--shape", "1,x"], "must be positive whole numbers"),
        (["convert", "csv", "{csv}", "out.zarr", "--label", "label", "--shape", "3,3"], "9 values, but the data has"),
        (["train", "nothing.zarr", "run"], "does not exist"),
        (["train", "{folder}", "run"], "is not a dataset written by Foldstream"),
        (["train", "{data}", "run", "--model", "digits-cn"], "did you mean 'digits-cnn'?"),
        (["train", "{data}", "run", "--model", "{folder}/own.py:missing"], "does not define a function 'missing'"),
        (["train", "{data}", "run", "--model", "{folder}/none.py:f"], "the file does not exist"),
        (["train", "{data}", "run", "--model", "{folder}/own.py:wrong"], "returns (2, 11) for 2 rows"),
        (["train", "{data}", "run", "--model", "{folder}/own.py:broken"], "ValueError: no such layer"),
        (["train", "{data}", "run", "--folds", "1"], "must be between 2 and 100"),
        (["train", "{data}", "run", "--split", "stratifed"], "did you mean 'stratified'?"),
        (["train", "{data}", "run", "--set", "lrr=1"], "did you mean 'lr'?"),
        (["train", "{data}", "run", "--set", "lr=fast"], "--set lr=fast: must be a number"),
        (["train", "{data}", "run", "--set", "precision=float8"], "--set precision=float8 is not valid: did you mean"),
        (["train", "{data}", "run", "--batch-size", "3", "--workers", "4"], "use --batch-size 4 or more"),
        (["train", "{data}", "run", "--memory", "100KB"], "smaller --window"),
        (["train", "{data}", "run", "--fold-mode", "fussed"], "did you mean 'fused'?"),
        (["train", "{data}", "run", "--plan", "weekly"], "has no plan 'weekly'"),
        (["train", "{data}", "run", "--refit", "--set", "scheduler=ReduceLROnPlateau"], "needs held-out rows"),
        (["train", "{data}", "{folder}"], "contains something that is not a run"),
        (["predict", "{folder}", "{csv}", "out.csv"], "is not a run"),
        (["predict", "{data}", "{csv}", "out.csv"], "is a dataset, not a run; train on it with 'foldstream train"),
        (["predict", "{csv}", "{data}", "out.csv"], "is a file, not a run; give the folder that 'foldstream train'"),
        (["status", "nowhere"], "does not exist; start a run with 'foldstream train DATASET RUN'"),
        (["train", "{folder}", "run"], "convert them with 'foldstream convert csv"),
        (["run", "{folder}/job.toml"], "[convert.csv] lable is not an option: did you mean 'label'?"),
        (["info", "{folder}"], "is not a dataset written by Foldstream"),
        (["info", "{csv}"], "is a file, not a dataset; convert it with 'foldstream convert csv"),
        (["convert", "csv", "{csv}", "out.zarr", "--ignore", "pixell3"], "did you mean 'pixel3'?"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_refused_with_code_2_and_a_remedy_and_without_a_traceback(
    arguments: list[str],
    message: str,
    digits: Dataset,
    digits_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "own.py").write_text(MODEL)
    (folder / "job.toml").write_text('[convert.csv]\nsources = ["a.csv"]\nout = "a.zarr"\nlable = "x"\n')
    monkeypatch.chdir(tmp_path)
    done = foldstream(*(a.format(csv=digits_csv, data=digits.root, folder=folder) for a in arguments))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == ["job.toml", "own.py"]
