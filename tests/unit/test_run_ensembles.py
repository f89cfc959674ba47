"""Ensembles over runs: weights equal direct solutions, scores are honest, predictions are those of the members."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import zarr
from foldstream.cli import app
from foldstream.cluster.ensembles.ensemble import make_ensemble
from foldstream.cluster.requests import EnsembleRequest, Session
from foldstream.cluster.serve.bodies import GivenRow
from foldstream.cluster.serve.service import Service
from foldstream.pipeline.ensembles.blend import BlendTask, Weighting, blend_shard, find_weights
from foldstream.pipeline.ensembles.greedy import ROUNDS, SampledRows, Selection
from foldstream.pipeline.ensembles.least_squares import solve_nnls
from foldstream.pipeline.ensembles.member_rows import MemberSource
from foldstream.pipeline.predictions.merge import prediction_arrays
from foldstream.storage.blocks.writer import blocks_of, commit, create_arrays, write_shard
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import ConflictError, ForeignError, UsageError
from foldstream.storage.format.layout import Layout
from foldstream.storage.format.manifest import MANIFEST, Manifest
from foldstream.storage.format.schema import Schema
from foldstream.storage.metrics.scoring import Scoring
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import Split
from PIL import Image
from scipy.optimize import nnls
from typer.main import get_command

from ..chaos.disk import read_tree
from ..datasets import write_dataset
from ..executors import LastFirst

MEMBERS = {"wide": {"lr": 0.02, "hidden": 64}, "narrow": {"lr": 0.02, "hidden": 8}, "slow": {"lr": 0.002, "hidden": 32}}
OPTIONS: dict[str, Any] = {"model": "mlp", "folds": 3, "epochs": 3, "batch_size": 64, "workers": 0}
CLASSES = Schema(("a",), (1,), "float32", ("y",), "classification", "uint8", ("p", "q", "r"))


@pytest.fixture(scope="module")
def runs(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs on the digits with the same folds."""
    folder = tmp_path_factory.mktemp("members")
    for name, settings in MEMBERS.items():
        fs.train(digits.place, folder / name, settings=settings, **OPTIONS)
    return folder


def members_in(folder: Path, names: Sequence[str] = tuple(MEMBERS)) -> list[Path]:
    return [folder / name for name in names]


def stored(run: Path, part: str = "oof") -> np.ndarray:
    """The merged predictions of a run or an ensemble."""
    return np.asarray(zarr.open_array(run / f"{part}.zarr" / "prediction", mode="r")[...], np.float64)


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "ensemble.json").read_text())
    return found


def direct(predictions: Sequence[np.ndarray], truth: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """The non-negative least squares fit on the stacked matrix."""
    root = np.sqrt(np.ones(len(truth)) if weight is None else weight)[:, None]
    columns = [(one * root).ravel() for one in predictions]
    return np.asarray(nnls(np.stack(columns, axis=1), (truth * root).ravel())[0])


@pytest.mark.parametrize("seed", range(20))
def test_non_negative_least_squares_equal_those_of_scipy(seed: int) -> None:
    draws = np.random.default_rng(seed)
    x = draws.normal(size=(60, 6)) * 10.0 ** draws.integers(-3, 4, 6)
    y = x @ np.maximum(draws.normal(size=6), 0) + draws.normal(size=60)
    expected = nnls(x, y)[0]
    size = np.linalg.norm(x, axis=0)
    np.testing.assert_allclose(solve_nnls(x.T @ x, x.T @ y) * size, expected * size, rtol=1e-6, atol=1e-6)


def test_members_that_are_equal_still_have_a_least_squares_fit() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(50, 1)), 3, axis=1)
    assert solve_nnls(x.T @ x, x.T @ (2 * x[:, 0])).sum() == pytest.approx(2)


