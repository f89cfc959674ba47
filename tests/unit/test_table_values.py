"""What the values of tables mean: dates, amounts, missing values and labels, in CSV and in Parquet."""

import copy
import datetime
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from foldstream.pipeline.csv import cut as csv_cut
from foldstream.pipeline.csv.amounts import plain_amounts
from foldstream.pipeline.csv.dates import find_ways, parse_dates
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import find_sources
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import RowError, SourceError, UsageError
from foldstream.storage.tasks import SerialExecutor
from pyarrow import parquet

from ..conftest import WriteCsv, convert_file
from .test_csv import read_all


def column(values: pa.Array, folder: Path, **options: Any) -> Dataset:
    """Convert a Parquet file whose column `a` has these values; `v` are the positions of the rows."""
    folder.mkdir(exist_ok=True)
    parquet.write_table(pa.table({"a": values, "v": np.arange(len(values))}), folder / "t.parquet")
    return convert_file(folder / "t.parquet", folder / "out", **options)


def seconds(texts: list[str]) -> list[float]:
    """Dates in UTC as pandas reads them, in seconds since 1970."""
    return [pd.Timestamp(text).tz_convert("UTC").timestamp() for text in texts]


def test_fractions_of_seconds_and_zones_are_read_as_pandas_reads_them(write_csv: WriteCsv, tmp_path: Path) -> None:
    texts = ["2020-01-01T00:00:00.123456Z", "2020-01-01 00:00:00.5+05:30", "2020-06-01T12:00:00.25-08:00"]
    dataset = convert_file(write_csv("t,v\n" + "".join(f"{text},1\n" for text in texts)), tmp_path / "out")
    assert read_all(dataset)["x"][:, 0].tolist() == seconds(texts)
    assert (dataset.schema.dates, dataset.schema.x_dtype) == ({"t": "seconds"}, "float64")


def test_a_fraction_may_follow_a_comma(write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(write_csv('t,v\n"2020-01-01 00:00:01,5",1\nNaT,2\n'), tmp_path / "out")
    np.testing.assert_array_equal(read_all(dataset)["x"][:, 0], [1577836801.5, np.nan])


def test_a_column_beside_the_rows_keeps_micro_and_nanoseconds(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("t,u,v\n2020-01-01T00:00:00.123456Z,2020-01-01 00:00:00.123456789,1\n2020-01-02,,2\n")
    dataset = convert_file(path, tmp_path / "out", roles={"time": ("t",), "keep": ("u",)})
    rows = read_all(dataset)
    assert [(one.name, one.kind) for one in dataset.schema.beside] == [("t", "microseconds"), ("u", "nanoseconds")]
    assert rows["column_t"].tolist() == [1577836800123456, 1577923200000000]
    assert rows["column_u"].tolist() == [1577836800123456789, np.iinfo(np.int64).min]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2020/01/31", "2020/02/01"], ["2020-01-31", "2020-02-01"]),
        (["31.01.2020", "01.02.2020"], ["2020-01-31", "2020-02-01"]),
        (["31/01/2020", "1/2/2020"], ["2020-01-31", "2020-02-01"]),
        (["01/31/2020", "02/01/2020"], ["2020-01-31", "2020-02-01"]),
        (["02/01/2020", "NaT", "02-03-2020", "01/31/2020"], ["2020-02-01", None, "2020-02-03", "2020-01-31"]),
        (["31 Jan 2020", "1 February 2020"], ["2020-01-31", "2020-02-01"]),
        (["0001-01-01", "9999-12-31"], ["0001-01-01", "9999-12-31"]),
    ],
)
def test_the_order_of_dates_is_that_of_the_whole_sample(
    texts: list[str], expected: list[str | None], write_csv: WriteCsv, tmp_path: Path
) -> None:
    dataset = convert_file(write_csv("t,v\n" + "".join(f"{text},1\n" for text in texts)), tmp_path / "out")
    days = [np.nan if day is None else np.datetime64(day, "D").astype(int) for day in expected]
    np.testing.assert_array_equal(read_all(dataset)["x"][:, 0], days)


