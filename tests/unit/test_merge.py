"""Merged predictions cover each row once, or it is an error that says which rows and why."""

from pathlib import Path

import numpy as np
import pytest
from foldstream.pipeline.executor import SerialExecutor
from foldstream.pipeline.merge import merge_predictions
from foldstream.storage.dataset import Dataset, open_arrays
from foldstream.storage.errors import RunError
from foldstream.storage.parts import write_part
from foldstream.storage.reader import BlockReader


def write_parts(dataset: Dataset, root: Path, folds: int = 2) -> tuple[tuple[Path, ...], np.ndarray]:
    """Parts of random probabilities: row i belongs to fold i % folds."""
    values = np.random.default_rng(0).dirichlet(np.ones(10), dataset.rows).astype(np.float32)
    folders = tuple(root / str(fold) / "predictions" for fold in range(folds))
    for shard in range(dataset.layout.shards):
        rows = np.arange(*dataset.layout.shard_range(shard))
        for fold, folder in enumerate(folders):
            own = rows[rows % folds == fold]
            write_part(folder, shard, own, values[own])
    return folders, values


def test_parts_are_merged_in_place_and_scored(digits: Dataset, tmp_path: Path) -> None:
    folders, values = write_parts(digits, tmp_path)
    scores = merge_predictions(digits, folders, tmp_path / "oof.zarr", SerialExecutor())
    merged = open_arrays(tmp_path / "oof.zarr", "predictions")
    blocks = range(digits.layout.blocks)
    arrays = BlockReader(merged, ("prediction", "count")).read(blocks)
    y = BlockReader(digits, ("y",)).read(blocks)["y"]
    np.testing.assert_array_equal(arrays["prediction"], values)
    assert (arrays["count"] == 1).all()
    own = values[np.arange(len(y)), y]
    assert scores["accuracy"] == (values.argmax(axis=1) == y).mean()
    assert scores["top3"] == ((values > own[:, None]).sum(axis=1) < 3).mean()
    assert scores["loss"] == pytest.approx(-np.log(np.maximum(own.astype(float), 1e-7)).mean())


def test_a_row_without_a_prediction_is_counted(digits: Dataset, tmp_path: Path) -> None:
    folders, values = write_parts(digits, tmp_path)
    write_part(folders[0], 0, np.arange(2, 10, 2), values[2:10:2])
    start, stop = digits.layout.shard_range(0)
    lost = len(range(start, stop, 2)) - 4
    with pytest.raises(RunError, match=f"{lost} of 1,200 rows have no out-of-fold prediction"):
        merge_predictions(digits, folders, tmp_path / "oof.zarr", SerialExecutor())
    assert not (tmp_path / "oof.zarr" / "manifest.json").exists()


def test_a_row_that_is_predicted_twice_is_an_error(digits: Dataset, tmp_path: Path) -> None:
    folders, values = write_parts(digits, tmp_path)
    write_part(folders[1], 0, np.array([1, 3, 4]), values[[1, 3, 4]])
    with pytest.raises(RunError, match=r"1 rows are predicted twice \(the first is row 4"):
        merge_predictions(digits, folders, tmp_path / "oof.zarr", SerialExecutor())
