"""Training on arrays in place gives the bits of training on a copy of them, also after a SIGKILL."""

import signal
import sys
from pathlib import Path
from typing import Any, Literal

import foldstream as fs
import h5py
import lance
import numpy as np
import pyarrow as pa
import pytest
import zarr
from foldstream.storage.places.locate import locate
from foldstream.training.run import RunFolder
from pyarrow import parquet

from ..chaos.fold_kills import EPOCHS, FOLDS, result, training, wait_for
from ..chaos.processes import kill_session

ROWS = 1200
OPTIONS: dict[str, Any] = {"model": "mlp", "folds": FOLDS, "epochs": 2, "batch_size": 64, "progress": False}


def write_sources(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The same rows in several formats."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, ROWS)
    x = (draw.normal(size=(ROWS, 12)) + y[:, None]).astype(np.float32)
    np.savez_compressed(folder / "a.npz", x=x, y=y)
    group = zarr.open_group(folder / "a.zarr", mode="w")
    group.create_array("x", shape=x.shape, chunks=(50, 12), shards=(400, 12), dtype="float32")[...] = x
    group.create_array("y", shape=y.shape, chunks=(ROWS,), dtype="int64")[...] = y
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(70, 12), compression="gzip", shuffle=True)
        file["y"] = y
    (folder / "parts").mkdir()
    for part in range(2):
        rows = slice(part * 600, part * 600 + 600)
        columns = {"x": pa.FixedSizeListArray.from_arrays(pa.array(x[rows].reshape(-1)), 12), "y": y[rows]}
        parquet.write_table(pa.table(columns), folder / "parts" / f"{part}.parquet", row_group_size=250)
    whole = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 12), "y": y})
    lance.write_dataset(whole, folder / "a.lance", max_rows_per_file=500)
    return {name: (folder / name, {"x": "x", "y": "y"}) for name in ("a.npz", "a.zarr", "a.h5", "parts", "a.lance")}


def bits(run: Path) -> tuple[list[bytes], bytes]:
    return result(RunFolder(locate(run)))


@pytest.mark.long
@pytest.mark.parametrize("fold_mode", ["fused", "runs"])
def test_models_are_those_of_a_copy(fold_mode: Literal["fused", "runs"], tmp_path: Path) -> None:
    for name, (place, options) in write_sources(tmp_path).items():
        if fold_mode == "runs" and name != "parts":
            continue
        here = fs.adopt(place, tmp_path / f"{name}.here", progress=False, **options)
        copy = fs.adopt(place, tmp_path / f"{name}.copy", progress=False, copy=True, **options)
        for dataset, run in ((here, "one"), (copy, "other")):
            fs.train(dataset, tmp_path / f"{name}.{run}", fold_mode=fold_mode, **OPTIONS)
        assert bits(tmp_path / f"{name}.one") == bits(tmp_path / f"{name}.other"), name


def test_rows_are_streamed_and_predicted_in_place(tmp_path: Path) -> None:
    place, options = write_sources(tmp_path)["a.h5"]
    here = fs.adopt(place, tmp_path / "here.zarr", progress=False, **options)
    copy = fs.adopt(place, tmp_path / "copy.zarr", progress=False, copy=True, **options)
    one, other = (list(fs.stream(dataset, batch_size=64, seed=3)) for dataset in (here, copy))
    assert [x.tobytes() for x, _, _ in map(as_arrays, one)] == [x.tobytes() for x, _, _ in map(as_arrays, other)]
    run = fs.train(here, tmp_path / "run", **{**OPTIONS, "epochs": 1})
    assert run.predict(here).equals(run.predict(copy))


def as_arrays(batch: Any) -> tuple[np.ndarray, ...]:
    return tuple(part.numpy() for part in batch)


@pytest.mark.long
def test_a_killed_training_resumes_in_place(tmp_path: Path) -> None:
    place, options = write_sources(tmp_path)["parts"]
    dataset = fs.adopt(place, tmp_path / "here.zarr", progress=False, **options)
    arguments = [sys.executable, "-m", "foldstream.cli", "train", str(dataset.root), str(tmp_path / "killed")]
    fixed = ["--model", "mlp", "--folds", str(FOLDS), "--epochs", str(EPOCHS), "--batch-size", "64", "--workers", "0"]
    every = ["--fold-mode", "fused", "--checkpoint-every", "1 epoch"]
    run, log = RunFolder(locate(tmp_path / "killed")), tmp_path / "killed.log"
    with training([*arguments, *fixed, *every], log) as process:
        wait_for(process, run, FOLDS * 2)
        kill_session(process)
        assert process.wait() == -signal.SIGKILL, log.read_text()
    with training([*arguments, *fixed, *every], log) as process:
        assert process.wait() == 0, log.read_text()
    quiet = {**OPTIONS, "epochs": EPOCHS, "workers": 0, "fold_mode": "fused", "checkpoint_every": "1 epoch"}
    fs.train(dataset, tmp_path / "quiet", **quiet)
    assert bits(tmp_path / "killed") == bits(tmp_path / "quiet")
