"""What the first versions wrote is read: `tests/data/first-format.zip` is a dataset and a run of 2026-11-27."""

import json
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import foldstream as fs
import pytest
from foldstream.storage.errors import ConflictError, SourceError
from foldstream.storage.places.json_files import content_hash

WRITTEN = Path(__file__).parents[1] / "data" / "first-format.zip"
SAME: dict[str, Any] = {
    "model": "mlp",
    "folds": 2,
    "epochs": 2,
    "batch_size": 8,
    "settings": {"hidden": 8, "layers": 1},
}
"""The options of the run."""
COLUMNS = ["ImageId", "Label"]  # the names that earlier versions gave to those of predictions


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A folder with the source, the dataset, the run and its predictions."""
    with ZipFile(WRITTEN) as archive:
        archive.extractall(tmp_path)
    job = tmp_path / "flowers.run" / "run.json"
    job.write_text(json.dumps({**json.loads(job.read_text()), "dataset": str(tmp_path / "flowers.zarr")}))
    return tmp_path


def test_a_complete_run_of_an_earlier_version_predicts_as_it_did(earlier: Path) -> None:
    fs.verify(earlier / "flowers.zarr")
    assert fs.predict(earlier / "flowers.run", earlier / "flowers.csv", earlier / "now.csv", columns=COLUMNS).rows == 60
    assert (earlier / "now.csv").read_bytes() == (earlier / "pred.csv").read_bytes()
    assert len(fs.load_models(earlier / "flowers.run")) == 2


def test_damaged_files_of_an_earlier_format_are_not_written_in_todays(earlier: Path) -> None:
    damaged = next((earlier / "flowers.zarr" / "x" / "c").rglob("*"))
    while damaged.is_dir():
        damaged = next(damaged.iterdir())
    before = damaged.read_bytes()
    damaged.write_bytes(before[:20] + bytes(8) + before[28:])
    with pytest.raises(SourceError, match="by an earlier version"):
        fs.verify(earlier / "flowers.zarr", repair=True)
    damaged.write_bytes(before)
    fs.verify(earlier / "flowers.zarr")


def test_code_is_found_where_an_earlier_version_kept_it(earlier: Path) -> None:
    run = earlier / "flowers.run"
    (run / "own.py").write_text("from foldstream.training.zoo.networks import mlp\n")
    job = json.loads((run / "run.json").read_text())
    job["config"]["model"], job["model_hash"] = "own.py:mlp", content_hash((run / "own.py").read_bytes())
    (run / "run.json").write_text(json.dumps(job))
    assert fs.predict(run, earlier / "flowers.csv", earlier / "now.csv", columns=COLUMNS).rows == 60
    assert (earlier / "now.csv").read_bytes() == (earlier / "pred.csv").read_bytes()
    (run / "own.py").write_text("")
    with pytest.raises(ConflictError, match=r"own\.py is missing or has changed"):
        fs.load_models(run)


def test_an_incomplete_run_of_an_earlier_version_is_refused(earlier: Path) -> None:
    run = earlier / "flowers.run"
    (run / "summary.json").unlink()
    shutil.rmtree(run / "folds" / "1")
    with pytest.raises(ConflictError, match="standardized features using all rows, including held-out ones"):
        fs.train(earlier / "flowers.zarr", run, **SAME)
    assert not (run / "folds" / "1").exists()
