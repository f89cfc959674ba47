"""Predictions as files: formats, probabilities of all classes, and scores where the source has labels."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from foldstream.cli import app
from foldstream.cluster.api.predict import write_oof
from foldstream.pipeline.predictions import files
from foldstream.pipeline.predictions.files import ending_of, write_tables
from foldstream.pipeline.predictions.known_labels import SourceScores, rows_with_labels
from foldstream.pipeline.predictions.scores import Scorer
from foldstream.storage.errors import UsageError
from foldstream.storage.format.arrays import SideColumn
from foldstream.storage.format.schema import Schema
from foldstream.storage.metrics.scoring import Scoring
from foldstream.storage.places.locate import locate
from pyarrow import parquet
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score
from typer.testing import CliRunner

TEXTS = ["plain", 'a "big" elm', "ash, grey", "two\nlines", "", None]
CLASSES = ["ash, grey", 'a "big" elm', "oak"]


def tables() -> Iterator[pa.Table]:
    for start in range(0, 30, len(TEXTS)):
        rows = np.arange(start, start + len(TEXTS))
        days = rows.astype("datetime64[D]")
        yield pa.table({"row": rows, "day": days, "p,q": (rows / 7).astype(np.float32), "text": TEXTS})


@pytest.mark.parametrize("ending", files.WRITERS)
def test_a_table_is_read_back_as_it_was(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "GROUP_ROWS", 12)
    path, whole = tmp_path / f"t{ending}", pa.concat_tables(tables())
    write_tables(tables(), locate(path), ending)
    if ending == ".parquet":
        assert parquet.read_table(path).equals(whole)
        assert [parquet.ParquetFile(path).metadata.row_group(i).num_rows for i in range(3)] == [12, 12, 6]
        return
    found = pd.read_csv(path, parse_dates=["day"], keep_default_na=False, dtype={"p,q": np.float32})
    assert found.columns.tolist() == ["row", "day", "p,q", "text"]
    assert found["text"].tolist() == [text or "" for text in whole["text"].to_pylist()]
    np.testing.assert_array_equal(found["p,q"].to_numpy(), whole["p,q"].to_numpy())
    assert found["day"].dt.date.tolist() == whole["day"].to_pylist()
    lines = (gzip.decompress(path.read_bytes()) if ending == ".csv.gz" else path.read_bytes()).decode().splitlines()
    assert lines[:2] == ['row,day,"p,q",text', "0,1970-01-01,0,plain"]


def test_a_table_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("earlier")

    def failing() -> Iterator[pa.Table]:
        yield next(tables())
        raise UsageError("no more")

    with pytest.raises(UsageError, match="no more"):
        write_tables(failing(), locate(tmp_path / "t.parquet"), ".parquet")
    assert (tmp_path / "t.parquet").read_text() == "earlier"
    assert [one.name for one in tmp_path.iterdir()] == ["t.parquet"]


def test_the_format_is_that_of_the_ending_or_of_the_option() -> None:
    assert [ending_of(f"a.b{ending}", None) for ending in files.WRITERS] == [*files.WRITERS]
    assert ending_of("A.CSV", "csv") == ".csv"
    assert ending_of("out.csv.gz", "csv") == ".csv.gz"
    assert ending_of("out.txt", "parquet") == ".parquet"
    with pytest.raises(UsageError, match=r"out\.txt: the name does not say the format; end it with \.csv, .*--format"):
        ending_of("out.txt", None)
    with pytest.raises(UsageError, match=r"--format csv: out\.parquet ends with \.parquet; remove the option"):
        ending_of("out.parquet", "csv")
    with pytest.raises(UsageError, match=r"--format 'parq' is not valid: did you mean 'parquet'\?"):
        ending_of("out", "parq")


def trees(rows: int, seed: int) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    kind = draws.integers(3, size=rows)
    sizes = {"size": kind + draws.normal(0, 0.5, rows), "age": draws.normal(size=rows)}
    return pd.DataFrame({"id": 1000 + np.arange(rows), **sizes, "kind": np.array(CLASSES)[kind]})


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three classes whose names need quotes in a CSV file, and a file of new trees."""
    folder = tmp_path_factory.mktemp("forest")
    trees(240, 0).to_csv(folder / "trees.csv", index=False)
    fs.convert_csv(folder / "trees.csv", folder / "trees.zarr", label="kind", id="id")
    fs.train(folder / "trees.zarr", folder / "run", model="mlp", folds=2, epochs=4, batch_size=32)
    trees(60, 1).to_csv(folder / "new.csv", index=False)
    return folder


def predict(*words: Any, code: int = 0) -> dict[str, Any]:
    """The result of a command, or nothing if it is expected to fail."""
    done = CliRunner().invoke(app, ["--json", "predict", *map(str, words)])
    assert done.exit_code == code, done.output
    return json.loads(done.output.splitlines()[-1])["result"] if code == 0 else {}