def naive_selection(predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Caruana's selection by log loss as in the paper, without sums."""

    def loss(chosen: Sequence[int]) -> float:
        mean = predictions[list(chosen)].mean(axis=0)
        return float(-np.log(mean[np.arange(len(y)), y]).mean())

    order = sorted(range(len(predictions)), key=lambda member: loss([member]))
    chosen = order[:1]
    for member in order[1:]:
        if loss([*chosen, member]) >= loss(chosen):
            break
        chosen = [*chosen, member]
    best = chosen
    while len(chosen) < ROUNDS:
        chosen = min(([*chosen, member] for member in range(len(predictions))), key=loss)
        best = chosen if loss(chosen) < loss(best) - 1e-12 else best
    return np.bincount(best, minlength=len(predictions)) / len(best)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_selection_equals_a_naive_one(seed: int) -> None:
    draws = np.random.default_rng(seed)
    y = draws.integers(0, 3, 200)
    predictions = draws.dirichlet(np.ones(3), (4, 200)) * 0.5 + 0.5 * np.eye(3)[y] * draws.random((4, 200, 1))
    predictions /= predictions.sum(axis=2, keepdims=True)
    folds = draws.integers(0, 4, 200).astype(np.int16)
    selection = Selection(
        SampledRows(folds, predictions, y.astype(np.uint8), np.ones(200)), Scoring(CLASSES), {"loss": False}
    )
    np.testing.assert_allclose(selection.select(), naive_selection(predictions, y))
    left = folds != 2
    np.testing.assert_allclose(selection.select(2), naive_selection(predictions[:, left], y[left]))


def test_greedy_selection_by_a_metric_of_ranks() -> None:
    draws = np.random.default_rng(0)
    y = draws.integers(0, 3, 300).astype(np.uint8)
    random = draws.dirichlet(np.ones(3), 300)
    good = 0.2 * random + 0.8 * np.eye(3)[y]
    rows = SampledRows(np.zeros(300, np.int16), np.stack([random, good]), y, np.ones(300))
    assert Selection(rows, Scoring(CLASSES), {"auc": True}).select().tolist() == [0, 1]


def test_weights_equal_a_direct_solution_and_leave_the_fold_of_a_row_out(runs: Path, digits: Dataset) -> None:
    fs.ensemble(members_in(runs), runs / "nnls", method="nnls")
    summary, every = summary_of(runs / "nnls"), [stored(run) for run in members_in(runs)]
    labels = fs.Run(runs / "wide").oof()["label"].to_numpy()
    truth = np.eye(10)[labels]
    codes = np.asarray(zarr.open_array(runs / "wide" / "folds.zarr" / "fold", mode="r")[...])
    expected = direct(every, truth)
    assert [one["weight"] for one in summary["members"]] == pytest.approx(expected / expected.sum(), abs=1e-6)
    mixed = np.empty_like(truth)
    for fold in range(3):
        others, own = codes != fold, codes == fold
        weights = direct([one[others] for one in every], truth[others])
        weights = weights / weights.sum()
        assert summary["weights_by_fold"][str(fold)] == pytest.approx(weights, abs=1e-6)
        mixed[own] = sum(weight * one[own] for weight, one in zip(weights, every, strict=True))
    np.testing.assert_allclose(stored(runs / "nnls"), mixed, atol=1e-6)
    assert summary["out_of_fold"]["accuracy"] == pytest.approx((mixed.argmax(axis=1) == labels).mean())
    np.testing.assert_allclose(np.diag(summary["correlation"]), 1)


def test_the_ensemble_of_three_models_is_at_least_as_good_as_the_best_of_them(runs: Path) -> None:
    made = fs.ensemble(members_in(runs), runs / "greedy")
    best = max(fs.Run(run).metrics["accuracy"] for run in members_in(runs))
    assert made.metrics["accuracy"] >= best
    assert sum(made.weights.values()) == pytest.approx(1)
    assert made.members["accuracy"].max() == best
    text = (runs / "greedy" / "report.md").read_text()
    assert "greedy selection with replacement, by 1,200 rows" in text
    assert (runs / "greedy" / "report.html").read_text().count('class="bar') == 3


def test_predictions_are_the_weighted_ones_of_the_members(runs: Path, digits: Dataset, tmp_path: Path) -> None:
    made = fs.ensemble(members_in(runs), runs / "greedy")
    fs.predict(made, digits.place, tmp_path / "all.zarr")
    every = []
    for name in MEMBERS:
        fs.predict(runs / name, digits.place, tmp_path / f"{name}.zarr")
        every.append(np.asarray(zarr.open_array(tmp_path / f"{name}.zarr" / "prediction", mode="r")[...]))
    mixed = sum(weight * one for weight, one in zip(made.weights.values(), every, strict=True))
    found = np.asarray(zarr.open_array(tmp_path / "all.zarr" / "prediction", mode="r")[...])
    np.testing.assert_allclose(found, mixed, atol=1e-6)
    assert found.dtype == np.float32
    assert len(made.oof()) == len(digits)


def test_serve_answers_what_predict_writes(tmp_path: Path) -> None:
    table = irises(tmp_path)
    for name, lr in (("a", 0.05), ("b", 0.005)):
        fs.train(tmp_path / "data.zarr", tmp_path / name, settings={"lr": lr}, **OPTIONS)
    made = fs.ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "both", method="mean")
    features = table.drop(columns=["kind", "weight"])
    frame = made.predict(features)
    service = Service(made.place, "mean")
    rows = [GivenRow({str(name): str(value) for name, value in row.items()}) for row in features.to_dict("records")]
    answers = service.answer([rows])[0].predictions
    expected = frame[[f"probability_{name}" for name in service.schema.classes]].to_numpy()
    found = np.array([[*answer["probabilities"].values()] for answer in answers])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [answer["label"] for answer in answers] == frame["kind"].tolist()


