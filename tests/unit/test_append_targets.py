"""Rows are appended to datasets whose targets are vectors, masks or images; sequences have vectors as targets, but
windows do not."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pyarrow as pa
import pytest
from foldstream.pipeline.verify import find_damage, repair_shards
from foldstream.storage.dataset import open_dataset
from foldstream.storage.errors import SourceError, UsageError
from foldstream.storage.tasks import SerialExecutor
from PIL import Image
from pyarrow import parquet

from .test_masks import SIDE, scene

OPTIONS: dict[str, Any] = {"folds": 2, "epochs": 1, "batch_size": 8, "workers": 0, "fold_mode": "fused"}


def write_vectors(place: Path, rows: int, width: int, seed: int) -> np.ndarray:
    """A Parquet file with two features, `time`, and the vector `v`, which is returned: (rows, width)."""
    draws = np.random.default_rng(seed)
    vectors = draws.normal(size=(rows, width))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
    columns = {"a": draws.normal(size=rows), "b": draws.normal(size=rows), "time": np.arange(rows), "v": lists}
    parquet.write_table(pa.table(columns), place)
    return vectors


def write_pictures(folder: Path, numbers: range, codes: int = 3) -> None:
    """Pictures in `photos/`, their masks in `masks/`, and gray pictures that are their targets in `targets/`."""
    for number in numbers:
        pixels, mask = scene(number)
        images = ("photos", "bmp", pixels), ("masks", "png", mask % codes), ("targets", "png", pixels[..., ::-1].copy())
        for name, suffix, image in images:
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / name / f"{number % 4:03d}.{suffix}")


def convert_pictures(folder: Path, out: Path, **options: Any) -> Any:
    return fs.convert_images(folder / "photos", out, shuffle=None, size=SIDE, **options)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with four pictures each, of the same names."""
    old, new = tmp_path / "old", tmp_path / "new"
    write_pictures(old, range(4))
    write_pictures(new, range(4, 8))
    return old, new


def test_vectors_grow(tmp_path: Path) -> None:
    vectors = [write_vectors(tmp_path / f"{seed}.parquet", 40 - seed, 4, seed) for seed in (0, 1)]
    fs.convert_csv(tmp_path / "0.parquet", tmp_path / "d.zarr", label="v")
    grown = fs.append(tmp_path / "d.zarr", tmp_path / "1.parquet")
    np.testing.assert_array_equal(grown[:].y, np.concatenate(vectors))
    np.testing.assert_allclose(grown.statistics.y_mean, np.concatenate(vectors).mean(axis=0))
    assert not find_damage(grown, SerialExecutor())
    run = fs.train(grown, tmp_path / "run", **OPTIONS)
    assert len(run.oof()) == len(grown)


@pytest.mark.parametrize("width", [3, 5])
def test_a_vector_of_another_length_is_refused(width: int, tmp_path: Path) -> None:
    for name, columns in (("first", 4), ("second", 4), ("third", width)):
        write_vectors(tmp_path / f"{name}.parquet", 30, columns, columns)
    root = tmp_path / "d.zarr"
    fs.convert_csv(tmp_path / "first.parquet", root, label="v")
    with pytest.raises(UsageError, match=rf"the label 'v' is a vector of {width} numbers, but of 4"):
        fs.append(root, tmp_path / "third.parquet")
    with pytest.raises(UsageError, match=rf"the label 'v' is a vector of {width} numbers, but of 4"):
        fs.append(root, [tmp_path / "second.parquet", tmp_path / "third.parquet"])
    assert len(open_dataset(root)) == 30
    assert fs.append(root, tmp_path / "second.parquet").version == 2


@pytest.mark.parametrize("option", ["masks", "targets"])
def test_pictures_grow_with_their_targets(option: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = folders
    root = tmp_path / "d.zarr"
    first = convert_pictures(old, root, **{option: old / option})
    with pytest.raises(UsageError, match=f"has {option}; name those of the new images with {option}="):
        fs.append(root, new / "photos")
    other = "targets" if option == "masks" else "masks"
    own: dict[str, Any] = {option: new / option}
    with pytest.raises(UsageError, match=f"has no {other}; remove the option"):
        fs.append(root, new / "photos", **{**own, other: new / other})
    grown = fs.append(root, new / "photos", **own)
    alone = convert_pictures(new, tmp_path / "alone.zarr", **{option: new / option})
    assert grown.schema.dense == first.schema.dense
    np.testing.assert_array_equal(grown[:].y, np.concatenate([first[:].y, alone[:].y]))
    np.testing.assert_array_equal(fs.open(f"{root}@1")[:].y, first[:].y)
    assert fs.append(root, new / "photos", **own).identity == grown.identity
    grown.shard_place("y", grown.layout.shards - 1).write(b"")
    damages = find_damage(grown, SerialExecutor())
    assert [damage.array for damage in damages] == ["y"]
    repair_shards(grown, damages, SerialExecutor())
    assert not find_damage(grown, SerialExecutor())
    run = fs.train(root, tmp_path / "run", **OPTIONS)
    assert run.metrics


def test_a_new_pixel_value_is_no_class(folders: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = folders
    write_pictures(old, range(4), codes=2)
    root = tmp_path / "d.zarr"
    assert convert_pictures(old, root, masks=old / "masks").schema.dense.classes == ("0", "1")
    with pytest.raises(SourceError, match="its mask has the pixel value 2, which does not occur in the training data"):
        fs.append(root, new / "photos", masks=new / "masks")
    assert len(open_dataset(root)) == 4
    write_pictures(new, range(4, 8), codes=2)
    assert len(fs.append(root, new / "photos", masks=new / "masks")) == 8


def test_masks_are_of_images(folders: tuple[Path, Path], tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.parquet", 30, 4, 0)
    fs.convert_csv(tmp_path / "v.parquet", tmp_path / "d.zarr", label="v")
    with pytest.raises(UsageError, match=r"has no masks; remove the option"):
        fs.append(tmp_path / "d.zarr", tmp_path / "v.parquet", masks=folders[1] / "masks")


def test_sequences_have_vectors_as_targets(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    tokens = [draws.integers(1, 50, draws.integers(1, 12)).tolist() for _ in range(90)]
    vectors = draws.normal(size=(90, 3))
    source = pa.table({"ids": tokens, "v": vectors.tolist()})
    for name, part in (("first", source[:60]), ("second", source[60:])):
        parquet.write_table(part, tmp_path / f"{name}.parquet")
    data = fs.convert_csv(tmp_path / "first.parquet", tmp_path / "d.zarr", label="v", tokens="ids")
    assert data.schema.tokens
    assert data.schema.dense
    np.testing.assert_array_equal(fs.append(tmp_path / "d.zarr", tmp_path / "second.parquet")[:].y, vectors)
    fused, runs = (fs.train(data, tmp_path / mode, **{**OPTIONS, "fold_mode": mode}) for mode in ("fused", "runs"))
    assert fused.metrics == runs.metrics
    fs.predict(fused, tmp_path / "second.parquet", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "row,v_0,v_1,v_2"


@pytest.mark.parametrize(
    ("label", "message"),
    [("v", "the column is a vector; name one of its numbers, e.g. v_0"), ("w", "the sources have no column 'w'")],
)
def test_the_targets_of_windows_are_single_numbers(label: str, message: str, tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.parquet", 60, 3, 0)
    with pytest.raises(UsageError, match=message):
        fs.convert_csv(tmp_path / "v.parquet", tmp_path / "d.zarr", label=label, time="time", window_of=5, horizon=2)
