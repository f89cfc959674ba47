"""Losses by name with torch beside them, weights of rows, and losses of the user's own."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
import torch
from foldstream.cluster.api.job_file import load_job_file
from foldstream.cluster.submit.submission import pack_job
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.format.schema import Schema
from foldstream.storage.format.statistics import Statistics
from foldstream.storage.metrics.scoring import Scoring
from foldstream.storage.places.locate import locate
from foldstream.training.config import Recipe, TrainConfig
from foldstream.training.fitted.class_weights import pos_weights
from foldstream.training.model.losses import check_own_loss
from foldstream.training.model.objective import Objective
from foldstream.training.model.weights import load_weights
from foldstream.training.run import RunFolder, load_job
from foldstream.training.settings import check_config, measure_of, trained_loss
from torch.nn import functional

CLASSES = Schema(("a",), (1,), "float32", ("y",), "classification", "uint8", ("no", "maybe", "yes"))
BINARY = Schema(("a",), (1,), "float32", ("y",), "classification", "uint8", ("no", "yes"))
LABELS = Schema(("a",), (1,), "float32", ("p", "q", "r"), "multilabel", "uint8")
TARGETS = Schema(("a",), (1,), "float32", ("p", "q", "r"), "regression", "float64")
STATISTICS = Statistics((0.0,), (1.0,), (0.0,), (1.0,), y_mean=(0.1, 0.2, 0.5), y_std=(0.3, 0.4, 0.5))
OUTPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
CODES = torch.arange(40) % 3
ONES = (torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) > 0).to(torch.uint8)
VALUES = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
STANDARD = ((VALUES - torch.tensor([0.1, 0.2, 0.5])) / torch.tensor([0.3, 0.4, 0.5])).float()
POS = torch.tensor([9.0, 4.0, 1.0])
"""The zeros for each one, by `STATISTICS`."""


def focal(probability: torch.Tensor, each: torch.Tensor, gamma: float) -> torch.Tensor:
    return (1 - probability) ** gamma * each


def by_torch(schema: Schema, recipe: Recipe) -> torch.Tensor:
    """The loss of each row as torch computes it."""
    if schema.task == "regression":
        name = "mse_loss" if recipe.loss == "auto" else recipe.loss
        loss: torch.Tensor = getattr(functional, name)(OUTPUTS, STANDARD, reduction="none")
        return loss.mean(dim=1)
    if schema.task == "classification":
        each = functional.cross_entropy(OUTPUTS, CODES, reduction="none", label_smoothing=recipe.label_smoothing)
        own = OUTPUTS.softmax(dim=1)[torch.arange(40), CODES]
        return focal(own, each, recipe.focal_gamma) if recipe.loss == "focal" else each
    y, pos_weight = ONES.float(), POS if recipe.pos_weight else None
    each = functional.binary_cross_entropy_with_logits(OUTPUTS, y, pos_weight=pos_weight, reduction="none")
    own = torch.where(y == 1, OUTPUTS.sigmoid(), 1 - OUTPUTS.sigmoid())
    return (focal(own, each, recipe.focal_gamma) if recipe.loss == "focal" else each).mean(dim=1)


@pytest.mark.parametrize("weighted", [False, True], ids=["rows", "weighted rows"])
@pytest.mark.parametrize(
    ("schema", "y", "settings"),
    [
        (CLASSES, CODES, {}),
        (CLASSES, CODES, {"label_smoothing": 0.1}),
        (CLASSES, CODES, {"loss": "focal"}),
        (CLASSES, CODES, {"loss": "focal", "focal_gamma": 0.5}),
        (LABELS, ONES, {}),
        (LABELS, ONES, {"pos_weight": "balanced"}),
        (LABELS, ONES, {"loss": "focal", "pos_weight": "balanced"}),
        (TARGETS, VALUES, {}),
        (TARGETS, VALUES, {"loss": "l1_loss"}),
        (TARGETS, VALUES, {"loss": "smooth_l1_loss"}),
        (TARGETS, VALUES, {"loss": "huber_loss"}),
    ],
    ids=str,
)
def test_a_loss_is_torchs(schema: Schema, y: torch.Tensor, settings: dict[str, Any], weighted: bool) -> None:
    recipe = Recipe.parse(settings)
    each, weight = by_torch(schema, recipe), torch.linspace(0, 3, 40)
    objective = Objective(schema, STATISTICS, recipe)
    if weighted:
        expected = (each * weight).mean()  # the mean weight of the training rows is 1
        assert objective(OUTPUTS, y, weight).item() == pytest.approx(expected.item(), rel=1e-5)
    else:
        assert objective(OUTPUTS, y).item() == pytest.approx(each.mean().item(), rel=1e-5)
    scoring = Scoring(schema, measure_of(schema, recipe))
    held_out = scoring.of_rows(objective.predict(OUTPUTS).numpy(), y.numpy())["loss"].mean()
    if schema.task == "regression":
        away = objective.predict(OUTPUTS).numpy() - y.numpy()
        measured = np.abs(away) if scoring.measure == "mae" else np.square(away)
        assert held_out == pytest.approx(measured.mean(), rel=1e-9)
    else:
        assert held_out == pytest.approx(by_torch(schema, Recipe()).mean().item(), rel=1e-5)


def test_the_weight_of_ones_is_balanced_by_the_training_rows() -> None:
    found = pos_weights(LABELS, STATISTICS, "balanced")
    np.testing.assert_allclose(found, POS)  # type: ignore[arg-type]
    one_sided = Statistics((0.0,), (1.0,), (0.0,), (1.0,), y_mean=(0.0, 1.0, 0.5))
    assert list(pos_weights(LABELS, one_sided, "balanced")) == [1.0, 1.0, 1.0]  # type: ignore[arg-type]
    two = Statistics((0.0,), (1.0,), (0.0,), (1.0,), class_rows=(90, 10))
    assert list(pos_weights(BINARY, two, "balanced")) == [1.0, pytest.approx(9)]  # type: ignore[arg-type]
    logits, y = torch.randn(20, generator=torch.Generator().manual_seed(3)), torch.arange(20) % 2
    pairs = torch.stack([torch.zeros(20), logits], dim=1)
    expected = functional.binary_cross_entropy_with_logits(logits, y.float(), pos_weight=torch.tensor(9.0))
    objective = Objective(BINARY, two, Recipe(pos_weight="balanced"))
    assert objective(pairs, y).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("schema", "recipe", "message"),
    [
        (CLASSES, {"pos_weight": "2"}, "two classes; use --class-weight"),
        (CLASSES, {"loss": "cross_entrop"}, "did you mean 'cross_entropy'"),
        (CLASSES, {"loss": "mse_loss"}, "does not fit a classification: use cross_entropy, focal"),
        (LABELS, {"label_smoothing": 0.1}, "label_smoothing=0.1 is for cross_entropy"),
        (TARGETS, {"loss": "own.py:loss", "pos_weight": "2"}, "your own loss weighs the ones itself"),
    ],
    ids=str,
)
def test_a_loss_that_does_not_fit_is_refused(schema: Schema, recipe: dict[str, Any], message: str) -> None:
    config = TrainConfig(recipe=Recipe.parse(recipe), batch_size=8)
    config = config.model_copy(update={"split": config.split.model_copy(update={"kind": "kfold"})})
    with pytest.raises(UsageError, match=message):
        check_config(config, schema)


BAD = {
    "return None": "returned NoneType instead of a tensor",
    "return logits.mean(dim=0)": r"returned the shape \(3,\) for 6 rows",
    "return logits.mean() / 0": "is not finite",
    "return logits.detach().mean()": "has no gradient",
    "return nothing": r"own.py, line 2: NameError: name 'nothing' is not defined",
}


@pytest.mark.parametrize("body", BAD)
def test_a_loss_of_ones_own_is_tried_first(body: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"def loss(logits, y, weight=None):\n    {body}\n")
    with pytest.raises(UsageError, match=BAD[body]) as error:
        check_own_loss(f"{tmp_path / 'own.py'}:loss", CLASSES)
    assert f"{tmp_path / 'own.py'}, line " in str(error.value)


def test_rows_with_weights_need_a_loss_that_takes_them(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def loss(logits, y):\n    return logits.mean()\n")
    with pytest.raises(UsageError, match="the function has no parameter 'weight'"):
        check_own_loss(f"{tmp_path / 'own.py'}:loss", TARGETS, weighted=True)


OWN = """
from torch.nn import functional

