"""A job file that is wrong is refused before any work is done, with what is wrong in it and what to write instead."""

from pathlib import Path

import foldstream as fs
import pytest
from foldstream.cluster.api.conversion import csv_options
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
        ('epochs = "10"', "", r"«epochs» in \[train\] is '10'; it must be a whole number"),
        ("refit = 1", "", "it must be true or false"),
        ('callbacks = "mlflow"', "", 'it must be a list of "text"'),
        ("memory = 1.5", "", 'it must be "text" or a whole number'),
        ('settings = "lr=1"', "", "it must be a table"),
        ('model = "digits-cn"', "", "did you mean 'digits-cnn'"),
        ("batch_size = 100", "", "it must be a multiple of 8, .*use 96 or 104"),
        ("settings = {lrr = 1}", "", "did you mean 'lr'"),
        ("max_retries = -1", "", "it must be at least 0"),
        ("workers = 0", "", "it must be at least 1"),
        ('checkpoint_every = "1 day"', "", "--checkpoint-every"),
        ("", 'ensemble = "average"', "--ensemble 'average' is not valid"),
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


def test_options_of_csv_files_that_are_not_known_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'delimiter'"):
        csv_options({"delimitr": ";"})