def test_probabilities_have_a_column_for_each_class(forest: Path) -> None:
    fs.predict(forest / "run", forest / "new.csv", forest / "plain.csv")
    for out in ("all.parquet", "all.csv"):
        predict(forest / "run", forest / "new.csv", forest / out, "--proba", "--columns", "tree,guess")
    names = [f"probability_{name}" for name in sorted(CLASSES)]
    table, text = parquet.read_table(forest / "all.parquet"), pd.read_csv(forest / "all.csv")
    assert table.column_names == text.columns.tolist() == ["tree", "guess", *names]
    assert table.schema.types == [pa.int64(), pa.string(), *[pa.float32()] * 3]
    values = table.select(names).to_pandas().to_numpy()
    np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(text[names].to_numpy(), values, rtol=1e-6)
    assert table["guess"].to_pylist() == np.array(sorted(CLASSES))[values.argmax(axis=1)].tolist()
    plain = pd.read_csv(forest / "plain.csv")
    assert plain.columns.tolist() == ["id", "kind"]
    assert plain["kind"].tolist() == text["guess"].tolist()
    with pytest.raises(UsageError, match=r"two columns would have the name 'kind'; give 2 other names"):
        fs.predict(forest / "run", forest / "new.csv", forest / "no.csv", columns=["kind", "kind"])
    predict(forest / "run", forest / "new.csv", forest / "no.txt", code=1)


def test_predictions_are_scored_where_the_source_has_labels(forest: Path) -> None:
    truth = trees(60, 1)
    found = predict(forest / "run", forest / "new.csv", forest / "p.parquet", "--proba")["scored"]
    probabilities = parquet.read_table(forest / "p.parquet").to_pandas().iloc[:, 2:].to_numpy()
    codes = truth["kind"].map(sorted(CLASSES).index)
    assert found["rows"] == 60
    assert found["scores"]["loss"] == pytest.approx(log_loss(codes, probabilities), rel=1e-5)
    assert found["scores"]["accuracy"] == accuracy_score(codes, probabilities.argmax(axis=1))
    low, high = found["intervals"]["accuracy"]
    assert low < found["scores"]["accuracy"] < high
    shown = CliRunner().invoke(app, ["predict", *(str(forest / name) for name in ("run", "new.csv", "p.csv"))])
    assert "60 rows with labels" in " ".join(shown.output.split())
    # As a dataset, whose classes have other codes; and rows without a label, or with a new one, are left out.
    some = truth[truth["kind"] != CLASSES[0]]
    some.to_csv(forest / "some.csv", index=False)
    fs.convert_csv(forest / "some.csv", forest / "some.zarr", label="kind", id="id")
    of_dataset = fs.predict(forest / "run", forest / "some.zarr", forest / "q.csv").scored
    truth["kind"] = np.where(truth["kind"] != CLASSES[0], truth["kind"], np.where(truth["id"] % 2, "", "birch"))
    truth.to_csv(forest / "gaps.csv", index=False)
    with_gaps = fs.predict(forest / "run", forest / "gaps.csv", forest / "q.csv")
    assert (with_gaps.rows, with_gaps.scored["rows"]) == (60, len(some))
    assert with_gaps.scored["scores"] == pytest.approx(of_dataset["scores"])
    truth.drop(columns="kind").to_csv(forest / "bare.csv", index=False)
    assert fs.predict(forest / "run", forest / "bare.csv", forest / "q.csv").scored == {}
    assert fs.predict(forest / "run", forest / "trees.zarr", forest / "q.csv").scored == {}


def test_out_of_fold_predictions_are_written_in_each_format(forest: Path) -> None:
    for name, format in (("oof.csv", None), ("oof.csv.gz", None), ("oof", "parquet")):
        assert write_oof(forest / "run", forest / name, format=format) == 240
    text, packed, table = (
        pd.read_csv(forest / "oof.csv"),
        pd.read_csv(forest / "oof.csv.gz"),
        pd.read_parquet(forest / "oof"),
    )
    pd.testing.assert_frame_equal(text, packed)
    pd.testing.assert_frame_equal(text, table, check_dtype=False)
    assert (text["kind"].tolist(), text["id"].tolist()) == (trees(240, 0)["kind"].tolist(), [*range(1000, 1240)])


def test_targets_are_scored_with_the_weights_of_their_rows() -> None:
    draws = np.random.default_rng(0)
    y, prediction, weight = 1e6 + draws.normal(size=50), 1e6 + draws.normal(size=(50, 1)), draws.random(50)
    sides = SideColumn("price", "column_price", "number"), SideColumn("w", "column_w", "number")
    run = Schema(("a",), (1,), "float32", ("price",), "regression", "float32", roles={"weight": ("w",)}, beside=sides)
    source = Schema(("a",), (1,), "float32", beside=sides)
    with_gaps = np.where(np.arange(50) < 3, np.nan, y)
    parts = np.array_split(np.arange(50), 3)
    batches = [{"id": part, "column_price": with_gaps[part], "column_w": weight[part]} for part in parts]
    first = rows_with_labels(run, source, batches[0])
    assert first is not None
    scores = SourceScores(Scorer(Scoring(run)), source, first.scale())
    for part, arrays in zip(parts, batches, strict=True):
        scores.add(arrays, prediction[part])
    found = scores.to_json()
    assert found["rows"] == 47
    options = {"y_true": y[3:], "y_pred": prediction[3:], "sample_weight": weight[3:]}
    assert found["scores"]["rmse"] == pytest.approx(mean_squared_error(**options) ** 0.5)
    assert found["scores"]["r2"] == pytest.approx(r2_score(**options))