def test_times_of_day_follow_dates_in_any_order() -> None:
    texts = pa.array(["31.01.2020 5:06", "01.02.2020 05:06:07.5", "01.02.2020, 1:05:00 PM"])
    assert find_ways(texts.to_pylist()) == ("day first",)
    found, reasons = parse_dates(texts, "day first")
    times = [datetime.datetime(2020, 1, 31, 5, 6), datetime.datetime(2020, 2, 1, 5, 6, 7, 500000)]
    assert (found.to_pylist(), reasons) == ([*times, datetime.datetime(2020, 2, 1, 13, 5)], {})


@pytest.mark.parametrize(
    "rows", [["01/02/2020", "03/02/2020"], ["31/01/2020", "01/31/2020"], ["x", "01/02/2020", "03/02/2020"]]
)
def test_an_unclear_order_is_refused_with_both_remedies(rows: list[str], write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("t,v\n" + "".join(f"{text},1\n" for text in rows))
    with pytest.raises(SourceError) as caught:
        convert_file(path, tmp_path / "out")
    for remedy in ("--date-format 't=%d/%m/%Y'", "--date-format 't=%m/%d/%Y'", "--category 't'"):
        assert remedy in str(caught.value)
    assert convert_file(path, tmp_path / "out", categories=("t",)).schema.categories == {"t": tuple(sorted(rows))}


@pytest.mark.parametrize(
    ("text", "written", "day"),
    [
        ("01/02/2020", "%d/%m/%Y", "2020-02-01"),
        ("01/02/2020", "t=%m/%d/%Y", "2020-01-02"),
        ("20200201", "t=%Y%m%d", "2020-02-01"),
        ("1.2.20", "%d.%m.%y", "2020-02-01"),
        ("2020 032", "%Y %j", "2020-02-01"),
    ],
)
def test_a_given_format_decides(text: str, written: str, day: str, write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(write_csv(f"t,v\n{text},1\n"), tmp_path / "out", date_formats=(written,))
    assert read_all(dataset)["x"][0, 0] == np.datetime64(day, "D").astype(int)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("%Q", "'%Q' is not supported"),
        ("%d.%m", "the format has no year"),
        ("u=%Y", "there is no column 'u'"),
        ("%d|%m|%Y", "no text column have such dates"),
    ],
)
def test_a_format_that_cannot_be_meant_is_refused(
    written: str, message: str, write_csv: WriteCsv, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        convert_file(write_csv("t,v\n2020-01-31,1\n"), tmp_path / "out", date_formats=(written,))


@pytest.mark.parametrize("line", [7, 150])
def test_a_text_among_dates_is_an_invalid_row(line: int, write_csv: WriteCsv, tmp_path: Path) -> None:
    lines = ["t,v", *(f"2020-01-{i % 28 + 1:02d},{i}" for i in range(200))]
    lines[line - 1] = "unknown,1"
    path = write_csv("\n".join(lines) + "\n")
    with pytest.raises(
        RowError, match=rf"line {line}, column 't': 'unknown' is not a date .*--date-format.*--category"
    ):
        convert_file(path, tmp_path / "out")
    dataset = convert_file(path, tmp_path / "out", on_error="skip")
    assert (len(dataset), dataset.schema.dates, dataset.left_out) == (199, {"t": "days"}, 1)


@pytest.mark.parametrize("text", ["10000-01-01", "0000-01-01"])
def test_years_beyond_four_digits_are_refused(text: str, write_csv: WriteCsv, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"line 3, column 't': .* is not a date between the years 1 and 9999"):
        convert_file(write_csv(f"t,v\n2020-01-01,1\n{text},2\n"), tmp_path / "out")


def test_new_rows_are_read_in_the_order_of_the_training_rows(write_csv: WriteCsv, tmp_path: Path) -> None:
    train = convert_file(write_csv("t,p,v\n31/01/2020,$5,1\n01/02/2020,6%,2\n"), tmp_path / "train", numbers=("p",))
    new = write_csv("t,p,v\n01/02/2020,$7,1\n", "new.csv")
    np.testing.assert_array_equal(
        read_all(convert_file(new, tmp_path / "new", like=train.schema))["x"], [[18293, 7, 1]]
    )
    other = write_csv("t,p,v\n2020-02-01,7,1\n", "other.csv")
    assert read_all(convert_file(other, tmp_path / "other", like=train.schema))["x"].tolist() == [[18293, 7, 1]]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_timestamps_of_any_unit_are_dates(unit: str, zone: str | None, tmp_path: Path) -> None:
    stamps = pa.array([1577836801, None, 5]).cast(pa.timestamp("s")).cast(pa.timestamp(unit, zone))
    dataset = column(stamps, tmp_path / "a")
    np.testing.assert_array_equal(read_all(dataset)["x"][:, 0], [1577836801, np.nan, 5])
    assert dataset.schema.dates == {"a": "seconds"}


def test_timestamps_keep_their_fractions(tmp_path: Path) -> None:
    fine = pa.array([1577836800123456789, 5], pa.timestamp("ns", "UTC"))
    assert read_all(column(fine, tmp_path / "a"))["x"][:, 0].tolist() == [1577836800.123456789, 5e-9]
    rows = read_all(column(fine, tmp_path / "b", roles={"time": ("a",)}))
    assert rows["column_a"].tolist() == [1577836800123456789, 5]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, 5], pa.date32()), [1, 5]),
        (pa.array([86_400_000, 5 * 86_400_000], pa.date64()), [1, 5]),
        (pa.array([1, 86_399], pa.time32("s")), [1, 86_399]),
        (pa.array([1500, None], pa.time32("ms")), [1.5, np.nan]),
        (pa.array([1_500_000, 2_000_000], pa.time64("us")), [1.5, 2]),
        (pa.array([2_500_000_000, 2_000_000_000], pa.time64("ns")), [2.5, 2]),
        (pa.array([-1500, None], pa.duration("ms")), [-1.5, np.nan]),
        (pa.array([Decimal("1.25"), None], pa.decimal128(10, 2)), [1.25, np.nan]),
        (pa.array([Decimal(2**53 + 1), 1], pa.decimal128(38, 0)), [2**53 + 1, 1]),
        (pa.array([2**63, 1], pa.uint64()), [2**63, 1]),
        (pa.array([2**53 + 2, None]), [2**53 + 2, np.nan]),
        (pa.array([20200131, 20200201]), [20200131, 20200201]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_types_become_days_seconds_and_numbers(values: pa.Array, expected: list[float], tmp_path: Path) -> None:
    x = read_all(column(values, tmp_path / "a"))["x"][:, 0]
    np.testing.assert_array_equal(x, np.array(expected, x.dtype))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            pa.array([5, 253402300800], pa.timestamp("s")),
            "row 2, column 'a': the value is not a date between the years",
        ),
        (pa.array([10**7, 5], pa.date32()), "row 1, column 'a': the value is not a date between the years"),
        (pa.array([2**63 + 1, 1], pa.uint64()), "no dtype can store 9223372036854775809"),
        (pa.array([1, Decimal(2**70 + 1)], pa.decimal128(38, 0)), "no dtype can store 1180591620717411303425"),
        (pa.array([None, 2**53 + 1]), r"no dtype can store 9007199254740993 .*t\.parquet, row 2, column 'a'"),
        (pa.array([b"a", b"\xff"]), "row 2, column 'a': the text is not UTF-8"),
        (pa.array(["2020-01-31", "x"]), "row 2, column 'a': 'x' is not a date"),
        (pa.array(["01/02/2020", "01/02/2020"]), "the order of day and month"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_what_a_type_cannot_mean_is_refused_with_its_row(values: pa.Array, message: str, tmp_path: Path) -> None:
    with pytest.raises((SourceError, UsageError), match=message):
        column(values, tmp_path / "a")


def test_a_string_column_is_text_unless_numbers_are_asked_for(tmp_path: Path) -> None:
    values = pa.array(["00012", "13", "00012"])
    assert column(values, tmp_path / "a").schema.categories == {"a": ("00012", "13")}
    assert read_all(column(values, tmp_path / "b", numbers=("a",)))["x"][:, 0].tolist() == [12, 13, 12]


def test_amounts_are_text_until_numbers_are_asked_for(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv('p,q,v\n$74.69,12%,1\n$7.00,3.5%,2\n"$1,200.50",100%,3\n')
    said: list[str] = []
    request = ConvertRequest(find_sources([str(path)]))
    dataset = convert(request, tmp_path / "text", SerialExecutor(), lambda *of: said.append(of[-1]))
    assert dataset.schema.categories.keys() == {"p", "q"}
    assert any("--number 'p'" in remark and "--number 'q'" in remark for remark in said)
    x = read_all(convert_file(path, tmp_path / "numbers", numbers=("p", "q")))["x"]
    np.testing.assert_array_equal(x, np.array([[74.69, 0.12, 1], [7, 0.035, 2], [1200.5, 1, 3]], np.float32))
    labels = read_all(convert_file(path, tmp_path / "labels", label="p", numbers=("p",), ignore=("q",)))["y"]
    assert labels.tolist() == [74.69, 7, 1200.5]


@pytest.mark.parametrize(
    ("text", "decimal", "plain"),
    [
        ("(5)", ".", "-5"),
        ("($1,200.50)", ".", "-1200.50"),
        ("-€5", ".", "-5"),
        ("5 €", ".", "5"),
        ("1.200,50 €", ",", "1200.50"),
        ("USD 12", ".", "12"),
        ("1e5", ".", "1e5"),
        ("1,2345", ".", ""),
        ("(5", ".", ""),
        ("--5", ".", ""),
        ("$", ".", ""),
        ("abc", ".", ""),
        (None, ".", None),
    ],
)
def test_an_amount_is_a_number(text: str | None, decimal: str, plain: str | None) -> None:
    assert plain_amounts(pa.array([text], pa.string()), decimal).to_pylist() == [plain]


def test_text_among_amounts_is_an_invalid_row(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("p,v\n$5,1\nfive,2\n")
    with pytest.raises(RowError, match="line 3, column 'p': 'five' is not a number"):
        convert_file(path, tmp_path / "out", numbers=("p",))
    with pytest.raises(RowError, match=r"line 3, column 'p': '5 €' is not a number; .*--number 'p'"):
        convert_file(write_csv("p,v\n5,1\n5 €,2\n", "mixed.csv"), tmp_path / "out")
    with pytest.raises(UsageError, match="--number p: the column is also a category"):
        convert_file(path, tmp_path / "out", numbers=("p",), categories=("p",))


def test_amounts_with_decimal_commas_show_the_decimal_point(write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(write_csv("p;v\n5,5 €;1\n1.000,25 €;2\n"), tmp_path / "out", numbers=("p",))
    assert read_all(dataset)["x"][:, 0].tolist() == [5.5, 1000.25]


@pytest.mark.parametrize(
    "marker", ["<NA>", "n/a", "#NA", "#N/A N/A", "-nan", "-NaN", "1.#IND", "-1.#QNAN", "NaT", "None"]
)
def test_the_markers_of_pandas_are_missing(marker: str, write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(write_csv(f"a,b\n1,x\n{marker},{marker}\n"), tmp_path / "out")
    np.testing.assert_array_equal(read_all(dataset)["x"], [[1, 1], [np.nan, 0]])


ZERO_ONE = "v,y\n1,0\n2,1\n"


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        ([ZERO_ONE, "v,y\n3,true\n4,false\n"], ("0", "1")),
        ([ZERO_ONE, "v,y\n3,1.0\n4,0.0\n", "v,y\n3,True\n4,False\n"], ("0", "1")),
        (["v,y\n1,false\n2,true\n", "v,y\n3,True\n4,False\n"], ("false", "true")),
        (["v,y\n1,False\n2,True\n", "v,y\n3,True\n4,False\n"], ("False", "True")),
    ],
)
def test_labels_that_mean_the_same_are_the_same_classes(
    files: list[str], classes: tuple[str, ...], write_csv: WriteCsv, tmp_path: Path
) -> None:
    paths = [str(write_csv(text, f"{i}.csv")) for i, text in enumerate(files)]
    dataset = convert(ConvertRequest(find_sources(paths), labels=("y",)), tmp_path / "out", SerialExecutor())
    assert dataset.schema.classes == classes
    assert read_all(dataset)["y"].tolist() == [0, 1, 1, 0, 1, 0][: 2 * len(files)]
    new = write_csv(ZERO_ONE, "new.csv")
    assert read_all(convert_file(new, tmp_path / "new", label="y", like=dataset.schema))["y"].tolist() == [0, 1]


def test_labels_that_mean_the_same_among_others_are_refused(write_csv: WriteCsv, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the label 'y' is 'true' in some rows and '1' in others, among other values"):
        convert_file(write_csv("v,y\n1,true\n2,1\n3,maybe\n"), tmp_path / "out", label="y")


def test_several_labels_may_be_true_and_false(write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(write_csv("v,y,z\n1,True,1\n2,False,1\n3,true,0\n"), tmp_path / "out", label=("y", "z"))
    assert dataset.schema.task == "multilabel"
    assert read_all(dataset)["y"].tolist() == [[1, 1], [0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("a:b:c\n1:2:3\n4:5:6\n", ":"),
        ("a^b\nx^2\ny^4\n", "^"),
        ("a\x01b\n1\x012\n", "\x01"),
        ("a;b;c\n1;2\n3\n4;5;6;7\n5;6\n", ";"),
    ],
)
def test_a_delimiter_that_is_not_found_is_no_column(text: str, mark: str, write_csv: WriteCsv, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        convert_file(write_csv(text), tmp_path / "out")
    assert f"use --delimiter {'' if mark.isprintable() else '$'}{mark!r}" in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        ["my city", "New York", "Los Angeles"],
        ["time stamp", "2020-01-01 10:00:00", "2020-01-02 11:00:00"],
        ['"a;b"', '"x;y"', '"z;w"'],
        ["what they said", "Hello you there", "not a word"],
    ],
)
def test_a_single_column_of_text_or_dates_is_one(lines: list[str], write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(write_csv("\n".join(lines) + "\n"), tmp_path / "out")
    assert dataset.schema.features == (lines[0].strip('"'),)


def test_a_column_is_what_most_of_its_values_are(write_csv: WriteCsv, tmp_path: Path) -> None:
    codes = write_csv("code,v\n12,1\nA0,2\nB1,3\nC2,4\n")
    assert convert_file(codes, tmp_path / "codes").schema.categories == {"code": ("12", "A0", "B1", "C2")}
    later = write_csv("code,v\n" + "".join(f"{i},{i}\n" for i in range(200)) + "A0,5\n", "later.csv")
    with pytest.raises(RowError, match=r"line 202, column 'code': 'A0' is not a number; .*--category 'code'"):
        convert_file(later, tmp_path / "later")
    gaps = write_csv("a,v\n?,1\n?,2\n?,3\n4,4\n", "gaps.csv")
    with pytest.raises(RowError, match=r"line 2, column 'a': '\?' is not a number; .*--missing-marker '\?'"):
        convert_file(gaps, tmp_path / "gaps")


def test_the_next_invalid_rows_of_the_file_are_shown_with_the_option_that_helps(
    write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["a,t,v", *(f"{i},2020-01-{i % 28 + 1:02d},{i}" for i in range(30)), "", "1,never,5"]
    lines += ["2,2020-01-02,x", "3,2020-01-03", "5,2020-01-05,$7", "6,2020-01-06,?", *["1,2020-01-01,x"] * 20]
    path = write_csv("\n".join(lines) + "\n")
    expected = [
        r"line +column +reason +option",
        r"34 +v +'x' is not a number +--category 'v'",
        r"35 +the row has 2 fields but the header has 3 +--on-error skip",
        r"36 +v +'\$7' is not a number +--number 'v'",
        r"37 +v +'\?' is not a number +--missing-marker '\?'",
    ]
    for size in (1 << 20, 400):
        monkeypatch.setattr(csv_cut, "PIECE_BYTES", size)
        with pytest.raises(RowError, match=r"line 33, column 't': 'never' is not a date") as caught:
            convert_file(path, tmp_path / "out")
        shown = str(caught.value).splitlines()
        assert len(shown) == 2 + 20 + 1
        assert "'x' occurs in" in shown[-1]
        for line, pattern in zip(shown[2:], expected, strict=False):
            assert re.fullmatch(rf" *{pattern} *", line)


def test_all_texts_that_the_training_data_lacks_are_shown(write_csv: WriteCsv, tmp_path: Path) -> None:
    train = convert_file(write_csv("a,v\n1,x\n2,y\n"), tmp_path / "train")
    new = write_csv("a,v\n1,x\n2,z\n3,w\n4,\n", "new.csv")
    with pytest.raises(RowError, match=r"line 3, column 'v': 'z' does not occur") as caught:
        convert_file(new, tmp_path / "new", like=train.schema)
    assert [(one.line, one.reason.partition(" does")[0]) for one in caught.value.others] == [
        (4, "'w'"),
        (5, "a missing value"),
    ]
    assert copy.deepcopy(caught.value).others[0].line == 4


def test_labels_and_weights_are_numbers_as_other_columns_have_them(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("a;y;w\n1,5;1,5;0,5\n2,5;2,25;1\n")
    rows = read_all(convert_file(path, tmp_path / "out", label="y", task="regression", roles={"weight": ("w",)}))
    assert (rows["y"].tolist(), rows["column_w"].tolist()) == ([1.5, 2.25], [0.5, 1])
    spaced = write_csv("a,y\n1, 5\n2, 6.5\n", "spaced.csv")
    assert read_all(convert_file(spaced, tmp_path / "spaced", label="y"))["y"].tolist() == [5, 6.5]


def test_nothing_is_said_about_labels_that_are_numbers(write_csv: WriteCsv, tmp_path: Path) -> None:
    said: list[str] = []
    request = ConvertRequest(find_sources([str(write_csv(ZERO_ONE))]), labels=("y",))
    convert(request, tmp_path / "out", SerialExecutor(), lambda *of: said.append(of[0]))
    assert "columns" not in said


def test_years_of_two_digits_are_refused_with_the_formats_that_fit(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv("t,v\n31.01.20,1\n30.01.20,2\n")
    with pytest.raises(SourceError, match=r"use --date-format 't=%d.%m.%y' or --date-format 't=%y.%m.%d', or keep"):
        convert_file(path, tmp_path / "out")
    dataset = convert_file(path, tmp_path / "out", date_formats=("%d.%m.%y",))
    assert read_all(dataset)["x"][:, 0].tolist() == [18292, 18291]


@pytest.mark.parametrize("values", [("10.0.0.1", "10.0.0.2"), ("1.2.3", "1.2.4"), ("10:30:00", "11:30:00")])
def test_addresses_and_versions_are_text(values: tuple[str, str], write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(write_csv(f"a,v\n{values[0]},1\n{values[1]},2\n"), tmp_path / "out")
    assert dataset.schema.categories == {"a": values}
