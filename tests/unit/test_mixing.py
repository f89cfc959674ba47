"""How well windows mix: the class entropy of batches against that of a true shuffle."""

from pathlib import Path

import numpy as np
import pytest
from foldstream.storage.dataset import Dataset
from foldstream.training.stream.filters import EveryRow
from foldstream.training.stream.order import Mixing
from foldstream.training.stream.single import TrainStream

from ..datasets import write_dataset

ROWS, CLASSES, BATCH = 60_000, 10, 256


def entropy(batches: list[np.ndarray]) -> float:
    """Mean class entropy of batches, in bits."""
    shares = np.stack([np.bincount(y, minlength=CLASSES) / len(y) for y in batches])
    logarithms = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    return float(-(shares * logarithms).sum(axis=1).mean())


def mixed(y: np.ndarray, root: Path, window: int) -> float:
    """The entropy of an epoch's batches as a share of a true shuffle's."""

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((stop - start, 1), np.uint8), y[start:stop]

    dataset: Dataset = write_dataset(root, ROWS, make)
    stream = TrainStream(dataset, EveryRow(dataset.layout), Mixing(BATCH, window=window))
    shuffled = np.random.default_rng(0).permutation(y)[: ROWS // BATCH * BATCH]
    return entropy([batch.y.numpy() for batch in stream]) / entropy(list(shuffled.reshape(-1, BATCH)))


@pytest.mark.parametrize(("window", "least"), [(1, 0.7), (2, 0.85), (4, 0.91), (8, 0.95), (16, 0.97)])
def test_data_sorted_by_class_is_mixed_the_better_the_larger_the_window(
    window: int, least: float, tmp_path: Path
) -> None:
    share = mixed(np.sort(np.arange(ROWS) % CLASSES).astype(np.uint8), tmp_path / "sorted", window)
    print(f"window {window}: {share:.4f}")
    assert share > least


def test_shuffled_data_is_mixed_as_by_a_true_shuffle(tmp_path: Path) -> None:
    y = np.random.default_rng(1).permutation(np.arange(ROWS) % CLASSES).astype(np.uint8)
    assert mixed(y, tmp_path / "shuffled", 8) > 0.98