def irises(folder: Path) -> pd.DataFrame:
    """A table of three kinds of rows with weights, as a dataset in the folder."""
    draws = np.random.default_rng(0)
    kind = draws.integers(0, 3, 240)
    table = pd.DataFrame({"p": kind + draws.normal(0, 0.8, 240), "q": draws.normal(0, 1, 240) - kind})
    table = table.round(3).assign(kind=np.array(["x", "y", "z"])[kind], weight=draws.integers(1, 5, 240))
    table.to_csv(folder / "data.csv", index=False)
    fs.convert_csv(folder / "data.csv", folder / "data.zarr", label="kind", weight="weight")
    return table


def test_sample_weights_repeats_and_a_holdout(tmp_path: Path) -> None:
    table = irises(tmp_path)
    for name, lr in (("a", 0.05), ("b", 0.005)):
        options = {**OPTIONS, "repeats": 2, "holdout": 0.25}
        fs.train(tmp_path / "data.zarr", tmp_path / name, settings={"lr": lr}, **options)
    fs.ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "both", method="nnls")
    summary, every = summary_of(tmp_path / "both"), [stored(tmp_path / name) for name in "ab"]
    covered = ~np.isnan(every[0][:, 0])
    truth, weight = np.eye(3)[table["kind"].map({"x": 0, "y": 1, "z": 2})], table["weight"].to_numpy(float)
    expected = direct([one[covered] for one in every], truth[covered], weight[covered])
    expected /= expected.sum()
    assert [one["weight"] for one in summary["members"]] == pytest.approx(expected, abs=1e-6)
    assert (summary["rows"], summary["uncovered"]) == (covered.sum(), (~covered).sum())
    held = [stored(tmp_path / name, "holdout") for name in "ab"]
    mixed = expected[0] * held[0] + expected[1] * held[1]
    np.testing.assert_allclose(stored(tmp_path / "both", "holdout"), mixed, atol=1e-6)
    assert summary["holdout_rows"] == (~covered).sum()


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_several_targets_and_labels(tmp_path: Path, task: str) -> None:
    draws = np.random.default_rng(0)
    x = draws.normal(0, 1, (240, 2))
    y = np.stack([x[:, 0] + 5, 1000 * x[:, 1]], axis=1) + draws.normal(0, 0.3, (240, 2)) * [1, 1000]
    y = (y > [5, 0]).astype(int) if task == "multilabel" else y.round(3)
    pd.DataFrame({"p": x[:, 0].round(4), "q": x[:, 1].round(4), "u": y[:, 0], "v": y[:, 1]}).to_csv(
        tmp_path / "data.csv", index=False
    )
    kind: dict[str, Any] = {"task": task} if task == "multilabel" else {}
    data = fs.convert_csv(tmp_path / "data.csv", tmp_path / "data.zarr", label=["u", "v"], **kind)
    for name, lr in (("a", 0.05), ("b", 0.002)):
        fs.train(data, tmp_path / name, settings={"lr": lr}, **OPTIONS)
    made = fs.ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "both", method="nnls")
    scale = y.std(axis=0) if task == "regression" else np.ones(2)
    expected = direct([stored(tmp_path / name) / scale for name in "ab"], y / scale)
    if task == "multilabel":
        expected /= expected.sum()
    assert [*made.weights.values()] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    best = min(fs.Run(tmp_path / name).metrics["loss"] for name in "ab")
    chosen = fs.ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "chosen", metric="loss")
    assert chosen.metrics["loss"] <= best * 1.02
    usual = fs.ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "usual")
    assert usual.summary["metric"] == ("r2" if task == "regression" else "loss")  # the units of the targets differ
    if task == "regression":
        assert usual.metrics["r2"] >= max(fs.Run(tmp_path / name).metrics["r2"] for name in "ab") - 0.01
    features = pd.read_csv(tmp_path / "data.csv").drop(columns=["u", "v"])
    assert len(made.predict(features)) == 240


