"""Weights of rows in the loss, the metrics and the statistics, with numpy, scikit-learn or torch beside them."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
import torch
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.storage.fold_plan import open_plan
from foldstream.storage.parts import read_part
from foldstream.storage.places.locate import locate
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.fitted.statistics import fitted_statistics
from foldstream.training.model.weights import load_weights
from foldstream.training.run import RunFolder, folds_of, read_result
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error
from torch.nn import functional

from ..conftest import convert_file
from .test_training import make_job, train_on_two_ranks

ROWS = 300
MODEL = """
import torch
from torch import nn

def make(sample_shape, outputs):
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(sample_shape[0], 8), nn.ReLU(), nn.Linear(8, outputs))
"""


def weighted(folder: Path, label: str) -> Dataset:
    """Two features, one of which has gaps, a label or a target, and weights from 0 to about 20."""
    random = np.random.default_rng(0)
    x, w = random.normal(3, 2, (ROWS, 2)), np.where(random.random(ROWS) < 0.2, 0, random.exponential(1, ROWS) ** 2)
    y = np.where(x[:, 0] > 3, "yes", "no") if label == "class" else np.round(x[:, 0] + random.normal(0, 1, ROWS), 3)
    gaps = random.random(ROWS) < 0.1
    lines = [
        f"{a:.3f},{'' if gap else f'{b:.3f}'},{c},{d:.4f}" for (a, b), gap, c, d in zip(x, gaps, y, w, strict=True)
    ]
    (folder / f"{label}.csv").write_text("\n".join(["a,b,label,w", *lines, ""]))
    options: dict[str, Any] = {} if label == "class" else {"task": "regression"}
    roles = {"weight": ("w",)}
    return convert_file(folder / f"{label}.csv", folder / f"{label}.zarr", label="label", roles=roles, **options)


def column(dataset: Dataset, name: str) -> np.ndarray:
    return BlockReader(dataset, (name,)).read(range(dataset.layout.blocks))[name]


def test_medians_are_those_of_the_rows_whatever_their_weights(tmp_path: Path) -> None:
    dataset = weighted(tmp_path, "class")
    fs.train(dataset.place, tmp_path / "run", model="mlp", missing="median", epochs=1, workers=0, folds=2)
    plan, x = open_plan(RunFolder(locate(tmp_path / "run")).folds), column(dataset, "x")
    for fold in range(2):
        trained = np.isin(BlockReader(plan, ("fold",)).read(range(plan.layout.blocks))["fold"], plan.model(fold).train)
        assert fitted_statistics(plan, fold).median == tuple(np.nanmedian(x[trained].astype(np.float64), axis=0))


@pytest.mark.parametrize("label", ["class", "number"])
def test_a_loop_by_hand_with_weights_gives_the_weights_of_train(label: str, tmp_path: Path) -> None:
    dataset, run = weighted(tmp_path, label), tmp_path / "run"
    (tmp_path / "own.py").write_text(MODEL)
    settings = {"optimizer": "SGD", "lr": 0.1, "weight_decay": 0.0, "scheduler": "ConstantLR"}
    options: dict[str, Any] = {"model": f"{tmp_path / 'own.py'}:make", "settings": settings, "missing": "mean"}
    fs.train(dataset.place, run, folds=3, epochs=2, batch_size=64, workers=0, shares=1, **options)
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)
    network = namespace["make"]((2,), len(dataset.schema.classes) or 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    normalize = fs.normalizer(dataset, fold=1, folds=run)
    statistics = fitted_statistics(open_plan(RunFolder(locate(run)).folds), 1)
    stream = fs.stream(dataset, fold=1, folds=run, batch_size=64, weighted=True)
    for _ in range(2):
        for x, y, _, weight in stream:  # type: ignore[misc]
            outputs = network(normalize(x))
            if label == "class":
                each = functional.cross_entropy(outputs, y.long(), reduction="none")
            else:
                mean, std = torch.tensor(statistics.y_mean), torch.tensor(statistics.y_std)
                targets = ((y[:, None].double() - mean.double()) / std.double()).float()
                each = functional.mse_loss(outputs, targets, reduction="none")[:, 0]
            optimizer.zero_grad()
            (each * (weight / statistics.weight).float()).mean().backward()
            optimizer.step()
    for name, values in load_weights(locate(run / "folds/1/model.safetensors")).items():
        torch.testing.assert_close(network.state_dict()[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", ["class", "number"])
def test_statistics_and_scores_are_weighted(label: str, tmp_path: Path) -> None:
    dataset, run = weighted(tmp_path, label), tmp_path / "run"
    summary = fs.train(dataset.place, run, model="mlp", folds=2, epochs=1, batch_size=32, missing="mean").summary
    fused, folder = RunFolder(locate(run)), tmp_path / "runs"
    fs.train(dataset.place, folder, model="mlp", folds=2, epochs=1, batch_size=32, missing="mean", fold_mode="runs")
    plan, x, w = open_plan(fused.folds), column(dataset, "x").astype(np.float64), column(dataset, "column_w")
    y, codes = column(dataset, "y"), BlockReader(plan, ("fold",)).read(range(dataset.layout.blocks))["fold"]
    counted: list[tuple[float, dict[str, Any]]] = []
    for fold in range(2):
        found, rows = fitted_statistics(plan, fold), codes != fold
        for channel in range(2):
            there = rows & ~np.isnan(x[:, channel])
            mean = np.average(x[there, channel], weights=w[there])
            std = np.average((x[there, channel] - mean) ** 2, weights=w[there]) ** 0.5
            assert (found.mean[channel], found.std[channel]) == pytest.approx((mean, std), rel=1e-12)
        assert found.weight == pytest.approx(w[rows].mean(), rel=1e-12)
        if label == "number":
            mean = np.average(y[rows], weights=w[rows])
            assert found.y_mean[0] == pytest.approx(mean, rel=1e-6)
        held, metrics = codes == fold, read_result(fused.fold(fold))["metrics"]
        parts = (read_part(fused.fold(fold).parts, shard) for shard in range(dataset.layout.shards))
        predicted, scores = np.concatenate([part[1] for part in parts if part]), {"sample_weight": w[held]}
        if label == "class":
            expected = {"accuracy": accuracy_score(y[held], predicted.argmax(1), **scores)}
            expected["loss"] = log_loss(y[held], predicted, **scores)
        else:
            expected = {"rmse": mean_squared_error(y[held], predicted, **scores) ** 0.5}
            expected["mae"] = mean_absolute_error(y[held], predicted, **scores)
        assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        counted.append((w[held].sum(), metrics))
        weights = [(root / f"folds/{fold}/model.safetensors").read_bytes() for root in (run, folder)]
        assert weights[0] == weights[1]
    name = "loss" if label == "class" else "mae"
    mean = sum(weight * metrics[name] for weight, metrics in counted) / sum(weight for weight, _ in counted)
    assert summary["out_of_fold"][name] == pytest.approx(mean, rel=1e-5)


def test_what_has_no_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,label\n" + "1,yes\n2,no\n" * 40)
    dataset = convert_file(tmp_path / "rows.csv", tmp_path / "rows.zarr", label="label")
    with pytest.raises(UsageError, match="no weight column; convert it with weight=COLUMN"):
        fs.stream(dataset, weighted=True)
    with pytest.raises(UsageError, match="no column of weights; convert it with weight=COLUMN"):
        fs.stream(dataset, sample="weight")


def test_a_weight_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,label,w\n" + "1,yes,0.5\n2,no,-1.5\n" * 40)
    dataset = convert_file(tmp_path / "rows.csv", tmp_path / "rows.zarr", label="label", roles={"weight": ("w",)})
    with pytest.raises(UsageError, match=r"column 'w' contains the weight -1\.5, but weights must be 0 or more"):
        fs.train(dataset.place, tmp_path / "run", model="mlp", folds=2, epochs=1, batch_size=16)


def test_two_ranks_and_one_give_the_same_with_weights_sampling_and_unequal_shares(tmp_path: Path) -> None:
    """One by one, two ranks average gradients of 19 and 18 rows. From one pass, rows travel with their weights to the
    rank that trains a fold. One rank computes the shares of two."""
    dataset, runs = weighted(tmp_path, "class"), {}
    for name in ("one by one", "fused", "alone"):
        options: dict[str, Any] = {"model": "mlp", "shares": 2, "batch_size": 37, "sample": ("yes=3",)}
        job, runs[name] = make_job(dataset, tmp_path / name, epochs=3, **options)
    train_on_two_ranks(runs["one by one"], "0 1 2", tmp_path / "meet-1")
    train_on_two_ranks(runs["fused"], "0,1,2", tmp_path / "meet-2")
    FoldTrainer(folds_of(job, runs["alone"], range(3)), Process()).train()
    weights = [[run.fold(fold).weights.read_bytes() for fold in range(3)] for run in runs.values()]
    assert weights[0] == weights[1] == weights[2]
    assert read_result(runs["alone"].fold(0))["metrics"]["rows"] == 200
