"""Trained models without Foldstream: plain modules, TorchScript, ONNX and safetensors say what `predict` says."""

import sys
from pathlib import Path

import foldstream as fs
import numpy as np
import onnxruntime
import pytest
import torch
from foldstream.cli import app
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.storage.places.json_files import read_json
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.model.export import FORMATS
from foldstream.training.model.prediction import load_predictor
from foldstream.training.run import RunFolder, folds_of, load_job
from foldstream.training.splits.split import Split
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from ..conftest import convert_file, table
from .test_training import make_job

MODELS = ("digits-cnn", "article-cnn", "mlp of quantities")


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Three folds after an epoch."""
    root = tmp_path_factory.mktemp("run")
    if request.param == "mlp of quantities":
        (root / "rows.csv").write_text(table(600).replace("label", "word"))
        data = convert_file(root / "rows.csv", root / "rows.zarr", label=("c0", "c2"), task="regression")
        job, run = make_job(data, root / "run", epochs=1, model="mlp", split=Split(kind="kfold", folds=3))
    else:
        job, run = make_job(digits, root / "run", epochs=1, model=request.param)
    FoldTrainer(folds_of(job, run, range(3)), Process()).train()
    return run


def stored_rows(run: RunFolder, count: int) -> torch.Tensor:
    x: torch.Tensor = next(iter(fs.stream(load_job(run).open_data(), split="test", batch_size=count))).x
    return x


def outputs_of(models: list[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model(x) for model in models]


def test_the_modules_say_what_is_predicted(run: RunFolder) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    models, job, x = fs.load_models(run.root), load_job(run), stored_rows(run, 50)
    assert torch.equal(torch.random.get_rng_state(), before), "loading disturbs the user's random numbers"
    assert not any(model.training for model in models)
    for fold, outputs in enumerate(outputs_of(models, x)):
        predicted = load_predictor(job, run, fold, torch.device("cpu"))(x)
        assert torch.equal(outputs.softmax(dim=1) if job.schema.classes else outputs, predicted)


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:DeprecationWarning")
def test_torchscript_gives_the_same_to_the_bit(run: RunFolder, tmp_path: Path) -> None:
    x = stored_rows(run, 50)
    files = fs.export(run.root, tmp_path)
    assert [file.name for file in files] == ["fold-0.pt", "fold-1.pt", "fold-2.pt"]
    for rows in (x, x[:1]):
        for file, expected in zip(files, outputs_of(fs.load_models(run.root), rows), strict=True):
            (outputs,) = outputs_of([torch.jit.load(file)], rows)  # type: ignore[no-untyped-call]
            assert torch.equal(outputs, expected)


def test_onnx_gives_the_same(run: RunFolder, tmp_path: Path) -> None:
    x = stored_rows(run, 50)
    files = fs.export(run.root, tmp_path, format="onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.json", *(file.name for file in files)]
    for file, expected in zip(files, outputs_of(fs.load_models(run.root), x), strict=True):
        session = onnxruntime.InferenceSession(file)
        for count in (1, 50):
            (outputs,) = session.run(["y"], {"x": x[:count].numpy()})
            np.testing.assert_allclose(outputs, expected[:count], rtol=1e-5, atol=1e-5)


def test_safetensors_are_the_weights_of_the_modules(run: RunFolder, tmp_path: Path) -> None:
    files = fs.export(run.root, tmp_path, format="safetensors")
    for file, model in zip(files, fs.load_models(run.root), strict=True):
        weights = load_file(file)
        assert weights.keys() == model.state_dict().keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    about, schema = read_json(tmp_path / "export.json"), load_job(run).schema
    assert about["schema"]["labels"] == list(schema.labels)
    assert about["output"] == ("logits" if schema.classes else "values")


def test_what_cannot_be_exported_is_refused(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, run = make_job(digits, tmp_path / "run", epochs=1, model="mlp")
    FoldTrainer(folds_of(job, run, [1]), Process()).train()
    with pytest.raises(UsageError, match="folds 0, 2 are not fully trained"):
        fs.load_models(run.root)
    FoldTrainer(folds_of(job, run, [0, 2]), Process()).train()
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        fs.export(run.root, tmp_path / "out", format="onx")
    with pytest.raises(UsageError, match="is a file"):
        fs.export(run.root, run.job)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"pip install foldstream\[export\]"):
        fs.export(run.root, tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


def test_the_command_names_the_files(digits: Dataset, tmp_path: Path) -> None:
    job, run = make_job(digits, tmp_path / "run", epochs=1, model="mlp")
    FoldTrainer(folds_of(job, run, range(3)), Process()).train()
    done = CliRunner().invoke(app, ["export", str(run.root), str(tmp_path / "out")], catch_exceptions=False)
    assert done.output.split() == [str(tmp_path / "out" / f"fold-{fold}.pt") for fold in range(3)]
    assert FORMATS["torchscript"][0] == ".pt"
