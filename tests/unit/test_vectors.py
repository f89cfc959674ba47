"""A vector as the label: a list column, or columns NAME_0, NAME_1, …; one score over all numbers."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from foldstream.cluster.api.predict import write_oof
from foldstream.pipeline.verify import find_damage
from foldstream.storage.dataset import open_arrays
from foldstream.storage.errors import SourceError, UsageError
from foldstream.storage.tasks import SerialExecutor
from pyarrow import parquet
from sklearn.metrics import mean_absolute_error, r2_score

ROWS, WIDTH = 240, 5
OPTIONS: dict[str, Any] = {"folds": 3, "epochs": 2, "batch_size": 32, "workers": 0, "model": "mlp"}


def table(rows: int = ROWS, kind: str = "fixed") -> pa.Table:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(rows, 3))
    y = x @ draws.normal(size=(3, WIDTH)) * [1, 10, 100, 1, 1] + draws.normal(size=(rows, WIDTH)) + 50
    flat = pa.array(y.ravel())
    lists = (
        pa.FixedSizeListArray.from_arrays(flat, WIDTH)
        if kind == "fixed"
        else pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * WIDTH, pa.int32()), flat)
    )
    return pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "e": lists})


def write(table: pa.Table, place: Path) -> Path:
    """Write a table in the format of the file's name."""
    if place.suffix == ".parquet":
        parquet.write_table(table, place)
    elif place.suffix == ".arrow":
        with pa.ipc.new_file(str(place), table.schema) as writer:
            writer.write_table(table)
    elif place.suffix == ".csv":
        vectors = pd.DataFrame(np.stack(table["e"].to_numpy()), columns=[f"e_{i}" for i in range(WIDTH)])
        table.drop(["e"]).to_pandas().join(vectors).to_csv(place, index=False)
    else:
        table.to_pandas().assign(e=table["e"].to_pylist()).to_json(place, orient="records", lines=True)
    return place


@pytest.mark.parametrize("name", ["v.parquet", "v.arrow", "v.jsonl", "v.csv"])
def test_a_list_column_becomes_a_vector(name: str, tmp_path: Path) -> None:
    source = table(kind="lists" if name == "v.parquet" else "fixed")
    data = fs.convert_csv(write(source, tmp_path / name), tmp_path / "data.zarr", label="e")
    schema = data.schema
    assert schema.dense
    assert (schema.labels, schema.task, schema.dense.shape, schema.outputs) == (("e",), "regression", (WIDTH,), WIDTH)
    assert schema.features == ("a", "b", "c")
    expected = np.stack(source["e"].to_numpy())
    np.testing.assert_allclose(fs.open(data)[:].y, expected, rtol=1e-9)
    np.testing.assert_allclose(np.stack([*fs.open(data).rows(ROWS)["e"]]), expected, rtol=1e-9)
    np.testing.assert_allclose(data.statistics.y_mean, expected.mean(axis=0))
    assert [column.kind for column in data.columns() if column.role == "label"] == ["vector"]
    assert "e (regression)" in repr(fs.open(data))
    assert not find_damage(data, SerialExecutor())
    again = fs.convert_csv(tmp_path / name, tmp_path / "data.zarr", label="e")
    assert again.identity == data.identity