def loss(logits, y, weight=None):
    return functional.cross_entropy(logits, y)
"""


def test_torchs_loss_from_a_file_gives_the_same_weights(digits: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    options: dict[str, Any] = {"model": "mlp", "folds": 2, "epochs": 1, "workers": 0}
    own = {"loss": f"{file}:loss", "hidden": 8}
    fs.train(digits.place, tmp_path / "named", settings={"loss": "cross_entropy", "hidden": 8}, **options)
    for mode in ("fused", "runs"):
        fs.train(digits.place, tmp_path / mode, settings=own, fold_mode=mode, **options)
    runs = {name: locate(tmp_path / name) for name in ("named", "fused", "runs")}
    named, fused, alone = (load_weights(run / "folds/1/model.safetensors") for run in runs.values())
    for name, weight in named.items():
        assert torch.equal(weight, fused[name])
        assert torch.equal(weight, alone[name])
    assert "own.py:loss loss" in (tmp_path / "fused/report.html").read_text()
    file.unlink()  # the run has a copy
    with pytest.raises(UsageError, match=r"own\.py: the file does not exist; check the path"):
        fs.train(digits.place, tmp_path / "gone", settings=own, **options)
    assert len(fs.load_models(tmp_path / "fused")) == 2
    job = load_job(RunFolder(runs["fused"]))
    assert trained_loss(job.config, job.schema) == "own.py:loss loss"
    (tmp_path / "fused/code/own.py").write_text(OWN + "\n")
    with pytest.raises(ConflictError, match=r"code/own\.py is missing or has changed since the run was started"):
        fs.load_models(tmp_path / "fused")


def test_a_job_file_takes_its_loss_along(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "job.toml").write_text(
        '[train]\ndataset = "d.zarr"\nrun = "run"\n[train.settings]\nloss = "own.py:loss"\n'
    )
    tables = load_job_file(tmp_path / "job.toml")
    assert tables["train"]["settings"]["loss"] == f"{tmp_path / 'own.py'}:loss"
    (tmp_path / "packed").mkdir()
    pack_job(tables, tmp_path / "packed")
    assert (tmp_path / "packed/own.py").read_text() == OWN


@pytest.mark.parametrize("mix", ["mixup", "mixup=0.4", "cutmix"])
def test_a_loss_of_ones_own_takes_no_mixed_labels(mix: str) -> None:
    config = TrainConfig(augment=(mix,), recipe=Recipe(loss="own.py:loss"))
    with pytest.raises(UsageError, match=f"--augment {mix}: your own loss takes no mixed labels"):
        check_config(config, CLASSES)
