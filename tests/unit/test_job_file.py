"""A job file that is wrong is refused before any work is done, with what is wrong in it and what to write instead."""

from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
from foldstream.cluster.api.job_file import load_job_file, parse_job
from foldstream.cluster.requests import AdoptRequest
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.places.locate import locate

JOB = """
[convert.csv]
sources = "{source}"
out = "digits.zarr"
label = "label"

[train]
run = "run"
{train}

[predict]
source = "{source}"
out = "answer.csv"
{predict}
"""
FAILS = """
import torch

def fails(sample_shape, outputs):
    return torch.nn.Linaer(sample_shape[0], outputs)
"""


@pytest.mark.parametrize(
    ("train", "predict", "message"),
    [
        ('epochs = "10"', "", r"\[train\] epochs = '10': must be a whole number"),
        ("refit = 1", "", "refit = 1: must be true or false"),
        ('callbacks = "mlflow"', "", "callbacks = 'mlflow': must be a list"),
        ("memory = 1.5", "", "must be a whole number of bytes, or text such as 500MB"),
        ('settings = "lr=1"', "", "settings = .lr=1.: must be a table"),
        ('model = "digits-cn"', "", "did you mean .digits-cnn."),
        ("batch_size = 2\nworkers = 4", "", "4 workers share each batch, .*use batch_size=4 or more"),
        ("settings = {lrr = 1}", "", "did you mean .lr."),
        ("max_retries = -1", "", "max_retries = -1: must be at least 0"),
        ("workers = -1", "", "workers = -1: must be at least 0"),
        ('checkpoint_every = "1 day"', "", "checkpoint_every = .1 day.: must be a whole number of epochs"),
        ("", 'ensemble = "average"', "ensemble .average. is not valid"),
        ("", 'source = "nothing.csv"', r"\[predict\] source: .*nothing.csv does not exist"),
    ],
)
def test_what_is_wrong_in_a_job_is_told_before_it_converts(
    train: str, predict: str, message: str, digits_csv: Path, tmp_path: Path
) -> None:
    text = JOB.format(source=digits_csv, train=train, predict=predict)
    if "source =" in predict:
        text = text.replace(f'[predict]\nsource = "{digits_csv}"', "[predict]")
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        fs.run_job(tmp_path / "job.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_the_line_of_a_model_that_fails_is_told(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FAILS)
    with pytest.raises(UsageError, match=r"own\.py, line 5: AttributeError: .*Linaer"):
        fs.train(digits.root, tmp_path / "run", model=f"{tmp_path}/own.py:fails")


def test_a_run_is_trained_by_one_command_at_a_time(digits: Dataset, tmp_path: Path) -> None:
    with locate(tmp_path / "run").lock("busy"), pytest.raises(ConflictError, match="by another command; wait for it"):
        fs.train(digits.root, tmp_path / "run", model="mlp", folds=2)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_file_is_no_place_for_a_run(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ConflictError, match="is a file; name a folder"):
        fs.train(digits.root, tmp_path / "run", model="mlp", folds=2)


def test_unknown_options_of_csv_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"delimitr is not an option: did you mean .delimiter."):
        fs.convert_csv("rows.csv", tmp_path / "rows.zarr", csv={"delimitr": ";"})


def test_unknown_keywords_are_refused(digits: Dataset, tmp_path: Path) -> None:
    train: Any = fs.train
    with pytest.raises(UsageError, match=r"epoch is not an option: did you mean .epochs."):
        train(digits.root, tmp_path / "run", epoch=3)
    with pytest.raises(TypeError, match="multiple values for argument 'run'"):
        train(digits.root, tmp_path / "run", run=tmp_path)
    with pytest.raises(TypeError, match="takes 2 positional arguments"):
        train(digits.root, tmp_path / "run", 3)


def test_arrays_in_place_are_named_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "labels.npz").write_bytes(b"")
    text = '[adopt]\nplace = "a.h5"\nout = "a.zarr"\ny = ["labels.npz:y", "inner/y"]\n[train]\nrun = "runs/a"\n'
    (tmp_path / "job.toml").write_text(text)
    job = parse_job(load_job_file(tmp_path / "job.toml"))
    assert isinstance(job.convert, AdoptRequest)
    assert job.train
    assert (job.convert.place, job.train.dataset) == (str(tmp_path / "a.h5"), str(tmp_path / "a.zarr"))
    assert job.convert.y == (f"{tmp_path / 'labels.npz'}:y", "inner/y")