def test_zeros_and_ones_are_several_labels(tmp_path: Path) -> None:
    hot = np.eye(3, dtype=np.int64)[np.arange(60) % 3]
    source = pa.table({"a": np.arange(60.0), "hot": pa.FixedSizeListArray.from_arrays(pa.array(hot.ravel()), 3)})
    data = fs.convert_csv(write(source, tmp_path / "v.parquet"), tmp_path / "data.zarr", label="hot")
    assert (data.schema.task, data.schema.labels) == ("multilabel", ("hot_0", "hot_1", "hot_2"))
    same = fs.convert_csv(tmp_path / "v.parquet", tmp_path / "like.zarr", label="hot", like=data)
    assert same.schema.labels == data.schema.labels
    other = fs.convert_csv(tmp_path / "v.parquet", tmp_path / "other.zarr", label="hot", task="regression")
    assert (other.schema.task, other.schema.labels) == ("regression", ("hot",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": ["e", "a"]}, "a vector must be the only label"),
        ({"label": "e", "task": "classification"}, "the label 'e' is a vector"),
        ({"label": "f"}, "has no column 'f'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(table(), tmp_path / "v.parquet")
    with pytest.raises(UsageError, match=message):
        fs.convert_csv(tmp_path / "v.parquet", tmp_path / "data.zarr", **options)


def test_rows_without_a_vector_or_with_another_length(tmp_path: Path) -> None:
    source = table(40, "lists")
    lists = source["e"].to_pylist()
    lists[3] = None
    gap = source.set_column(3, "e", pa.array(lists))
    data = fs.convert_csv(write(gap, tmp_path / "gap.parquet"), tmp_path / "gap.zarr", label="e")
    assert (len(data), data.left_out) == (39, 1)
    short = source.set_column(3, "e", pa.array([*lists[:3], [1.0], *lists[4:]]))
    with pytest.raises(SourceError, match="the list has 1 values, but that of the first row has 5"):
        fs.convert_csv(write(short, tmp_path / "short.parquet"), tmp_path / "short.zarr", label="e")
    skipped = fs.convert_csv(tmp_path / "short.parquet", tmp_path / "short.zarr", label="e", on_error="skip")
    assert (len(skipped), skipped.left_out) == (39, 1)


def test_a_vector_trains_like_several_labels_and_is_scored_as_one(tmp_path: Path) -> None:
    source = table()
    data = fs.convert_csv(write(source, tmp_path / "v.parquet"), tmp_path / "data.zarr", label="e")
    names = [f"e_{number}" for number in range(WIDTH)]
    several = fs.convert_csv(write(source, tmp_path / "v.csv"), tmp_path / "several.zarr", label=names)
    weights = {}
    modes: list[tuple[str, Any, Any]] = [
        ("fused", data, "fused"),
        ("runs", data, "runs"),
        ("several", several, "fused"),
    ]
    for name, dataset, mode in modes:
        fs.train(dataset, tmp_path / name, shares=2, fold_mode=mode, **OPTIONS)
        weights[name] = [(tmp_path / name / f"folds/{fold}/model.safetensors").read_bytes() for fold in range(3)]
    assert weights["fused"] == weights["runs"] == weights["several"]

    predicted = open_arrays(tmp_path / "fused/oof.zarr", "predictions")
    assert predicted.spec("prediction").row_shape == (WIDTH,)
    write_oof(tmp_path / "fused", tmp_path / "oof.csv")
    oof = pd.read_csv(tmp_path / "oof.csv")
    y, values = oof[names].to_numpy(), oof[[f"predicted_{name}" for name in names]].to_numpy()
    np.testing.assert_allclose(y, np.stack(source["e"].to_numpy())[oof["row"]])
    run = fs.Run(tmp_path / "fused")
    scores = run.summary["out_of_fold"]
    assert {*scores} == {"loss", "rmse", "mae", "r2", "mape"}
    assert scores["loss"] == pytest.approx(np.square(values - y).mean())
    assert scores["rmse"] == pytest.approx(np.sqrt(np.square(values - y).mean()))
    assert scores["mae"] == pytest.approx(mean_absolute_error(y, values))
    assert scores["r2"] == pytest.approx(r2_score(y, values, multioutput="variance_weighted"))
    assert run.summary["baseline"]["rmse"] > 0
    write_oof(tmp_path / "fused", tmp_path / "oof.parquet")
    assert parquet.read_table(tmp_path / "oof.parquet")["predicted_e"].type.list_size == WIDTH


def test_predictions_are_columns_lists_and_arrays(tmp_path: Path) -> None:
    data = fs.convert_csv(write(table(), tmp_path / "v.parquet"), tmp_path / "data.zarr", label="e")
    fs.train(data, tmp_path / "run", **OPTIONS)
    new = table(50)
    write(new, tmp_path / "new.parquet")
    scored = fs.predict(tmp_path / "run", tmp_path / "new.parquet", tmp_path / "p.csv").scored
    found = pd.read_csv(tmp_path / "p.csv")
    assert [*found] == ["row", *(f"e_{number}" for number in range(WIDTH))]
    values = found.to_numpy()[:, 1:]
    x = torch.tensor(np.stack([new[name].to_numpy() for name in "abc"], axis=1))
    models = fs.load_models(tmp_path / "run")
    expected = torch.stack([model(x.float()) for model in models]).mean(dim=0).detach()
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-3)
    y = np.stack(new["e"].to_numpy())
    assert scored["rows"] == 50
    assert scored["scores"]["rmse"] == pytest.approx(np.sqrt(np.square(values - y).mean()))
    fs.predict(tmp_path / "run", tmp_path / "new.parquet", tmp_path / "p.parquet")
    lists = parquet.read_table(tmp_path / "p.parquet")["e"]
    np.testing.assert_array_equal(np.stack(lists.to_numpy()), values)
    fs.predict(tmp_path / "run", tmp_path / "new.parquet", tmp_path / "p.zarr")
    assert open_arrays(tmp_path / "p.zarr", "predictions").spec("prediction").row_shape == (WIDTH,)
    like = fs.convert_csv(tmp_path / "new.parquet", tmp_path / "like.zarr", label="e", like=data)
    assert fs.predict(tmp_path / "run", like, tmp_path / "q.csv").scored["scores"] == scored["scores"]