def test_a_kill_before_the_commit_resumes_to_the_same_bytes(runs: Path) -> None:
    fs.ensemble(members_in(runs), runs / "whole", method="nnls")
    script = (
        "import os, signal, sys\n"
        "from foldstream.cluster.ensembles import ensemble\n"
        "import foldstream as fs\n"
        "ensemble.write_ensemble_report = lambda *given: os.kill(os.getpid(), signal.SIGKILL)\n"
        "fs.ensemble(sys.argv[2:], sys.argv[1], method='nnls')\n"
    )
    command = [sys.executable, "-c", script, str(runs / "killed"), *map(str, members_in(runs))]
    assert subprocess.run(command, check=False, env={**os.environ}).returncode == -signal.SIGKILL
    assert (runs / "killed" / "oof.zarr" / MANIFEST).exists()
    assert not (runs / "killed" / "ensemble.json").exists()
    with pytest.raises(ForeignError, match="is not a complete ensemble"):
        fs.Ensemble(runs / "killed")
    fs.ensemble(members_in(runs), runs / "killed", method="nnls")
    whole, killed = read_tree(runs / "whole"), read_tree(runs / "killed")
    assert {name: data for name, data in killed.items() if not name.startswith("report.")} == {
        name: data for name, data in whole.items() if not name.startswith("report.")
    }


def test_the_result_does_not_depend_on_the_order_of_tasks(runs: Path) -> None:
    fs.ensemble(members_in(runs), runs / "one", method="nnls")
    request = EnsembleRequest(runs=[*map(str, members_in(runs))], out=str(runs / "other"), method="nnls")
    make_ensemble(request, Session(client=LastFirst()))
    assert summary_of(runs / "one") == summary_of(runs / "other")
    np.testing.assert_array_equal(stored(runs / "one"), stored(runs / "other"))


