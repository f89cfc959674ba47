"""Fixtures of the GPU tests. They run where torch finds a GPU, or with FOLDSTREAM_REHEARSAL=1 on the CPU."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from foldstream.storage.dataset import Dataset

from ..datasets import write_dataset

REHEARSAL = os.environ.get("FOLDSTREAM_REHEARSAL") == "1"


collect_ignore_glob = [] if REHEARSAL or torch.cuda.is_available() else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("gpu")


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """1,200 images with noise and a bright bar whose position is the class."""
    return write_shapes(tmp_path_factory.mktemp("shapes") / "shapes.zarr", 1_200)


def write_shapes(root: Path, rows: int) -> Dataset:
    """Images (1, 28, 28) uint8 of ten classes, each with noise and a bright bar in the row of pixels of its class."""

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        draws = np.random.default_rng(start)
        y = draws.integers(0, 10, stop - start)
        x = draws.integers(0, 100, (stop - start, 1, 28, 28)).astype(np.uint8)
        x[np.arange(stop - start), 0, 2 * y + 4] += 120
        return x, y

    return write_dataset(root, rows, make)
