"""Several labels that are 0 or 1: each is a probability of its own, in tables and for images."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import torch
from foldstream.cluster.api.predict import write_oof
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import SourceError, UsageError
from foldstream.storage.format.schema import Schema
from foldstream.storage.places.locate import locate
from foldstream.training.model.ensemble import combine
from foldstream.training.model.weights import load_weights
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss
from torch.nn import functional

LABELS = ["cat", "dog", "bird"]
SCHEMA = Schema(("a",), (1,), "float32", tuple(LABELS), "multilabel", "uint8")
OPTIONS: dict[str, Any] = {"folds": 3, "epochs": 2, "batch_size": 32, "workers": 0, "shares": 1}
MODEL = """
import math

import torch
from torch import nn

def make(sample_shape, outputs):
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(sample_shape), outputs))
"""


def animals(rows: int = 300) -> pd.DataFrame:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(rows, 4)).astype(np.float32)
    y = x[:, :3] + draws.normal(size=(rows, 3)) > [0, 0.5, 1.2]
    return pd.DataFrame(x, columns=list("abcd")).join(pd.DataFrame(y.astype(int), columns=LABELS))


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(MODEL)
    return f"{tmp_path / 'own.py'}:make"


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    animals().to_csv(tmp_path / "animals.csv", index=False)
    return fs.convert_csv(tmp_path / "animals.csv", tmp_path / "data.zarr", label=LABELS)


def by_hand(data: Dataset, run: Path, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of fold 1 by a loop over the stream, with torch's own loss."""
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)
    network = namespace["make"](data.schema.sample_shape, 3)
    groups: list[dict[str, Any]] = [{"params": [network[1].weight]}, {"params": [network[1].bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"], fused=True)
    normalize = fs.normalizer(data, fold=1, folds=run)
    stream = fs.stream(data, fold=1, folds=run, batch_size=OPTIONS["batch_size"])
    for _ in range(OPTIONS["epochs"]):
        for x, y, _ in stream:
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(network(normalize(x)), y.float())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights


@pytest.mark.parametrize("kind", ["table", "images"])
def test_labels_train_as_in_a_loop_with_binary_cross_entropy(kind: str, tmp_path: Path, model: str) -> None:
    table, settings = animals(), {"lr": 0.01, "scheduler": "ConstantLR"}
    if kind == "table":
        table.to_csv(tmp_path / "animals.csv", index=False)
        data = fs.convert_csv(tmp_path / "animals.csv", tmp_path / "data.zarr", label=LABELS)
    else:
        table = table.head(120)
        (tmp_path / "photos").mkdir()
        for row, values in enumerate(table[list("abcd")].to_numpy()):
            pixels = np.clip(values * 40 + 128, 0, 255).astype(np.uint8).reshape(2, 2)
            Image.fromarray(pixels).save(tmp_path / f"photos/{row:03d}.png")
        names = [f"{row:03d}.png" for row in range(len(table))]
        table[LABELS].set_index(pd.Index(names, name="file")).to_csv(tmp_path / "labels.csv")
        options: dict[str, Any] = {"labels": tmp_path / "labels.csv", "label": LABELS, "size": 2, "color": "gray"}
        data = fs.convert_images(tmp_path / "photos", tmp_path / "data.zarr", **options)
    assert (data.schema.task, data.schema.y_dtype, data.schema.outputs) == ("multilabel", "uint8", 3)
    for mode in ("fused", "runs"):
        summary = fs.train(
            data.place, tmp_path / mode, model=model, settings=settings, fold_mode=mode, **OPTIONS
        ).summary
    fused, runs, expected = (
        *(load_weights(locate(tmp_path / mode / "folds/1/model.safetensors")) for mode in ("fused", "runs")),
        by_hand(data, tmp_path / "fused", settings),
    )
    for name, weight in expected.items():
        assert torch.equal(weight, fused[name])
        assert torch.equal(weight, runs[name])
    write_oof(tmp_path / "fused", tmp_path / "oof.csv")
    oof = pd.read_csv(tmp_path / "oof.csv")
    predicted, y = oof[[f"probability_{label}" for label in LABELS]].to_numpy(), oof[LABELS].to_numpy()
    assert ((predicted > 0) & (predicted < 1)).all()
    scores = summary["out_of_fold"]
    assert scores["loss"] == pytest.approx(np.mean([log_loss(y[:, i], predicted[:, i]) for i in range(3)]), rel=1e-5)
    assert scores["subset_accuracy"] == accuracy_score(y, predicted >= 0.5)
    for number, label in enumerate(LABELS):
        assert scores[f"accuracy/{label}"] == pytest.approx(accuracy_score(y[:, number], predicted[:, number] >= 0.5))
    assert summary["baseline"]["accuracy/bird"] == pytest.approx(1 - y[:, 2].mean())


def test_a_submission_and_an_export_have_a_probability_for_each_label(
    tmp_path: Path, data: Dataset, model: str
) -> None:
    run = tmp_path / "run"
    fs.train(data.place, run, model=model, **OPTIONS)
    animals().drop(columns=LABELS).to_csv(tmp_path / "test.csv", index=False)
    x = torch.tensor(animals()[list("abcd")].to_numpy())
    outputs = torch.stack([one(x) for one in fs.load_models(run)])
    fs.predict(run, tmp_path / "test.csv", tmp_path / "mean.csv")
    fs.predict(run, tmp_path / "test.csv", tmp_path / "vote.csv", ensemble="vote")
    scored = fs.predict(run, tmp_path / "animals.csv", tmp_path / "proba.csv", proba=True).scored
    assert (tmp_path / "proba.csv").read_text() == (tmp_path / "mean.csv").read_text()
    mean, vote = (pd.read_csv(tmp_path / f"{name}.csv")[LABELS].to_numpy() for name in ("mean", "vote"))
    probabilities = outputs.sigmoid().detach()
    np.testing.assert_allclose(mean, probabilities.mean(dim=0), rtol=1e-5)
    np.testing.assert_array_equal(vote >= 0.5, (probabilities >= 0.5).sum(dim=0) >= 2)
    assert scored["scores"]["subset_accuracy"] == accuracy_score(animals()[LABELS], mean >= 0.5)
    assert fs.export(run, tmp_path / "out")
    assert '"output":"logits"' in (tmp_path / "out/export.json").read_text()
    for name in ("report.md", "report.html"):
        assert "subset_accuracy" in (run / name).read_text()


def test_the_median_of_labels_stays_a_probability_of_each() -> None:
    models = torch.tensor([[[0.9, 0.8]], [[0.7, 0.6]], [[0.1, 0.9]]])
    torch.testing.assert_close(combine(models, "median", [1, 1, 1], SCHEMA), torch.tensor([[0.7, 0.8]]))


def test_numbers_stay_a_regression_and_others_are_refused(tmp_path: Path, data: Dataset) -> None:
    file = tmp_path / "animals.csv"
    numbers = fs.convert_csv(file, tmp_path / "numbers.zarr", label=LABELS, task="regression")
    assert (numbers.schema.task, numbers.schema.y_dtype) == ("regression", "float64")
    counted = animals().assign(cat=lambda table: table["cat"] * 2)
    counted.to_csv(tmp_path / "counted.csv", index=False)
    assert fs.convert_csv(tmp_path / "counted.csv", tmp_path / "counted.zarr", label=LABELS).schema.task == "regression"
    with pytest.raises(UsageError, match="the label 'cat' is not always 0 or 1; use task=\"regression\""):
        fs.convert_csv(tmp_path / "counted.csv", tmp_path / "no.zarr", label=LABELS, task="multilabel")
    with pytest.raises(UsageError, match='task="multilabel" needs several labels'):
        fs.convert_csv(file, tmp_path / "one.zarr", label="cat", task="multilabel")
    with pytest.raises(SourceError, match="the label 'cat' is not always 0 or 1"):
        fs.convert_csv(tmp_path / "counted.csv", tmp_path / "like.zarr", label=LABELS, like=data.place)
    assert open_dataset(data.place).columns()[0].kind == "0 or 1"
