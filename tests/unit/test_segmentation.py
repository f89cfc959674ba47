"""Training on masks: the same bits in every mode, exact scores, and masks as predictions."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import onnxruntime
import pytest
import torch
from foldstream.cluster.api.predict import write_oof
from foldstream.cluster.serve.service import Service
from foldstream.pipeline.images.preview import draw_preview
from foldstream.pipeline.predictions.merge import MajorityOfModels
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import open_arrays
from foldstream.storage.errors import UsageError
from foldstream.storage.format.arrays import ArraySpec
from foldstream.storage.format.dense import IGNORED, DenseTarget
from foldstream.storage.format.schema import Schema
from foldstream.storage.format.statistics import Statistics
from foldstream.storage.metrics.scoring import Scoring
from foldstream.training.config import Execution, Recipe
from foldstream.training.model.augmentation import make_augmentation
from foldstream.training.model.ensemble import combine
from foldstream.training.model.objective import Objective
from foldstream.training.run import read_result
from foldstream.training.splits.split import Split
from foldstream.training.zoo.networks import UNet
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score
from torch.nn import functional

from .test_masks import SIDE, convert, write_scenes
from .test_mid_epoch import exit_codes, train_alone
from .test_training import fold_bytes, make_job

CLASSES = "0", "100", "200"
SCHEMA = Schema((), (3, 8, 8), "uint8", ("mask",), "segmentation", "uint8", dense=DenseTarget((8, 8), CLASSES))
OPTIONS: dict[str, Any] = {"folds": 2, "epochs": 2, "batch_size": 16, "workers": 0, "settings": {"width": 4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 pictures with masks, their dataset, and a run on it in one pass over the data."""
    root = tmp_path_factory.mktemp("masks")
    write_scenes(root, count=64)
    data = convert(root, shuffle=0)
    fs.train(
        data, root / "run", fold_mode="fused", shares=2, repeats=2, augment=["horizontal-flip", "crop=2"], **OPTIONS
    )
    return root


