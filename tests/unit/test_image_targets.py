"""Images as targets: stored like their images, trained by the squared error, predicted as images."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
import torch
from foldstream.pipeline.images.preview import draw_preview
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import open_arrays
from foldstream.storage.errors import SourceError, UsageError
from foldstream.storage.format.manifest import LEFT_OUT
from foldstream.training.config import Execution
from foldstream.training.model.augmentation import make_augmentation
from foldstream.training.splits.split import Split
from PIL import Image
from sklearn.metrics import mean_absolute_error

from .test_masks import scene
from .test_mid_epoch import train_alone
from .test_training import fold_bytes, make_job

SIDE, OFTEN = 16, Execution(checkpoint_every="2 steps")
OPTIONS: dict[str, Any] = {"folds": 2, "epochs": 2, "batch_size": 8, "workers": 0, "settings": {"width": 4}}


def write_pairs(folder: Path, count: int = 32, color: bool = True) -> None:
    """Sharp pictures in `sharp/`, and the same ones with noise in `noisy/`."""
    for number in range(count):
        sharp = scene(number)[0] if color else scene(number)[0][..., 0]
        noise = np.random.default_rng(number).normal(0, 20, sharp.shape)
        noisy = np.clip(sharp + noise, 0, 255).astype(np.uint8)
        for place, pixels in (("noisy", noisy), ("sharp", sharp)):
            (folder / place).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / place / f"{number:03d}.{'bmp' if place == 'noisy' else 'png'}")


def convert(folder: Path, **options: Any) -> Any:
    usual = {"targets": folder / "sharp", "shuffle": None, "size": SIDE}
    return fs.convert_images(folder / "noisy", folder / options.pop("out", "data.zarr"), **{**usual, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 noisy pictures with sharp ones as targets, their dataset, and a run on it."""
    root = tmp_path_factory.mktemp("pairs")
    write_pairs(root)
    fs.train(convert(root), root / "run", fold_mode="fused", shares=2, **OPTIONS)
    return root


def test_a_target_is_stored_like_its_image(folder: Path) -> None:
    data = fs.open(folder / "data.zarr")
    schema = data.schema
    assert (schema.task, schema.labels, schema.y_dtype, schema.target_name) == (
        "regression",
        ("target",),
        "uint8",
        "images",
    )
    assert schema.target_shape == schema.output_shape == (3, SIDE, SIDE)
    y = data[:].y
    np.testing.assert_array_equal(y.transpose(0, 2, 3, 1), [scene(number)[0] for number in range(32)])
    np.testing.assert_allclose(data.statistics.y_mean, y.mean(axis=(0, 2, 3)))
    assert [column.kind for column in data.columns() if column.role == "label"] == ["image"]
    assert convert(folder).identity == data.identity
    assert draw_preview(data, folder / "sheet.png") == 32


def test_targets_may_be_larger_but_not_of_another_shape(tmp_path: Path) -> None:
    write_pairs(tmp_path, 4)
    for number, size in ((0, (32, 32)), (1, (33, 16))):
        file = tmp_path / f"sharp/{number:03d}.png"
        Image.open(file).resize(size).save(file)
    (tmp_path / "sharp/002.png").write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"its target has 16 x 33 pixels .* but the image 16 x 16, which is another"):
        convert(tmp_path)
    data = convert(tmp_path, on_error="skip", overwrite=True)
    assert (len(data), data.left_out) == (2, 2)
    assert "its target: the file is not an image" in (tmp_path / "data.zarr" / LEFT_OUT).read_text()
    with pytest.raises(UsageError, match="masks, targets: both say"):
        convert(tmp_path, masks=tmp_path / "sharp")


def test_the_weights_are_the_same_fused_alone_and_interrupted(tmp_path: Path) -> None:
    write_pairs(tmp_path, 32, color=False)
    data = convert(tmp_path, color="gray")
    found, cases = {}, {"fused": ("fused", []), "runs": ("runs", []), "cut": ("fused", [3])}
    for name, (mode, cuts) in cases.items():
        options: dict[str, Any] = {"model": "unet", "split": Split(kind="kfold", folds=3), "batch_size": 8, "shares": 2}
        job, run = make_job(data, tmp_path / name, {"width": "4"}, augment=("horizontal-flip",), **options)
        seen = train_alone(job, run, OFTEN, mode, cuts)
        assert len(seen) == len(cuts)
        found[name] = fold_bytes(run)
    assert found["fused"] == found["runs"] == found["cut"]


def test_scores_and_predictions_are_in_the_units_of_the_pixels(folder: Path, tmp_path: Path) -> None:
    run, data = folder / "run", fs.open(folder / "data.zarr")
    merged = open_arrays(run / "oof.zarr", "predictions")
    predicted = BlockReader(merged, ("prediction",)).read(range(merged.layout.blocks))["prediction"]
    assert predicted.dtype == np.float32
    y = data[:].y.astype(np.float64)
    scores, error = fs.Run(run).summary["out_of_fold"], predicted - y
    assert {*scores} == {"loss", "rmse", "mae", "r2", "psnr"}
    assert scores["loss"] == pytest.approx(np.square(error).mean())
    assert scores["rmse"] == pytest.approx(np.sqrt(np.square(error).mean()))
    assert scores["mae"] == pytest.approx(mean_absolute_error(y.ravel(), predicted.ravel()))
    assert scores["psnr"] == pytest.approx((10 * np.log10(255**2 / np.square(error).mean(axis=(1, 2, 3)))).mean())
    variance = np.mean([y[:, channel].var() for channel in range(3)])
    assert scores["r2"] == pytest.approx(1 - np.square(error).mean() / variance)
    assert fs.Run(run).summary["baseline"]["rmse"] == pytest.approx(np.sqrt(variance), rel=0.05)

    assert fs.predict(run, folder / "noisy", f"{tmp_path}/out/").rows == 32
    models = fs.load_models(run)
    x = torch.from_numpy(data[:].x)
    expected = torch.stack([model(x) for model in models]).mean(dim=0).detach().numpy()
    for number in range(32):
        with Image.open(tmp_path / f"out/{number:03d}.png") as image:
            whole = np.clip(np.rint(expected[number]), 0, 255).transpose(1, 2, 0)
            assert np.abs(np.asarray(image).astype(int) - whole).max() <= 1
    scored = fs.predict(run, convert(folder, like=data, size=None, out=str(tmp_path / "again.zarr")), f"{tmp_path}/p/")
    assert scored.scored["rows"] == 32
    with pytest.raises(UsageError, match="the run predicts images, which are no table"):
        fs.predict(run, folder / "noisy", tmp_path / "out.csv")


@pytest.mark.parametrize("text", ["horizontal-flip", "vertical-flip=1", "crop=3"])
def test_an_image_and_its_target_are_changed_alike(text: str, folder: Path) -> None:
    data = fs.open(folder / "data.zarr")
    x = torch.from_numpy(data[:].x)
    first, second = make_augmentation([text], data.schema)(x, x.clone(), seed=3)
    assert torch.equal(first, second)
    assert not torch.equal(first, x)
