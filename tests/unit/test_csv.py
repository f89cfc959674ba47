"""CSV in, exactly those rows out; and for every error its file, line and column."""

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from foldstream.pipeline.csv import cut as csv_cut
from foldstream.pipeline.csv.cut import CsvTable
from foldstream.pipeline.csv.dialect import Dialect
from foldstream.pipeline.csv.options import CsvOptions
from foldstream.pipeline.csv.row_batch import Columns, Piece
from foldstream.pipeline.tables.findings import merge_findings
from foldstream.pipeline.tables.parquet import ParquetTable
from foldstream.pipeline.tables.spec.conversion import ConversionSpec, specify_conversion
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import RowError, SourceError, UsageError
from foldstream.storage.format.arrays import keys_of
from foldstream.storage.format.manifest import Source
from foldstream.storage.places.json_files import to_json

from ..conftest import WriteCsv, convert_file, table


def read_all(dataset: Dataset) -> dict[str, np.ndarray]:
    names = [spec.name for spec in dataset.manifest.arrays]
    return BlockReader(dataset, names).read(range(dataset.layout.blocks))


def test_the_digits_come_out_as_pandas_reads_them(digits: Dataset, digits_csv: Path) -> None:
    frame = pd.read_csv(digits_csv)
    rows = read_all(digits)
    assert rows["x"].dtype == np.uint8
    np.testing.assert_array_equal(rows["x"].reshape(len(frame), -1), frame.drop(columns="label").to_numpy())
    np.testing.assert_array_equal(rows["y"], frame["label"])
    np.testing.assert_array_equal(rows["id"], np.arange(len(frame)))
    assert digits.schema.classes == tuple("0123456789")
    assert digits.class_totals == tuple(frame["label"].value_counts().sort_index())
    values = frame.drop(columns="label").to_numpy()
    assert digits.statistics.mean[0] == pytest.approx(values.mean(), rel=1e-12)
    assert digits.statistics.std[0] == pytest.approx(values.std(), rel=1e-12)


def test_pieces_of_any_size_give_the_same_rows(
    write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = table(200).replace("label\n", '"la""bel"\n', 1) + '\n\n5,6,7,8,"a"\n'
    path = write_csv(text)
    whole = read_all(convert_file(path, tmp_path / "whole.zarr", label='la"bel'))
    for size in (1, 7, 100):
        monkeypatch.setattr(csv_cut, "PIECE_BYTES", size)
        cut = read_all(convert_file(path, tmp_path / f"{size}.zarr", label='la"bel'))
        for name, rows in whole.items():
            np.testing.assert_array_equal(rows, cut[name])


def test_quoted_line_ends_stay_inside_their_row(
    write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_cut, "PIECE_BYTES", 5)
    rows = [f'{i},"name\n""{i}""\nend",{i % 2}' for i in range(20)]
    dataset = convert_file(write_csv("a,who,label\n" + "\n".join(rows)), tmp_path / "q.zarr", label="label", id="who")
    keys = [bytes(row).rstrip(b"\0").decode() for row in read_all(dataset)["key"]]
    assert keys == [f'name\n"{i}"\nend' for i in range(20)]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["0", "255"], "uint8"),
        (["-1", "127"], "int8"),
        (["0", "256"], "uint16"),
        (["-40000", "5"], "int32"),
        (["0", "9000000000"], "int64"),
        (["0.5", "2"], "float32"),
        (["0.1", "20000"], "float32"),
        (["0.1", "16777217"], "float64"),
        (["1700000000.25", "1700000060"], "float64"),
        (["1e39", "0.5"], "float64"),
        (["1e-40", "0"], "float64"),
        (["", "16777216"], "float32"),
        (["", "16777217"], "float64"),
    ],
)
def test_auto_is_the_narrowest_dtype_that_keeps_the_values_apart(
    values: list[str], dtype: str, write_csv: WriteCsv, tmp_path: Path
) -> None:
    path = write_csv("a,label\n" + "".join(f"{value},{i}\n" for i, value in enumerate(values)))
    dataset = convert_file(path, tmp_path / "o.zarr", label="label")
    assert dataset.schema.x_dtype == dtype
    expected = np.array([float(value or "nan") for value in values]).astype(dtype)
    np.testing.assert_array_equal(read_all(dataset)["x"][:, 0], expected, strict=True)