def masks(seed: int = 0, rows: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of classes, (rows, 3, 8, 8), and true codes with a few that do not count."""
    draws = np.random.default_rng(seed)
    y = draws.integers(3, size=(rows, 8, 8)).astype(np.uint8)
    y[draws.random(y.shape) < 0.2] = IGNORED
    return draws.dirichlet(np.ones(3), (rows, 8, 8)).transpose(0, 3, 1, 2).astype(np.float32), y


def test_scores_are_those_of_all_pixels_and_merge_exactly() -> None:
    probability, y = masks()
    scoring = Scoring(SCHEMA)
    columns = scoring.of_rows(probability, y)
    found = scoring.of_means({name: column.mean() for name, column in columns.items()})
    known, said = y != IGNORED, probability.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(y[known], said[known]))
    each = jaccard_score(y[known], said[known], average=None)
    assert [found[f"iou/{name}"] for name in CLASSES] == pytest.approx(each)
    assert found["mean_iou"] == pytest.approx(each.mean())
    assert set(found) == set(scoring.names())
    by_hand = functional.nll_loss(
        torch.tensor(probability).log(), torch.tensor(y).long(), ignore_index=IGNORED, reduction="none"
    )
    assert columns["loss"] == pytest.approx(by_hand.sum(dim=(1, 2)).numpy() / known.sum(axis=(1, 2)), rel=1e-5)
    codes = scoring.of_rows(said.astype(np.uint8), y)
    assert set(columns) - set(codes) == {"loss"}
    for name, counts in codes.items():
        np.testing.assert_array_equal(counts, columns[name])
        assert counts[3:].sum() + counts[:3].sum() == counts.sum()
    nothing = scoring.of_means(dict.fromkeys(columns, 0.0))
    assert np.isnan(nothing["mean_iou"])


@pytest.mark.parametrize("loss", ["auto", "focal"])
def test_the_loss_is_the_mean_over_the_pixels_that_count(loss: str) -> None:
    _, y = masks()
    y[2] = IGNORED
    outputs = torch.randn(len(y), 3, 8, 8, requires_grad=True)
    statistics = Statistics((), (), (), ())
    objective = Objective(SCHEMA, statistics, Recipe(loss=loss))
    found = objective(outputs, torch.from_numpy(y))
    of_rows = [
        functional.cross_entropy(one[None], torch.from_numpy(mask[None]).long(), ignore_index=IGNORED)
        for number, (one, mask) in enumerate(zip(outputs, y, strict=True))
        if number != 2
    ]
    if loss == "auto":
        assert found.item() == pytest.approx(torch.stack(of_rows).sum().item() / len(y), rel=1e-6)
    found.backward()
    assert outputs.grad is not None
    assert not outputs.grad[2].any()
    assert not outputs.grad.permute(0, 2, 3, 1)[torch.from_numpy(y) == IGNORED].any()
    weighted = objective(outputs, torch.from_numpy(y), torch.tensor([1.0, 0, 0, 0, 0, 0]))
    assert weighted.item() == pytest.approx(objective(outputs[:1], torch.from_numpy(y[:1])).item() / len(y), rel=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (13, 22), (1, 1), (64, 40)])
def test_the_network_returns_a_number_for_each_class_and_pixel(size: tuple[int, int]) -> None:
    assert UNet((3, *size), 5).eval()(torch.zeros(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("text", ["horizontal-flip=1", "vertical-flip=1", "horizontal-flip", "vertical-flip", "crop=3"])
def test_a_mask_is_changed_like_its_image(text: str) -> None:
    _, y = masks()
    y = np.where(y == IGNORED, 0, y)
    codes = torch.from_numpy(y)
    images = (codes[:, None] + 1).repeat(1, 3, 1, 1)
    x, changed = make_augmentation([text], SCHEMA)(images, codes, seed=4)
    expected = torch.where(x[:, 0] == 0, IGNORED, x[:, 0] - 1)  # a crop pads images with 0
    assert torch.equal(changed, expected.to(torch.uint8))
    assert not torch.equal(changed, codes)
    assert changed.dtype == torch.uint8


@pytest.mark.parametrize("text", ["mixup", "cutmix"])
def test_masks_are_not_mixed(text: str) -> None:
    with pytest.raises(UsageError, match="masks cannot be mixed"):
        make_augmentation([text], SCHEMA)


def test_the_weights_are_the_same_fused_alone_and_interrupted(folder: Path, tmp_path: Path) -> None:
    data = fs.open(folder / "data.zarr")
    found, cases = {}, {"fused": ("fused", []), "runs": ("runs", []), "cut": ("fused", [3, 7])}
    split = Split(kind="kfold", folds=3)
    for name, (mode, cuts) in cases.items():
        options: dict[str, Any] = {"model": "unet", "split": split, "batch_size": 16, "shares": 2}
        job, run = make_job(data, tmp_path / name, {"width": "4"}, augment=("crop=2",), **options)
        request = Execution(checkpoint_every="2 steps") if cuts else Execution()
        seen = train_alone(job, run, request, mode, cuts)
        assert len(seen) == len(cuts)
        found[name] = fold_bytes(run)
    assert found["fused"] == found["runs"] == found["cut"]


def test_out_of_fold_masks_and_their_scores(folder: Path) -> None:
    run, data = fs.Run(folder / "run"), fs.open(folder / "data.zarr")
    merged = open_arrays(folder / "run/oof.zarr", "predictions")
    predicted = BlockReader(merged, ("prediction", "count")).read(range(merged.layout.blocks))
    assert merged.layout == data.layout
    codes, y = predicted["prediction"], data[:].y
    assert codes.shape == (64, SIDE, SIDE)
    assert codes.dtype == np.uint8
    assert (predicted["count"] == 2).all()
    scores = run.summary["out_of_fold"]
    assert scores["accuracy"] == pytest.approx((codes == y).mean())
    assert scores["mean_iou"] == pytest.approx(jaccard_score(y.ravel(), codes.ravel(), average="macro"))
    assert "loss" not in scores
    assert all("loss" in fold for fold in run.summary["folds"])
    low, high = run.summary["out_of_fold_intervals"]["mean_iou"]
    assert low < scores["mean_iou"] < high
    report = (folder / "run/report.md").read_text()
    assert "mean_iou" in report
    assert "Calibration" not in report
    for refused in (lambda: run.oof(), lambda: write_oof(folder / "run", folder / "oof.csv")):
        with pytest.raises(UsageError, match="masks, which are no table; read the array 'prediction'"):
            refused()


def test_predicted_masks_are_files_or_arrays(folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    for out in ("masks/", "masks.zarr", "vote/"):
        options: dict[str, Any] = {"ensemble": "vote"} if out == "vote/" else {}
        assert fs.predict(run, folder / "photos", f"{tmp_path}/{out}", **options).rows == 64
    data = fs.open(folder / "data.zarr")
    x, paths = torch.from_numpy(data[:].x), data.rows(64)["path"]
    logits = torch.stack([model(x) for model in fs.load_models(run)])
    expected = logits.softmax(dim=2).double().mean(dim=0).argmax(dim=1).detach().numpy()
    votes = functional.one_hot(logits.argmax(dim=2), 3).sum(dim=0).detach().numpy()
    for path, codes, own in zip(paths, expected, votes, strict=True):
        file = tmp_path / "masks" / Path(path).with_suffix(".png")
        with Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(image), np.array([0, 100, 200])[codes])
        with Image.open(tmp_path / "vote" / Path(path).with_suffix(".png")) as image:
            chosen = np.searchsorted([0, 100, 200], np.asarray(image))
        most = np.take_along_axis(own, chosen[..., None], axis=2)[..., 0]
        np.testing.assert_array_equal(most, own.max(axis=2))
    assert (tmp_path / "masks/_SUCCESS").exists()
    arrays = open_arrays(tmp_path / "masks.zarr", "predictions")
    assert (arrays.spec("prediction").dtype, arrays.spec("prediction").row_shape) == ("uint8", (SIDE, SIDE))
    # The written masks can be converted as the targets of other images.
    again = convert(folder, masks=tmp_path / "masks", out=str(tmp_path / "again.zarr"), like=data, size=None)
    assert again.schema.dense == data.schema.dense
    scored = fs.predict(run, again, f"{tmp_path}/scored/").scored
    assert scored["rows"] == 64
    assert scored["scores"]["mean_iou"] == 1.0


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("masks.csv", {}, "the run predicts masks, which are no table; end the name with a slash"),
        ("masks/", {"proba": True}, "the run predicts masks, which have no columns"),
        ("masks/", {"columns": ["path", "mask"]}, "masks, which have no columns"),
    ],
)
def test_predictions_that_make_no_sense_are_refused(
    out: str, options: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        fs.predict(folder / "run", folder / "photos", f"{tmp_path}/{out}", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "stratified"}, "needs a class or a number per row, but 'mask' is none"),
        ({"class_weight": ["balanced"]}, "has no classes"),
        ({"sample": ["balanced"]}, "has no classes"),
        ({"model": "resnet"}, r"the data requires \(2, 3, 16, 16\); return 3 numbers for each pixel of the target"),
        ({"monitor": "f1"}, "monitor"),
        ({"settings": {"loss": "mse_loss"}}, "does not fit a segmentation"),
    ],
)
def test_trainings_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        fs.train(folder / "data.zarr", tmp_path / "run", **{**OPTIONS, **options})


def test_masks_are_shown_and_not_served(folder: Path, tmp_path: Path) -> None:
    data = fs.open(folder / "data.zarr")
    assert draw_preview(data, tmp_path / "sheet.png") == 40
    with Image.open(tmp_path / "sheet.png") as sheet:
        red, green, blue = np.moveaxis(np.asarray(sheet).astype(int), -1, 0)
    assert (red > np.maximum(green, blue) + 50).any()  # the first class
    with pytest.raises(UsageError, match="masks cannot be served"):
        Service(folder / "run")


def test_the_majority_of_models_decides_each_pixel() -> None:
    merged = MajorityOfModels(3, ArraySpec("prediction", "uint8", (1, 2)))
    for values in ([[0, 2]], [[1, 2]], [[1, 0]]):
        merged.add(np.array([0, 2]), np.array([values, values], np.uint8))
    merged.add(np.array([2]), np.array([[[0, 0]]], np.uint8))
    np.testing.assert_array_equal(merged.count, [3, 0, 4])
    np.testing.assert_array_equal(merged.result(), [[[1, 2]], [[IGNORED, IGNORED]], [[0, 0]]])


@pytest.mark.parametrize("kind", ["mean", "median", "vote", "weighted"])
def test_models_agree_on_the_most_probable_class(kind: str) -> None:
    models = torch.stack([torch.from_numpy(masks(seed)[0]) for seed in range(3)])
    found = combine(models, kind, [0.0, 1.0, 0.0], SCHEMA)
    expected = {
        "mean": models.mean(dim=0).argmax(dim=1),
        "median": models.median(dim=0).values.argmax(dim=1),
        "weighted": models[1].argmax(dim=1),
    }
    assert found.dtype == torch.uint8
    if kind in expected:
        assert torch.equal(found.long(), expected[kind])


@pytest.mark.long
def test_the_ensemble_is_one_file(folder: Path, tmp_path: Path) -> None:
    (file,) = fs.export(folder / "run", tmp_path / "all.onnx", format="onnx", ensemble=True)
    x = fs.open(folder / "data.zarr")[:5].x
    (found,) = onnxruntime.InferenceSession(file).run(["prediction"], {"image": x})
    logits = torch.stack([model(torch.from_numpy(x)) for model in fs.load_models(folder / "run")])
    expected = logits.softmax(dim=2).double().mean(dim=0).argmax(dim=1)
    assert (found == expected.numpy()).mean() > 0.99


@pytest.mark.long
def test_two_ranks_get_the_same_weights_and_scores(folder: Path, tmp_path: Path) -> None:
    data, found = fs.open(folder / "data.zarr"), []
    for name in ("one", "two"):
        options: dict[str, Any] = {
            "model": "unet",
            "split": Split(kind="kfold", folds=3),
            "batch_size": 16,
            "shares": 2,
        }
        job, run = make_job(data, tmp_path / name, {"width": "4"}, augment=("crop=2",), **options)
        if name == "one":
            train_alone(job, run, Execution(), "fused", [])
        else:
            assert exit_codes(run, "fused", "3 steps", tmp_path / "meet") == [0, 0]
        scores = [read_result(run.fold(fold))["metrics"] for fold in range(3)]
        found.append((fold_bytes(run), [(one["mean_iou"], one["loss"]) for one in scores]))
    assert found[0] == found[1]
