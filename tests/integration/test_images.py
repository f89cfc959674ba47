"""Images with real Dask and Ray: trained on and predicted; what the command line refuses."""

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import foldstream as fs
import numpy as np
import pytest
from distributed import Client
from PIL import Image

from ..conftest import EXAMPLES

ROWS = 1600


@pytest.fixture(scope="module")
def digit_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of the example as PNG files, in a folder for each digit."""
    root = tmp_path_factory.mktemp("digits")
    with gzip.open(EXAMPLES / "train.csv.gz", "rt") as file:
        rows = csv.reader(file)
        next(rows)
        for number, (label, *pixels) in zip(range(ROWS), rows, strict=False):
            (root / label).mkdir(exist_ok=True)
            Image.fromarray(np.array(pixels, np.uint8).reshape(28, 28)).save(root / label / f"{number:05d}.png")
    return root


@pytest.mark.timeout(600)
def test_a_run_on_images_names_each_file_with_its_class_and_probability(
    digit_images: Path, dask_client: Client, tmp_path: Path
) -> None:
    dataset = fs.convert_images(digit_images, tmp_path / "d.zarr", size=28, color="gray", client=dask_client)
    summary = fs.train(dataset.root, tmp_path / "run", folds=2, epochs=4, batch_size=32, workers=1, client=dask_client)
    assert summary["out_of_fold"]["accuracy"] > 0.9
    fs.predict(tmp_path / "run", digit_images, tmp_path / "out.csv", client=dask_client)
    header, *rows = csv.reader((tmp_path / "out.csv").read_text().splitlines())
    assert header == ["path", "class", "probability"]
    files = sorted(str(path.relative_to(digit_images)) for path in digit_images.rglob("*.png"))
    assert [path for path, _, _ in rows] == files
    assert np.mean([path[0] == digit for path, digit, _ in rows]) > 0.95
    assert all(0.1 <= float(probability) <= 1 for _, _, probability in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "0"), "give positive whole numbers"),
        (("--size", "8,8,8"), "height and width"),
        ((), "--size"),
        (("--size", "8", "--shuffle", "some"), "give a whole number, or none"),
        (("--size", "8", "--fit", "crp"), "did you mean «crop»"),
    ],
)
def test_the_command_line_refuses_in_words(
    arguments: tuple[str, ...], message: str, digit_images: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "foldstream.cli", "convert", "images", str(digit_images), str(tmp_path / "out")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
