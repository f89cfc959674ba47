"""Parameters without a gradient are named before the training; allowed, they give the same bits at any world size."""

from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.training.config import Execution

from .test_mid_epoch import exit_codes, train_alone
from .test_training import fold_bytes, make_job

MODEL = """
import torch
from torch import nn


class Sometimes(nn.Module):
    \"\"\"Has a layer that some batches skip, and one that all do.\"\"\"

    def __init__(self, outputs):
        super().__init__()
        self.first, self.skipped, self.never = nn.Linear(784, 8), nn.Linear(8, 8), nn.Linear(2, 2)
        self.last = nn.Linear(8, outputs)

    def forward(self, x):
        x = self.first(x.flatten(1))
        if self.training and float(torch.rand(())) < 0.5:
            x = x + self.skipped(x)
        return self.last(x)


def make(sample_shape, outputs):
    return Sometimes(outputs)
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model.py").write_text(MODEL)
    return f"{tmp_path}/model.py:make"


def test_they_are_named_before_the_training(model: str, digits: Dataset, tmp_path: Path) -> None:
    message = r"these parameters .* no gradient: .*never\.weight, never\.bias; .*\"find_unused_parameters\": True"
    with pytest.raises(UsageError, match=message):
        fs.train(digits.root, tmp_path / "run", model=model, folds=3, epochs=1, workers=0)
    assert not (tmp_path / "run").exists()


def test_two_workers_get_what_one_process_gets(model: str, digits: Dataset, tmp_path: Path) -> None:
    """Some batches are skipped by one of them, some by both."""
    settings = {"find_unused_parameters": "true", "accumulate": "2"}
    options: dict[str, Any] = {"epochs": 1, "shares": 2, "model": model, "batch_size": 32}
    job, alone = make_job(digits, tmp_path / "alone", settings, **options)
    train_alone(job, alone, Execution(), "runs", [])
    _, together = make_job(digits, tmp_path / "together", settings, **options)
    assert exit_codes(together, "runs", "1 epoch", tmp_path / "meet") == [0, 0]
    assert fold_bytes(together) == fold_bytes(alone)