def test_runs_that_do_not_fit_together_are_refused(runs: Path, digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an ensemble needs at least two runs"):
        fs.ensemble([runs / "wide"], tmp_path / "out")
    with pytest.raises(UsageError, match="is given twice"):
        fs.ensemble([runs / "wide", runs / "wide"], tmp_path / "out")
    with pytest.raises(ForeignError, match="is a dataset, not a run"):
        fs.ensemble([runs / "wide", digits.place], tmp_path / "out")
    with pytest.raises(UsageError, match=r"metric='accurac' is not valid.*did you mean 'accuracy'"):
        fs.ensemble(members_in(runs), tmp_path / "out", metric="accurac")
    for method in ("nnls", "mean", "stack"):
        with pytest.raises(UsageError, match='metric="accuracy": only method="greedy" selects by a metric'):
            fs.ensemble(members_in(runs), tmp_path / "out", metric="accuracy", method=method)
    fs.train(digits.place, tmp_path / "seed", seed=1, **OPTIONS)
    with pytest.raises(UsageError, match=r"has other folds than .*wide \(seed=1, not 0\)"):
        fs.ensemble([runs / "wide", tmp_path / "seed"], tmp_path / "out")
    irises(tmp_path)
    fs.train(tmp_path / "data.zarr", tmp_path / "irises", **OPTIONS)
    with pytest.raises(UsageError, match=r"was trained on other data than .*wide"):
        fs.ensemble([runs / "wide", tmp_path / "irises"], tmp_path / "out")
    (tmp_path / "irises" / "summary.json").unlink()
    with pytest.raises(UsageError, match="is not a complete run"):
        fs.ensemble([runs / "wide", tmp_path / "irises"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_ensemble_or_a_member_trained_again(digits: Dataset, tmp_path: Path) -> None:
    fs.train(digits.place, tmp_path / "a", **OPTIONS)
    fs.train(digits.place, tmp_path / "b", settings={"lr": 0.003}, **OPTIONS)
    both = [tmp_path / "a", tmp_path / "b"]
    fs.ensemble(both, tmp_path / "out", method="mean")
    with pytest.raises(ConflictError, match="already contains another ensemble: method was mean and is now nnls"):
        fs.ensemble(both, tmp_path / "out", method="nnls")
    with pytest.raises(ConflictError, match="metrics was loss and is now auc"):
        fs.ensemble(both, tmp_path / "out", method="greedy", metric="auc")
    with pytest.raises(ConflictError, match="already contains something that is not an ensemble"):
        fs.ensemble(both, tmp_path / "a", method="mean")
    with pytest.raises(ForeignError, match="is an ensemble of several runs, which only predicts and is served"):
        fs.export(tmp_path / "out", tmp_path / "exported")
    fs.train(digits.place, tmp_path / "b", settings={"lr": 0.003}, **{**OPTIONS, "epochs": 4})
    with pytest.raises(ConflictError, match=r"its member .*b has been trained again since then; restore it"):
        fs.predict(tmp_path / "out", digits.place, tmp_path / "p.zarr")
    with pytest.raises(ConflictError, match="b has been trained again"):
        fs.ensemble(both, tmp_path / "out", method="mean")
    (tmp_path / "b").rename(tmp_path / "gone")
    with pytest.raises(ForeignError, match=r"its member .*b is gone"):
        fs.predict(tmp_path / "out", digits.place, tmp_path / "p.zarr")


def test_runs_with_one_fold_have_no_rows_to_find_weights_by(tmp_path: Path) -> None:
    table = irises(tmp_path).assign(fold=np.arange(240) % 2 - 1)
    table.to_csv(tmp_path / "data.csv", index=False)
    fs.convert_csv(tmp_path / "data.csv", tmp_path / "one.zarr", label="kind", weight="weight", fold="fold")
    for name, lr in (("a", 0.05), ("b", 0.005)):
        fs.train(tmp_path / "one.zarr", tmp_path / name, settings={"lr": lr}, **{**OPTIONS, "folds": 1})
    both = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(UsageError, match="the runs hold out one fold, so weights cannot be found without the rows"):
        fs.ensemble(both, tmp_path / "out")
    assert [*fs.ensemble(both, tmp_path / "mean", method="mean").weights.values()] == [0.5, 0.5]


def test_masks_are_refused_with_the_reason(tmp_path: Path) -> None:
    for number in range(8):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 2, (16, 16)).astype(np.uint8)
            Image.fromarray(pixels if folder == "masks" else pixels * 255).save(tmp_path / folder / f"{number}.png")
    fs.convert_images(tmp_path / "images", tmp_path / "data.zarr", masks=tmp_path / "masks", size=16)
    for name, lr in (("a", 0.05), ("b", 0.005)):
        options: dict[str, Any] = {"model": "unet", "folds": 2, "epochs": 1, "batch_size": 2, "workers": 0}
        fs.train(tmp_path / "data.zarr", tmp_path / name, settings={"lr": lr}, **options)
    with pytest.raises(UsageError, match="a: it predicts masks, whose out-of-fold predictions are stored without"):
        fs.ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def peak_of(folder: Path, rows: int) -> int:
    """The most memory that the weights of an ensemble need at once, and the predictions of a shard, by synthetic
    members."""
    folder.mkdir()

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.arange(start, stop)
        return (numbers % 7).astype(np.uint8)[:, None], (numbers % 10).astype(np.uint8)

    dataset = write_dataset(folder / "data.zarr", rows, make, layout=Layout(rows, block_rows=500, shard_blocks=4))
    plan = make_plan(open_dataset(folder / "data.zarr"), Split(kind="kfold", folds=3), folder / "folds.zarr")
    specs = prediction_arrays(dataset.schema)
    for member in range(2):
        root, written = locate(folder / f"member{member}.zarr"), []
        create_arrays(root, dataset.layout, specs, {})
        for shard in range(dataset.layout.shards):
            start, stop = dataset.layout.shard_range(shard)
            draws = np.random.default_rng((member, shard))
            values = draws.dirichlet(np.ones(10), stop - start).astype(np.float32)
            arrays: dict[str, np.ndarray] = {"prediction": values, "count": np.ones(stop - start, np.uint8)}
            written.append(write_shard(root, dataset.layout, specs, shard, arrays))
        entries = tuple(one.entry for one in written)
        commit(root, Manifest("predictions", dataset.layout, specs, entries, {}), blocks_of(written, specs))
    members = tuple(str(folder / f"member{member}.zarr") for member in range(2))
    source, scoring = MemberSource(dataset.reference, str(plan.place), members), Scoring(dataset.schema)
    weighting = Weighting("greedy", {"loss": False}, sample_bytes=200_000)
    tracemalloc.start()
    found = find_weights(source, weighting, scoring, SerialExecutor())
    create_arrays(locate(folder / "oof.zarr"), dataset.layout, specs, {})
    blend_shard(BlendTask(source, str(folder / "oof.zarr"), scoring, found.by_fold, dataset.layout.shards - 1))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if rows > 10_000:
        assert found.sampled == pytest.approx(200_000 / 80, rel=0.1)
    return most


def test_ten_times_the_rows_need_the_same_memory(tmp_path: Path) -> None:
    small, large = peak_of(tmp_path / "small", 12_000), peak_of(tmp_path / "large", 120_000)
    assert large < 1.3 * small, (small, large)


def test_info_shows_an_ensemble(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fs.ensemble(members_in(runs), tmp_path / "all", method="mean")
    capsys.readouterr()
    get_command(app).main(["info", str(tmp_path / "all")], prog_name="foldstream", standalone_mode=False)
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*MEMBERS, "ensemble", "0.333"))
