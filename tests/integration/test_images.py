"""Images with real Dask and Ray: the example of textures from archive to classes; what the command line refuses."""

import csv
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import foldstream as fs
import numpy as np
import pytest
from foldstream.pipeline.images.preview import CELL, MARGIN, draw_preview
from foldstream.storage.dataset import Dataset
from PIL import Image

from ..conftest import convert_file

TEXTURES = Path(__file__).parents[2] / "examples" / "textures"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's job done: converted, five folds of its own model trained with augmentation, predicted."""
    folder = tmp_path_factory.mktemp("textures") / "examples" / "textures"
    shutil.copytree(TEXTURES, folder)
    fs.run_job(folder / "job.toml")
    return folder.parents[1] / "build" / "textures"


@pytest.mark.timeout(600)
def test_five_folds_of_a_model_of_ones_own_with_augmentation(job: Path) -> None:
    summary = fs.run_job(job.parents[1] / "examples" / "textures" / "job.toml")  # done already: nothing is done again
    assert len(summary["folds"]) == 5
    assert summary["rows"] == 168
    assert summary["out_of_fold"]["accuracy"] > 0.9


def test_predictions_name_each_file_with_its_class_and_probability(job: Path) -> None:
    header, *rows = csv.reader((job / "classes.csv").read_text().splitlines())
    assert header == ["path", "class", "probability"]
    with zipfile.ZipFile(TEXTURES / "test.zip") as archive:
        assert [path for path, _, _ in rows] == archive.namelist()  # all 24, in the archive's order
    assert np.mean([path.startswith(found) for path, found, _ in rows]) > 0.9
    assert all(1 / 3 <= float(probability) <= 1 for _, _, probability in rows)


def test_a_preview_shows_rows_with_their_labels(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "foldstream.cli", "info", str(job / "textures.zarr"), "--preview", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "brick: 56, grass: 56, gravel: 56" in " ".join(done.stdout.split())
    assert f"40 rows: {out}" in done.stdout
    sheet = np.asarray(Image.open(out))
    first = sheet[MARGIN : MARGIN + CELL, MARGIN : MARGIN + CELL]
    assert first.std() > 10  # a picture
    below = sheet[MARGIN + CELL + 2 : 2 * MARGIN + CELL, MARGIN : MARGIN + CELL]
    assert (below < 128).any()  # its label


def test_a_preview_of_rows_of_csv(digits: Dataset, tmp_path: Path) -> None:
    assert draw_preview(digits, tmp_path / "digits.png") == 40
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(fs.FoldstreamError, match=r"rows of shape \(2,\) are not images"):
        draw_preview(convert_file(tmp_path / "t.csv", tmp_path / "t.zarr"), tmp_path / "t.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "0"), "must be positive whole numbers"),
        (("--size", "8,8,8"), "height and width"),
        (("--size", "8", "--shuffle", "some"), "must be a whole number, or none"),
        (("--size", "8", "--fit", "crp"), "did you mean 'crop'"),
    ],
)
def test_the_command_line_refuses_in_words(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    source, out = str(TEXTURES / "train.zip"), str(tmp_path / "out")
    command = [sys.executable, "-m", "foldstream.cli", "convert", "images", source, out]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