def test_labels_become_classes_or_quantities(write_csv: WriteCsv, tmp_path: Path) -> None:
    text = "a,b,c,d\n" + "".join(f"{i},{i % 3},{'xyz'[i % 3]},{i / 7}\n" for i in range(30))
    path = write_csv(text)
    numbers = convert_file(path, tmp_path / "n.zarr", label="b", ignore=("c", "d"))
    words = convert_file(path, tmp_path / "w.zarr", label="c", ignore=("b", "d"))
    amounts = convert_file(path, tmp_path / "a.zarr", label="d", ignore=("b", "c"))
    assert (numbers.schema.task, numbers.schema.classes) == ("classification", ("0", "1", "2"))
    assert (words.schema.task, words.schema.classes) == ("classification", ("x", "y", "z"))
    assert (amounts.schema.task, amounts.schema.classes) == ("regression", ())
    np.testing.assert_allclose(read_all(amounts)["y"], np.arange(30) / 7)
    assert amounts.statistics.y_mean == pytest.approx((np.mean(np.arange(30) / 7),))


def test_several_labels_are_quantities_side_by_side(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("a,b,c,d\n" + "".join(f"{i},{i % 3},x,{i / 7}\n" for i in range(300)))
    dataset = convert_file(path, tmp_path / "out", label=("d", "b"), ignore=("c",))
    expected = np.stack([np.arange(300) / 7, np.arange(300) % 3], axis=1)
    assert (dataset.schema.features, dataset.schema.task, dataset.schema.outputs) == (("a",), "regression", 2)
    np.testing.assert_array_equal(read_all(dataset)["y"], expected)
    assert dataset.statistics.y_mean == pytest.approx(expected.mean(axis=0))
    assert dataset.statistics.y_std == pytest.approx(expected.std(axis=0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,label\n1,2,0\n3,1\n", "line 3: the row has 2 fields but the header has 3"),
        ("a,b,label\n1,2,0\n3,4,1,9\n", "line 3: the row has 4 fields but the header has 3"),
        ("a,b,label\n1,2,0\n\n3,four,1\n", "line 4, column 'b': 'four' is not a number"),
        ("a,b,label\n1,2,0\n3,,1\n", "line 3, column 'b': the value is missing"),
        ("a,b,label\n1,2,0\n3,4,\n", "line 3, column 'label': the value is missing"),
        ("a,b,label\n1,2,0\n3,inf,1\n", "line 3, column 'b': 'inf' is not a finite number"),
        ("a,b,label\n1,2,0\n3,true,1\n", "line 3, column 'b': 'true' is not a number"),
        ('a,b,label\n1,"2\n",0\n3,x,1\n', "line 4, column 'b': 'x' is not a number"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b,label\n", "has a header but no rows"),
        ("a,b,label\n\n\n", "has a header but no rows"),
    ],
    ids=lambda value: value.strip()[:40] or "nothing",
)
def test_errors_name_their_location_and_leave_nothing_behind(
    text: str, message: str, write_csv: WriteCsv, tmp_path: Path
) -> None:
    path, out = write_csv(text), tmp_path / "out.zarr"
    with pytest.raises(SourceError) as caught:
        convert_file(path, out, label="label", missing="error")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "lable"}, "did you mean 'label'"),
        ({"label": "label", "id": "nothing-like-it"}, "its columns are 'c0'"),
        ({"label": "label", "shape": (2, 3)}, "6 values, but the data has 4 feature columns"),
        ({"label": "label", "task": "regression"}, "contains text; use --task classification"),
        ({"label": ("c0", "label")}, "'label' contains text; several labels must all be numeric"),
        ({"label": ("c0", "c1"), "task": "classification"}, "needs a single --label"),
        ({"label": "label", "categories": ("c9",)}, "--category"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, object], message: str, write_csv: WriteCsv, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        convert_file(write_csv(table(50)), tmp_path / "out.zarr", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()


def test_an_integer_dtype_that_is_too_narrow_is_refused(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("a,label\n300,0\n1,1\n")
    with pytest.raises(UsageError, match="cannot store 0 to 300; use uint16 or auto"):
        convert_file(path, tmp_path / "out.zarr", label="label", dtype="uint8")


def test_a_test_set_takes_the_columns_and_codes_of_the_training_set(write_csv: WriteCsv, tmp_path: Path) -> None:
    train = convert_file(
        write_csv("a,colour,day,label\n1,red,2026-01-02,x\n2,blue,1970-01-03,y\n"), tmp_path / "train", label="label"
    )
    assert train.schema.categories == {"colour": ("blue", "red")}
    assert read_all(train)["x"].tolist() == [[1, 1, 20455], [2, 0, 2]]
    text = "day,label,colour,a\n2026-01-02,z,blue,9\n"
    test = convert_file(write_csv(text, "test.csv"), tmp_path / "test", like=train.schema)
    assert read_all(test)["x"].tolist() == [[9, 0, 20455]]
    assert not test.schema.labels
    unknown = write_csv("a,colour,day\n9,green,2026-01-02\n", "unknown.csv")
    with pytest.raises(SourceError, match="line 2, column 'colour': 'green' does not occur in the training data"):
        convert_file(unknown, tmp_path / "strict", like=train.schema)
    coded = convert_file(unknown, tmp_path / "coded", like=train.schema, unknown="code")
    assert read_all(coded)["x"][0, 1] == 2
    with pytest.raises(UsageError, match="missing: 'a'"):
        convert_file(write_csv("colour,day\nred,2026-01-02\n", "lacks.csv"), tmp_path / "lacks", like=train.schema)


def test_a_test_set_is_named_as_the_training_set_and_may_have_more_columns(write_csv: WriteCsv, tmp_path: Path) -> None:
    text = "name,a,note,label\nr1,1,u,x\nr2,2,v,y\n"
    train = convert_file(write_csv(text), tmp_path / "train", label="label", id="name", ignore=("note",))
    more = write_csv("note,name,a,more\nw,r9,5,7\n", "more.csv")
    test = read_all(convert_file(more, tmp_path / "test", like=train.schema))
    assert (test["x"].tolist(), keys_of(test["key"])) == ([[5]], ["r9"])
    assert convert_file(write_csv("a\n5\n", "less.csv"), tmp_path / "less", like=train.schema).schema.key is None


def test_missing_values_are_stored_as_missing(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("a,b,day,colour,label\n1,5,1970-01-02,blue,x\nNA,6,,,y\n3,,1970-01-04,red,x\n")
    dataset = convert_file(path, tmp_path / "out", label="label")
    expected = [[1, 5, 1, 1], [np.nan, 6, np.nan, 0], [3, np.nan, 3, 2]]
    np.testing.assert_array_equal(read_all(dataset)["x"], np.array(expected, np.float32), strict=True)
    statistics = dataset.statistics
    assert (statistics.missing, statistics.mean, statistics.minimum) == ((1, 1, 1, 1), (2, 5.5, 2, 1), (1, 5, 1, 0))
    test = convert_file(write_csv("a,b,day,colour\n,,,red\n", "test.csv"), tmp_path / "test", like=dataset.schema)
    np.testing.assert_array_equal(read_all(test)["x"], [[np.nan, np.nan, np.nan, 2]])


@pytest.mark.parametrize("row", ["NA,6,blue,y", "1,6,,y"])
def test_missing_values_are_an_error_where_that_is_asked(row: str, write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv(f"a,b,colour,label\n1,5,blue,x\n{row}\n")
    with pytest.raises(RowError, match=r"data\.csv, line 3, column '(a|colour)': the value is missing"):
        convert_file(path, tmp_path / "out", label="label", missing="error")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_all_columns_with_missing_values_are_named_together(ending: str, write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("key,city,a,label\n1,Ulm,5,x\n2,,6,\n,Bonn,7,y\n4,Bonn,8,x\n")
    if ending == "parquet":
        table = pd.read_csv(path, dtype={"key": "string"})
        table.to_parquet(path := tmp_path / "data.parquet", index=False)
    with pytest.raises(RowError, match="column 'key': the value is missing"):  # the row without a label is left out
        convert_file(path, tmp_path / "out", label="label", id="key")
    with pytest.raises(RowError, match=r"columns 'label', 'city': the value is missing") as found:
        convert_file(path, tmp_path / "out", label="label", id="key", missing="error")
    assert "'label', 'city' and 'key': keep those of features with --missing keep, or skip" in str(found.value)
    assert str(copy.copy(found.value)) == str(found.value)  # as it travels between processes


def test_a_word_for_missing_values_is_recognized_in_all_columns(write_csv: WriteCsv, tmp_path: Path) -> None:
    rows = [f"{i},{i},x" for i in range(300)]
    rows[270:273] = ["unknown,1,x", "2,unknown,y", "what,unknown,y"]
    with pytest.raises(RowError) as found:
        convert_file(write_csv("\n".join(["a,b,label", *rows])), tmp_path / "out", label="label")
    remedy = "'unknown' occurs in the columns 'a' and 'b': if it means a missing value, use --missing-marker 'unknown'."
    assert str(found.value).splitlines()[-1] == remedy


def test_an_integer_type_refuses_missing_values(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("a,b,label\n1,5,x\n,6,y\n")
    with pytest.raises(UsageError, match="--dtype uint8 cannot store missing values, which the column 'a' has"):
        convert_file(path, tmp_path / "out", label="label", dtype="uint8")


def test_a_missing_value_below_the_sample_is_found(write_csv: WriteCsv, tmp_path: Path) -> None:
    rows = [f"{i % 200},{i % 7}" for i in range(300_000)]
    rows[100_001] = ",3"
    dataset = convert_file(write_csv("a,label\n" + "\n".join(rows) + "\n"), tmp_path / "out", label="label")
    x = read_all(dataset)["x"][:, 0]
    assert (x.dtype.name, np.flatnonzero(np.isnan(x)).tolist()) == ("float32", [100_001])
    assert dataset.statistics.missing == (1,)


def test_a_request_is_identified_as_in_earlier_versions_unless_a_new_option_is_used() -> None:
    added = {"escape", "skip_lines", "names"}
    assert not added & ConvertRequest((Source("a.csv", 9, 0),)).to_json()["csv"].keys()
    used = ConvertRequest((Source("a.csv", 9, 0),), csv=CsvOptions(names=("a", "b"), skip_lines=1))
    assert used.to_json()["csv"].keys() & added == {"names", "skip_lines"}
    assert ConvertRequest.from_json(json.loads(json.dumps(used.to_json()))) == used


def test_a_stored_spec_keeps_the_keys_of_earlier_versions() -> None:
    tables = (CsvTable("a.csv", "a.csv", False, Dialect(), ("a",), 2, 2, 9), ParquetTable("b.parquet", ("a",)))
    request, pieces = ConvertRequest((Source("a.csv", 9, 0),)), [(0, Piece(2, 9, 2, 3)), (1, Piece(0, 1, 1, 4))]
    spec = specify_conversion(request, Columns(("a",)), tables, pieces, None, merge_findings([], 1))
    text = to_json(spec.to_json())
    stored = json.loads(text)
    assert stored.keys() == {"layout", "schema", "columns", "texts", "pieces", "request", "sampled", "left_out"}
    assert stored["columns"].keys() == {"features", "texts", "dates", "required", "formats"}
    assert [text["kind"] for text in stored["texts"]] == ["CsvText", "ParquetTable"]
    assert stored["pieces"][0].keys() == {"text", "piece", "first_row", "rows", "left_out"}
    assert to_json(ConversionSpec.from_json(stored).to_json()) == text
    earlier = json.loads(text)
    del earlier["columns"]["formats"], earlier["schema"]["formats"], earlier["texts"][1]["kinds"]
    del earlier["request"]["date_formats"], earlier["request"]["numbers"]
    read = ConversionSpec.from_json(earlier)
    assert (read.columns, read.schema, read.tables) == (spec.columns, spec.schema, spec.tables)
    assert ConvertRequest.from_json(earlier["request"]) == request
