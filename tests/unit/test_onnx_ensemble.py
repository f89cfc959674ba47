"""One ONNX file of a whole ensemble: columns, or images, in; what `predict` computes out."""

import json
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from foldstream.cli import app
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.model.onnx_file import input_name
from foldstream.training.model.prediction import load_ensemble, predict_shards
from foldstream.training.run import RunFolder, RunJob, folds_of
from PIL import Image
from typer.testing import CliRunner

from .test_training import make_job

ROWS = 120
BESIDE = """
import torch
from torch import nn

class Both(nn.Module):
    def __init__(self, sample_shape, outputs, schema):
        super().__init__()
        self.image, self.table = nn.Linear(64, outputs), nn.Linear(len(schema.columns), outputs)

    def forward(self, x):
        return self.image(x["image"].flatten(1)) + self.table(x["table"])

class Branches(nn.Module):
    def __init__(self, sample_shape, outputs):
        super().__init__()
        self.last = nn.Linear(sample_shape[0], outputs)

    def forward(self, x):
        return self.last(x if x.mean() > 0 else -x)
"""


def trained(dataset: Dataset, root: Path, **options: Any) -> tuple[RunJob, RunFolder]:
    """Three folds after an epoch."""
    job, run = make_job(dataset, root, epochs=1, **options)
    FoldTrainer(folds_of(job, run, range(3)), Process()).train()
    return job, run


def predicted(job: RunJob, run: RunFolder, rows: Dataset) -> np.ndarray:
    every = predict_shards(load_ensemble(job, run), rows, range(rows.layout.shards))
    return np.concatenate([values for *_, values in every])


def open_file(run: RunFolder, tmp_path: Path) -> onnxruntime.InferenceSession:
    (file,) = fs.export(run.root, tmp_path / "whole.onnx", format="onnx", ensemble=True)
    assert file == tmp_path / "whole.onnx"
    return onnxruntime.InferenceSession(file)


def stored(dataset: Dataset, name: str) -> np.ndarray:
    return BlockReader(dataset, (name,)).read(range(dataset.layout.blocks))[name]


def mixed_table() -> pd.DataFrame:
    """Numbers, some of them missing, dates and categories."""
    draws = np.random.default_rng(0)
    when = pd.to_datetime(1_700_000_000 + draws.integers(0, 10**7, ROWS), unit="s")
    return pd.DataFrame(
        {
            "age": np.where(draws.random(ROWS) < 0.2, np.nan, draws.normal(40, 10, ROWS).round(1)),
            "label": draws.normal(1e9, 1, ROWS),  # also the name of an output
            "port": draws.choice(np.array(["S", "C", "Q", None], object), ROWS),
            "when": when.strftime("%Y-%m-%d %H:%M:%S"),
            "ticket": [f"t{number % 70}" for number in range(ROWS)],
        }
    )


def odd_rows(table: pd.DataFrame) -> pd.DataFrame:
    """New rows with unknown categories and missing values."""
    rows = table.head(40).copy()
    rows.loc[0, "port"], rows.loc[1, "ticket"] = "New York", "none"
    rows.loc[2, ["age", "label", "when", "port"]] = None
    return rows


