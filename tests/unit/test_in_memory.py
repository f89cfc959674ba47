"""`fs.convert`: DataFrames, arrays, files and folders become datasets."""

import zipfile
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from foldstream.storage.errors import ConflictError, UsageError
from PIL import Image


def flowers() -> pd.DataFrame:
    """Flowers with a name, a size that is missing for some, a color, a date and a kind."""
    draw = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "name": [f"f{number}" for number in range(60)],
            "size": np.where(draw.random(60) < 0.2, np.nan, draw.normal(size=60)),
            "color": pd.Categorical(np.array(["red", "blue"])[draw.integers(0, 2, 60)]),
            "seen": pd.Timestamp("2024-05-01") + pd.to_timedelta(draw.integers(0, 50, 60), unit="D"),
            "kind": np.array(["rose", "lily", "iris"])[draw.integers(0, 3, 60)],
        }
    )


class Stream:
    """A table of another library, which only offers Arrow's stream."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(schema)


@pytest.mark.parametrize(
    "source",
    [flowers(), pa.table(flowers()), Stream(pa.table(flowers())), polars.from_pandas(flowers())],
    ids=["pandas", "arrow", "stream", "polars"],
)
def test_a_table_in_memory_becomes_the_dataset_of_its_file(source: Any, tmp_path: Path) -> None:
    flowers().to_parquet(tmp_path / "flowers.parquet")
    expected = fs.convert(tmp_path / "flowers.parquet", tmp_path / "file.zarr", label="kind", id="name")
    made = fs.convert(source, tmp_path / "made.zarr", label="kind", id="name")
    assert made.rows(60).equals(expected.rows(60))
    assert made.schema == expected.schema
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.zarr", "flowers.parquet", "made.zarr"]


def test_the_same_table_is_not_converted_again(tmp_path: Path) -> None:
    made = fs.convert(flowers(), tmp_path / "data.zarr", label="kind")
    assert fs.convert(flowers(), tmp_path / "data.zarr", label="kind") == made
    with pytest.raises(ConflictError, match="already contains another dataset: sources that are new: the DataFrame"):
        fs.convert(flowers().assign(size=1.0), tmp_path / "data.zarr", label="kind")
    other = fs.convert(flowers().assign(size=1.0), tmp_path / "data.zarr", label="kind", overwrite=True)
    assert other.identity != made.identity


def test_labels_are_given_beside_the_samples(tmp_path: Path) -> None:
    frame = flowers()
    together = fs.convert(frame, tmp_path / "together.zarr", label="kind")
    apart = fs.convert(frame.drop(columns="kind"), tmp_path / "apart.zarr", label=frame["kind"])
    assert apart.rows(60).equals(together.rows(60))
    columns = polars.from_pandas(frame)
    of_polars = fs.convert(columns.drop("kind"), tmp_path / "polars.zarr", label=columns["kind"])
    assert of_polars.rows(60).equals(together.rows(60))
    x, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2
    array = fs.convert(x, tmp_path / "array.zarr", label=y)
    assert array.schema.features == ("x0", "x1", "x2")
    assert array.schema.classes == ("0", "1")
    assert np.allclose(array[:].x, x)
    assert array[:].y.tolist() == y.tolist()
    several = fs.convert(x, tmp_path / "several.zarr", label=pd.DataFrame({"a": x[:, 0], "b": x[:, 1]}))
    assert several.schema.labels == ("a", "b")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)], ids=["gray", "one channel", "color"])
def test_arrays_of_images_are_stored_as_they_are(shape: tuple[int, ...], dtype: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (30, *shape)).astype(dtype)
    made = fs.convert(images, tmp_path / "images.zarr", label=np.arange(30) % 3)
    assert made.schema.image is not None
    channels_first = np.moveaxis(images.reshape(30, 6, 5, -1), 3, 1)
    assert np.array_equal(made[:].x, channels_first)
    assert made[:].y.tolist() == (np.arange(30) % 3).tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["images.zarr"]
    changed = images.copy()
    changed[7] += 1
    with pytest.raises(ConflictError):
        fs.convert(changed, tmp_path / "images.zarr", label=np.arange(30) % 3)


@pytest.mark.parametrize(
    ("source", "label", "message"),
    [
        (flowers().assign(size=[1, "x"] * 30), "kind", "the DataFrame is not a table that Arrow can read"),
        (flowers(), [1, 2, 3], "label has 3 rows, but the DataFrame has 60"),
        (flowers(), flowers()["kind"], "the DataFrame has a column 'kind' too"),
        (np.zeros((5, 4, 4)), np.arange(5), "images of type float64 are not pixels; convert them to uint8"),
        (np.zeros(5), np.arange(5), r"an array of shape \(5,\) holds no samples"),
        (polars.from_pandas(flowers()).lazy(), "kind", "LazyFrame is neither a table, an array nor paths; .* collect"),
        ([1, 2], "kind", "list is neither a table, an array nor paths"),
    ],
    ids=["mixed types", "rows", "twice", "floats", "one axis", "lazy", "numbers"],
)
def test_what_cannot_be_converted_is_explained(source: Any, label: Any, message: str, tmp_path: Path) -> None:
    label = np.array(label) if isinstance(label, list) else label
    with pytest.raises(UsageError, match=message):
        fs.convert(source, tmp_path / "data.zarr", label=label)
    assert list(tmp_path.iterdir()) == []


def test_a_row_of_a_frame_is_named_in_errors(tmp_path: Path) -> None:
    with pytest.raises(fs.FoldstreamError, match=r"^the DataFrame, row 3"):
        fs.convert(flowers().assign(size=[1.0, 2.0, np.nan] * 20), tmp_path / "x.zarr", label="kind", missing="error")


def test_files_are_recognized_by_their_names(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / kind / f"{number}.png")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted((tmp_path / "photos").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "photos"))
    (tmp_path / "tables").mkdir()
    flowers().to_csv(tmp_path / "tables" / "flowers.csv", index=False)
    for source in ("photos", "photos.zip", "photos/*/*.png"):
        made = fs.convert(tmp_path / source, tmp_path / "images.zarr", size=8, overwrite=True)
        assert made.schema.classes == ("cat", "dog"), source
    for source in ("tables", "tables/*.csv", "tables/flowers.csv"):
        made = fs.convert(tmp_path / source, tmp_path / "table.zarr", label="kind", overwrite=True)
        assert made.schema.labels == ("kind",), source
    (tmp_path / "photos" / "labels.csv").write_text("path,kind\n")
    with pytest.raises(UsageError, match=r"contains images .* and tables \(labels.csv\)"):
        fs.convert(tmp_path / "photos", tmp_path / "both.zarr")


def test_datasets_show_themselves(tmp_path: Path) -> None:
    made = fs.convert(flowers(), tmp_path / "data.zarr", label="kind", id="name")
    first, label, columns = repr(made).splitlines()
    assert first.startswith(f"Dataset {tmp_path / 'data.zarr'}: 60 rows of float32 (3,)")
    assert (label, columns) == ("label: kind (classification, 3 classes)", "columns: size, color, seen, name (id)")
    assert "<td>color</td>" in made._repr_html_()


def test_a_dataset_takes_the_place_of_its_path(tmp_path: Path) -> None:
    made = fs.convert(flowers(), tmp_path / "data.zarr", label="kind", id="name")
    again = fs.convert(flowers().head(20), tmp_path / "again.zarr", label="kind", like=made)
    assert again.schema.categories == made.schema.categories
    assert fs.verify(made) == []
    assert fs.open(made) == made
    plan = fs.split_rows(made, folds=3)
    assert len(next(iter(fs.stream(made, fold=0, folds=plan, batch_size=16))).y) == 16
    run = fs.train(made, tmp_path / "run", model="mlp", folds=2, epochs=1, batch_size=16, workers=0)
    assert len(fs.load_models(run)) == 2
    assert fs.predict(run, again, tmp_path / "predictions.csv")