def as_feeds(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns as the file takes them."""
    seconds = (pd.to_datetime(rows["when"]) - pd.Timestamp(0)).dt.total_seconds()
    texts = {name: rows[name].fillna("").to_numpy(object) for name in ("port", "ticket")}
    numbers = {input_name(name): rows[name].to_numpy(float) for name in ("age", "label")}
    return {**numbers, **texts, "when": seconds.to_numpy(float)}


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("class", {"model": "mlp", "missing": "indicator+median"}),
        ("value", {"model": "mlp", "normalize": ["age=minmax"]}),
        ("class", {"model": "own"}),
    ],
    ids=["embeddings", "regression", "one-hot"],
)
def test_a_table_goes_in_by_columns(target: str, options: dict[str, Any], tmp_path: Path) -> None:
    table = mixed_table()
    draws = np.random.default_rng(1)
    y = draws.choice(["no", "yes", "maybe"], ROWS) if target == "class" else draws.normal(1.7e9, 1e4, ROWS)
    table.assign(y=y).to_csv(tmp_path / "table.csv", index=False)
    dataset = fs.convert_csv(tmp_path / "table.csv", tmp_path / "table.zarr", label="y", category="ticket")
    if options["model"] == "own":
        source = (
            "from torch import nn\ndef linear(sample_shape, outputs):\n    return nn.Linear(*sample_shape, outputs)"
        )
        (tmp_path / "own.py").write_text(source)
        options = {"model": f"{tmp_path / 'own.py'}:linear", "batch_size": 16}
    job, run = trained(dataset, tmp_path / "run", **options)
    rows = odd_rows(table)
    rows.to_csv(tmp_path / "new.csv", index=False)
    new = fs.convert_csv(tmp_path / "new.csv", tmp_path / "new.zarr", like=tmp_path / "table.zarr", unknown="code")
    expected = predicted(job, run, new)
    session = open_file(run, tmp_path)
    assert [one.name for one in session.get_inputs()] == [*map(input_name, job.schema.features)]
    for some in (slice(None), slice(2, 3)):
        feeds = {name: values[some] for name, values in as_feeds(rows).items()}
        if target == "value":
            (found,) = session.run(["prediction"], feeds)
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, expected[some], rtol=1e-10)
        else:
            labels, found = session.run(["label", "probabilities"], feeds)
            np.testing.assert_allclose(found, expected[some], atol=1e-5)
            assert [*labels] == [job.schema.classes[code] for code in expected[some].argmax(axis=1)]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == [*job.schema.classes]
    assert json.loads(about["dates"]) == {"when": "seconds"}


def test_the_command_writes_several_labels_as_probabilities_alone(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    table = pd.DataFrame(draws.normal(size=(ROWS, 3)).round(3), columns=["a", "b", "c"])
    table.assign(x=draws.integers(0, 2, ROWS), y=draws.integers(0, 2, ROWS)).to_csv(tmp_path / "t.csv", index=False)
    dataset = fs.convert_csv(tmp_path / "t.csv", tmp_path / "t.zarr", label=["x", "y"], task="multilabel")
    job, run = trained(dataset, tmp_path / "run", model="mlp")
    words = ["export", str(run.root), str(tmp_path / "out"), "--ensemble", "--format", "onnx"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.output.split() == [str(tmp_path / "out" / "ensemble.onnx")]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ensemble.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "ensemble.onnx")
    (found,) = session.run(None, {name: table[name].to_numpy() for name in "abc"})
    np.testing.assert_allclose(found, predicted(job, run, dataset), atol=1e-5)


def test_digits_go_in_as_images(digits: Dataset, tmp_path: Path) -> None:
    job, run = trained(digits, tmp_path / "run")
    session, rows = open_file(run, tmp_path), stored(digits, "x")[:50]
    labels, found = session.run(["label", "probabilities"], {"x": rows})
    expected = predicted(job, run, digits)[:50]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [*labels] == [str(code) for code in expected.argmax(axis=1)]


def write_photos(root: Path) -> None:
    draws = np.random.default_rng(0)
    for number in range(60):
        place = root / ("light" if number % 2 else "dark") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 128, (20, 24, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place)


def test_images_of_folders(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    dataset = fs.convert_images(tmp_path / "photos", tmp_path / "photos.zarr", size=16)
    job, run = trained(dataset, tmp_path / "run", batch_size=16)
    labels, found = open_file(run, tmp_path).run(["label", "probabilities"], {"image": stored(dataset, "x")})
    np.testing.assert_allclose(found, predicted(job, run, dataset), atol=1e-5)
    assert {*labels} <= {"dark", "light"}


def test_columns_beside_images_are_inputs_too(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    lines = [f"{'light' if n % 2 else 'dark'}/{n}.png,{'ab'[n % 2]},{n / 7:.3f},{'mfx'[n % 3]}" for n in range(60)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,y,age,sex", *lines]))
    named: dict[str, Any] = {"labels": tmp_path / "labels.csv", "label": "y", "feature": "age", "category": "sex"}
    dataset = fs.convert_images(tmp_path / "photos", tmp_path / "data.zarr", size=8, color="gray", **named)
    (tmp_path / "both.py").write_text(BESIDE)
    job, run = trained(dataset, tmp_path / "run", model=f"{tmp_path / 'both.py'}:Both", batch_size=16)
    columns = stored(dataset, "table")
    feeds = {
        "image": stored(dataset, "x"),
        "age": columns[:, 0],
        "sex": np.array([*"fmx"], object)[columns[:, 1].astype(int)],
    }
    _, found = open_file(run, tmp_path).run(None, feeds)
    np.testing.assert_allclose(found, predicted(job, run, dataset), atol=1e-5)


def test_what_cannot_be_one_file_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": range(90), "y": [*"abc"] * 30}).to_csv(tmp_path / "t.csv", index=False)
    dataset = fs.convert_csv(tmp_path / "t.csv", tmp_path / "t.zarr", label="y")
    (tmp_path / "own.py").write_text(BESIDE)
    _, run = trained(dataset, tmp_path / "run", model=f"{tmp_path / 'own.py'}:Branches", batch_size=16)
    with pytest.raises(UsageError, match='add format="onnx"'):
        fs.export(run.root, tmp_path / "out", ensemble=True)
    (tmp_path / "old.onnx").mkdir()
    with pytest.raises(UsageError, match="is a folder; give a folder, or a file"):
        fs.export(run.root, tmp_path / "old.onnx", format="onnx", ensemble=True)
    with pytest.raises(UsageError, match="is a file; give a folder"):
        fs.export(run.root, tmp_path / "t.csv", format="onnx", ensemble=True)
    with pytest.raises(UsageError, match=r"own.py, line 19: .*data-dependent.*foldstream serve'$"):
        fs.export(run.root, tmp_path / "out", format="onnx", ensemble=True)
    assert not (tmp_path / "out").exists()
