"""Every row of docs/messy-csv.md is true of a small file: its values, or its message.

The details of a rule are tested elsewhere: quotes, line ends and numbers in test_messy_csv.py, for instance. Here, each
row of the page has its cases, so that none is written or changed without one.
"""

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from foldstream.cluster.listener import Listener
from foldstream.pipeline.csv import cut
from foldstream.pipeline.csv.options import MISSING, CsvOptions
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import FoldstreamError, SourceError
from foldstream.storage.format.arrays import keys_of
from foldstream.storage.tasks import SerialExecutor
from pyarrow import feather, parquet

from .test_csv import read_all

PAGE = Path(__file__).parents[2] / "docs" / "messy-csv.md"
DIALECT = {*CsvOptions.model_fields} - {"missing"}
NAN = float("nan")
Files = dict[str, "str | bytes | pa.Table"]


@dataclass
class Case:
    """Files, or the text of one; options; and what they give: rows of `x`, a part of the error, the features,
    the categories and dates, a column that is dropped, or what is said."""

    files: "str | bytes | pa.Table | Files"
    options: dict[str, Any] = field(default_factory=dict)
    x: list[list[float]] | None = None
    error: str = ""
    features: str | None = None
    categories: dict[str, tuple[str, ...]] | None = None
    dates: dict[str, str] | None = None
    left_out: str = ""
    said: str = ""
    check: Callable[[Dataset], object] | None = None


def reads(files: Any, x: list[list[float]] | None = None, /, **rest: Any) -> Case:
    expected = {name: rest.pop(name) for name in [*rest] if name in Case.__dataclass_fields__}
    return Case(files, rest, x, **expected)


def fails(files: Any, error: str, /, **options: Any) -> Case:
    return Case(files, options, error=error)


def key(dataset: Dataset) -> list[Any]:
    return keys_of(read_all(dataset)["key"])


def packed(files: dict[str, bytes], write: str = "w:gz") -> bytes:
    out = io.BytesIO()
    if write == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return out.getvalue()
    with tarfile.open(fileobj=out, mode=write) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            (member := tarfile.TarInfo(name)).size = len(data)
            if data.startswith(b"->"):
                member.type, member.linkname, member.size = tarfile.SYMTYPE, data[2:].decode(), 0
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def ipc(table: pa.Table, stream: bool = False) -> bytes:
    out = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def as_feather(table: pa.Table) -> bytes:
    feather.write_feather(table, out := io.BytesIO())
    return out.getvalue()


def flipped(data: bytes, what: bytes) -> bytes:
    at = data.index(what)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


AB, ONE_TWO = "a,b\n1,2\n", [[1.0, 2.0]]
AB_TABLE = pa.table({"a": [1], "b": [2]})
MANY = "t,v\n" + "".join(f"x{row % 65_537},1\n" for row in range(65_600))

RULES: dict[str, list[Case]] = {
    "Line breaks, delimiters or doubled quotes": [
        reads('a,who\n1,"x\n,""y"""\n', id="who", check=lambda d: key(d) == ['x\n,"y"']),
        reads("a,who\n1,'x,y'\n", id="who", quote="'", check=lambda d: key(d) == ["x,y"]),
        reads('a,who\n1,"x\n', id="who", quote="", check=lambda d: key(d) == ['"x']),
    ],
    "A quote inside a field": [reads('a,who\n1,5" x\n2, "y"\n', id="who", check=lambda d: key(d) == ['5" x', ' "y"'])],
    "Text after a closing quote": [fails('a,b\n1,"x"y\n', "line 2: text follows the closing quote of field 2")],
    "A quote that is never closed": [fails('a,b\n1,2\n3,"x\n\n4,5\n', "line 3: a quote is never closed")],
    "LF, CRLF, CR": [reads("a,b\r\n1,2\r3,4\n5,6", [[1, 2], [3, 4], [5, 6]])],
    "Blank lines": [reads("\n \t\na,b\n\n1,2\n"), fails(" \na,b\n\n1,2\n\t\n1,x\n", "line 6, column 'b'")],
    "UTF-8": [reads(b"\xef\xbb\xbfa,\xc3\xa9\n1,2\n", ONE_TWO, features="a é"), reads(AB, ONE_TWO)],
    "UTF-16 and UTF-32": [reads(AB.encode(code), ONE_TWO, features="a b") for code in ("utf-16", "utf-32")],
    "Latin-1": [
        reads("é,b\n1,2\n".encode("latin-1"), ONE_TWO, encoding="latin-1", features="é b"),
        fails("é,b\n1,2\n".encode("latin-1"), "UTF-8"),
    ],
    "Comma, tab, semicolon or vertical bar": [
        *(reads(f"a{mark}b\n1{mark}2\n", ONE_TWO) for mark in ",\t;|"),
        reads("a||b\n1||2\n", ONE_TWO, delimiter="||"),
        reads("a;b;q\n1,5;2,5;7\n", [[1.5, 2.5, 7]], said="semicolon"),
    ],
    "A single column whose rows evidently": [
        fails("a:b:c\n1:2:3\n", "no delimiter was found.*\"delimiter\": ':'"),
        fails("a b\n" + "1 2\n" * 12 + "1 2 3\n", "no delimiter was found.*delimiter"),
    ],
    "Columns separated by runs of spaces": [
        reads("a  b   c\n1 2 x\n3  4 y\n", features="a b c"),
        reads("a \t b\n1\t2\n", ONE_TWO, delimiter="whitespace"),
    ],
    "A first line `sep=;`": [reads("sep=;\na;b\n1;2\n", ONE_TWO, features="a b")],
    "Lines above the header": [reads('one "\ntwo\nthree\na,b\n1,2\n', ONE_TWO, skip_lines=3, features="a b")],
    "Escaped quotes and delimiters": [
        reads('a,w\n1,"say \\"no\\""\n2,x\\,y\n', id="w", escape="\\", check=lambda d: key(d) == ['say "no"', "x,y"]),
        reads("a,b\n1,\\N\n2,3\n", [[1, NAN], [2, 3]], escape="\\"),
    ],
    "Too few or too many fields": [fails(f"{AB}1,2,3\n", "line 3: the row has 3 fields but the header has 2")],
    "A column without a name": [
        reads('"",a\n7,1\n8,2\n', [[1], [2]], features="a"),
        reads(",a\n7,1\n8,2\n", features="a", id="Unnamed: 0", check=lambda d: key(d) == [7, 8]),
        reads("a,b,\n1,2,\n", ONE_TWO, features="a b"),
    ],
    "A delimiter at the end of every row": [reads("a,b\n1,2,\n3,4,\n", [[1, 2], [3, 4]], features="a b")],
    "Rows with one field more": [
        reads("a,b\nx,1,2\ny,3,4\n", [[1, 2], [3, 4]], features="a b"),
        fails("a,b\nx,1,2\nx,3,4\n", "the row has 3 fields"),
    ],
    "Two columns with the same name": [
        reads("a,a\n1,2\n", ONE_TWO, features="a a.1", said=r"a\.1"),
        reads(pa.table([pa.array([1]), pa.array([2])], ["a", "a"]), ONE_TWO, features="a a.1", said=r"a\.1"),
    ],
    "No header": [
        reads("1,2\n3,4\n", [[1, 2], [3, 4]], features="0 1"),
        reads("1,2\n", ONE_TWO, names="x,y", features="x y"),
    ],
    "A first row of numbers": [
        reads("0,1\n5,6\n", [[5, 6]], features="0 1"),
        reads("4,2\n5,6\n", [[4, 2], [5, 6]], features="0 1"),
        fails("2019,2020\n1.5,2.5\n", '"header": "first".*"header": "none"'),
        reads("2019,2020\n1.5,2.5\n", [[1.5, 2.5]], header="first", features="2019 2020"),
        reads("2019,2020\n1.5,2.5\n", [[2019, 2020], [1.5, 2.5]], header="none"),
    ],
    "The header repeated": [
        fails("a,b\n1,2\na,b\n", "line 3, column 'a': 'a' is not a number"),
        reads("w,t\nx,y\nw,t\n", categories={"w": ("w", "x"), "t": ("t", "y")}),
    ],
    "A single column": [reads("a\n1\n2\n", [[1], [2]])],
    "NUL bytes": [
        fails("a,w\n1,x\0\n", "the text contains a NUL byte", id="w"),
        fails(f"{AB}1,2\0\n", "not a number"),
    ],
    "Fields of several megabytes": [reads(f"a,w\n1,{'x' * 3_000_000}\n", [[1]], ignore="w")],
    "Integers up to 64 bits": [
        reads("a\n9223372036854775807\n-9223372036854775808\n", [[2**63 - 1], [-(2**63)]]),
    ],
    "Larger integers": [
        fails("a\n99999999999999999999\n", "no dtype can store .*dtype=.*float64"),
        fails("a,b\n9007199254740993,0.5\n", "no dtype can store"),
        fails("a,b\n9007199254740993,\n1,2\n", "no dtype can store"),
        reads("a\n99999999999999999999\n", [[1e20]], dtype="float64"),
    ],
    "Numbers in quotes": [reads('a,b\n"1", 2 \n', ONE_TWO), fails(f"{AB}1,\u00a05\n", "'\u00a05' is not a number")],
    "`+5`, `-0`, `007`": [reads("a\n+5\n-0\n007\n5.\n.5\n1e-400\n", [[5], [0], [7], [5], [0.5], [0]])],
    "`00012` as an id": [
        reads("k,a\n00012,1\n3,2\n", id="k", check=lambda d: key(d) == ["00012", "3"]),
        reads("k,a\n00012,1\n12,2\n", label="k", task="classification", check=lambda d: "00012" in d.schema.classes),
        reads("k,a\n00012,1\n12,2\n", group="k", check=lambda d: d.schema.beside[0].kind == "text"),
    ],
    "Labels `0` and `1`": [
        reads("a,y\n1,0\n2,1.0\n3,true\n4,False\n", label="y", check=lambda d: d.schema.classes == ("0", "1")),
        reads("a,y\n1,True\n2,false\n3,true\n", label="y", check=lambda d: d.schema.classes == ("false", "true")),
        fails("a,y\n1,true\n2,1\n3,maybe\n", "among other values", label="y"),
    ],
    "`1e400`, `inf`": [fails(f"{AB}1,{text}\n", f"'{text}' is not a finite number") for text in ("1e400", "inf")],
    "`1_000`, `0x10`": [
        fails(f"{AB}1,{text}\n", f"'{text}' is not a number") for text in ("1_000", "0x10", "ff", "1 000", "--5", "٣")
    ],
    '`"1,234"`': [
        fails('a,b\n"1,234",2\n', "'1,234' is not a number"),
        reads('a,b\n"1,234",2\n', [[1234, 2]], thousands=","),
    ],
    "`1,5` between": [
        *(reads(f"a{mark}b\n1,5{mark}2\n", [[1.5, 2]]) for mark in ";\t|"),
        fails("a;b\n1,5;2.5\n", "'1,5' is not a number"),
        reads("a;b\n1,5;2\n", [[1.5, 2]], decimal=","),
    ],
    "Labels and weights with a decimal comma": [
        reads("a;y\n1; 1,5\n2;2,5\n", label="y", check=lambda d: read_all(d)["y"].tolist() == [1.5, 2.5]),
        reads("a;w\n1;1,5\n2;2,5\n", weight="w", check=lambda d: read_all(d)["column_w"].tolist() == [1.5, 2.5]),
        reads('a;y\n1;1.234,5\n2;2\n', label="y", decimal=",", thousands=".",
              check=lambda d: read_all(d)["y"].tolist() == [1234.5, 2]),
    ],
    "`1,234` between": [
        fails("a;b\n1,234;2\n", '"decimal": ",".*"thousands": ","'),
        reads("a;b\n1,234;2\n", [[1.234, 2]], decimal=","),
        reads("a;b\n1,234;2\n", [[1234, 2]], thousands=","),
    ],
    "`1.234,5`": [
        reads("a;b\n1.234,5;2\n", [[1234.5, 2]], decimal=",", thousands="."),
        fails("a;b\n1,5;2\n1.234,5;2\n", "'1.234,5' is not a number"),
    ],
    "`1.5` where commas are decimal": [fails("a;b\n1,5;2\n1.5;2\n", "'1.5' is not a number", decimal=",")],
    "Thousands separators after": [
        fails('a,b\n"1,,0",4\n', "'1,,0' is not a number", thousands=","),
        fails('a,b\n"1.5,0",4\n', "'1.5,0' is not a number", thousands=","),
    ],
    "`$74.69`": [
        reads("p,v\n$74.69,1\n$7,2\n", categories={"p": ("$7", "$74.69")}, said="--number 'p'"),
        reads('p\n$74.69\n5 €\n"$1,200.50"\n(5)\n12%\nUSD 3\n', [[74.69], [5], [1200.5], [-5], [0.12], [3]],
              number="p"),
    ],
    "`2020-01-31`, `2020/01/31`": [
        reads("a,b,c\n2020-01-31,2020/01/31,2020-01-31 10:00:00.25\n", [[18292, 18292, 1580464800.25]]),
        reads('a,b,c\n2020-01-31T10:00:00Z,2020-01-31 10:00:00+01:00,"2020-01-31T10:00:00,5"\n',
              [[1580464800, 1580461200, 1580464800.5]]),
    ],
    "`31.01.2020`": [
        reads('a,b,c,d,e\n31.01.2020,31/01/2020,01/31/2020,31 Jan 2020,"Jan 31, 2020"\n', [[18292] * 5]),
        reads("t,v\n31/01/2020,1\n", dates={"t": "days"}, said="day first"),
        fails("t,v\n01/02/2020,1\n", "'t=%d/%m/%Y'.*'t=%m/%d/%Y'.*category='t'"),
    ],
    "Years of two digits": [
        fails("t,v\n31.01.20,1\n", "date_format='t=%d.%m.%y'"),
        fails("t,v\n01/31/20,1\n", "date_format='t=%m/%d/%y'"),
    ],
    "Dates in other formats": [
        reads("t,v\n20200131,1\n", [[18292, 1]], date_format="t=%Y%m%d"),
        reads("t,u\n31.01.20,01.02.20\n", [[18292, 18293]], date_format="%d.%m.%y"),
    ],
    "A text among dates": [
        fails("t,v\n2020-01-31,1\nunknown,2\n", "line 3, column 't': 'unknown' is not a date"),
        reads("t,v\n2020-01-31,1\nunknown,2\n", [[18292, 1], [NAN, 2]], missing_marker="unknown"),
        reads("t,v\n2020-01-31,1\nunknown,2\n", category="t", categories={"t": ("2020-01-31", "unknown")}),
        reads("t,v\n2020-01-31,1\nx,2\ny,3\n", categories={"t": ("2020-01-31", "x", "y")}),
    ],
    "Years below 1": [
        fails(f"t,v\n2020-01-01,1\n{text},2\n", "not a date between the years 1 and 9999")
        for text in ("0000-01-01", "10000-01-01")
    ],
    "A column of numbers and text": [
        fails("c,v\n1,1\n2,1\nx,1\n", "'x' is not a number.*category='c'"),
        reads("c,v\n1,1\nx,2\ny,3\n", categories={"c": ("1", "x", "y")}),
    ],
    "Empty, `NA`": [
        reads("a,t\n1,x\n" + "".join(f"{mark},{mark}\n" for mark in MISSING), [[1, 1], *[[NAN, 0]] * len(MISSING)]),
        reads("a,y\n1,x\n2,\n3,z\n", [[1], [3]], label="y", check=lambda d: d.left_out == 1),
        fails("a,y\n1,x\n2,\n", "column 'y': the value is missing", label="y", missing="error"),
        fails("a,y\n1,x\n2,NA\n", "column 'y': the value is missing", id="y"),
        fails("a,b\n1,2\n3,\n", "line 3, column 'b': the value is missing", missing="error"),
        reads("a,b\n1,2\n3,?\n", [[1, 2], [3, NAN]], missing_marker="?"),
    ],
    "A column of text with more than 65,536": [
        reads(MANY, features="v", left_out="t"),
        fails(MANY, "too many distinct values to be a category", category="t"),
    ],
    "Comments": [
        reads("# x\na,b\n1,2# y\n#\n", ONE_TWO, comment="#"),
        reads("a,w\n1,x# y\n", id="w", check=lambda d: key(d) == ["x# y"]),
    ],
    "Lines that start with `#`": [
        reads("# made by hand\na,w\n1,#2\n", id="w", check=lambda d: key(d) == ["#2"]),
        reads("#,a\n1,2\n", ONE_TWO, features="# a"),
    ],
    "An empty file": [fails("", "is empty"), fails("\n \n", "is empty")],
    "Only a header": [fails("a,b\n", "has a header but no rows")],
    "A truncated compressed file": [
        fails({"t.csv.gz": gzip.compress(AB.encode())[:-9]}, "is not a complete .gz file"),
    ],
    # Parquet
    "Integers, floats, decimals": [
        reads(pa.table({"a": [2**62 + 1, 5]}), [[2**62 + 1], [5]]),
        reads(pa.table({"a": [1.5, None], "b": pa.array(["1.25", "7"]).cast(pa.decimal128(9, 2))}), [[1.5, 1.25],
              [NAN, 7]]),
        fails(pa.table({"a": [2**53 + 1, None]}), "no dtype can store .*row 1"),
    ],
    "Timestamps of any unit": [
        reads(pa.table({"a": pa.array([86_400_000], pa.timestamp("ms", "America/New_York")), "v": [1]}), [[1, 1]]),
        reads(pa.table({"a": pa.array([1_500_000], pa.timestamp("us"))}), [[1.5]], dates={"a": "seconds"}),
        reads(pa.table({"a": pa.array([3], pa.date32())}), [[3]], dates={"a": "days"}),
        reads(pa.table({"a": pa.array([5], pa.timestamp("ns")), "v": [1]}), [[1]], time="a",
              check=lambda d: (d.schema.beside[0].kind, read_all(d)["column_a"][0]) == ("nanoseconds", 5)),
    ],
    "Times of day, durations": [
        reads(pa.table({"a": pa.array([90], pa.time32("s")), "b": pa.array([1500], pa.duration("ms"))}),
              [[90, 1.5]], said="seconds"),
    ],
    "Strings": [
        reads(pa.table({"a": ["00012", "13"]}), categories={"a": ("00012", "13")}),
        reads(pa.table({"a": ["2020-01-31", "2020-02-01"]}), [[18292], [18293]]),
        reads(pa.table({"a": ["00012", "13"]}), [[12], [13]], number="a"),
    ],
    "Bytes that are not UTF-8": [fails(pa.table({"a": [b"x", b"\xff"]}), "row 2, column 'a': the text is not UTF-8")],
    "Booleans": [reads(pa.table({"a": [True, False]}), [[1], [0]], categories={"a": ("false", "true")})],
    "A list of numbers": [
        reads(pa.table({"e": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2))}), [[1, 2], [3, 4]],
              features="e_0 e_1"),
        reads(pa.table({"e": [[[1, 2], [3, 4]]]}), [[1, 2, 3, 4]], features="e_0_0 e_0_1 e_1_0 e_1_1"),
        reads(pa.table({"e": [[1, 2]], "v": [5]}), [[5]], ignore="e"),
    ],
    "Lists of different lengths": [
        fails(pa.table({"e": [[1, 2], [1, 2, 3]]}), "row 2.*the list has 3 values, but that of the first row has 2"),
    ],
    "A struct": [
        reads(pa.table({"a": [{"x": 1, "y": 2}]}), ONE_TWO, features="a.x a.y"),
        reads(pa.table({"a": [{"x": 1, "y": 2}], "v": [5]}), [[5]], ignore="a"),
    ],
    "Lists of text, maps": [
        fails(pa.table({"l": [["x"]], "v": [1]}), "cannot be columns.*ignore='l'"),
        fails(pa.table({"m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))}), "cannot be columns"),
        reads(pa.table({"l": [["x"]], "v": [1]}), [[1]], ignore="l"),
    ],
    "The index of a pandas DataFrame": [
        reads(pa.Table.from_pandas(pd.DataFrame({"a": [1, 2]}, index=[7, 5])), [[1], [2]], features="a"),
        reads(pa.Table.from_pandas(pd.DataFrame({"a": [1, 2]}, index=[7, 5])), id="__index_level_0__",
              check=lambda d: key(d) == [7, 5]),
    ],
    "A truncated, damaged or encrypted file": [fails({"t.parquet": b"PAR1 and no more"},
          "t.parquet is not a complete Parquet")],
    # Arrow and JSON lines
    "Arrow files and Feather": [
        reads({"t.arrow": ipc(AB_TABLE)}, ONE_TWO), reads({"t.ipc": ipc(AB_TABLE)}, ONE_TWO),
        reads({"t.feather": as_feather(AB_TABLE)}, ONE_TWO),
    ],
    "Arrow streams": [reads({name: ipc(AB_TABLE, stream=True)}, ONE_TWO) for name in ("t.arrow", "t.arrows")],
    "JSON lines": [
        *(reads({name: '{"a": 1, "b": 2}\n{"b": 0.5, "on": "2020-01-31"}\n'}, [[1, 2, NAN], [NAN, 0.5, 18292]])
          for name in ("t.jsonl", "t.ndjson")),
        reads({"t.jsonl.gz": gzip.compress(b'{"a": 1, "b": 2}\n')}, ONE_TWO),
        reads({"t.json": '{"a": 1, "b": 2}\n', "named": ""}, ONE_TWO),
    ],
    "A line that is no object": [
        fails({"t.jsonl": '{"a": 1}\n5\n'}, "row 2"), fails({"t.jsonl": '{"a": 1}\n{"a": "x"}\n'}, "row 2"),
    ],
    "One JSON array": [fails({"t.jsonl": '[{"a": 1}]'}, "one JSON array; write one object per line")],
    "A truncated file, Feather": [
        fails({"t.arrow": ipc(AB_TABLE)[:-9]}, "t.arrow"), fails({"t.feather": b"FEA1 and more"},
              "first version of Feather"),
    ],
    # Files and folders
    "Folders such as `day=mon`": [
        reads({"d/day=a%20b/p=1/t.csv": "v\n1\n", "d/day=c/p=2/t.csv": "v\n2\n"}, [[1, 0, 1], [2, 1, 2]],
              categories={"day": ("a b", "c")}, said="columns from the folders' names: day, p"),
        reads({"day=a/t.parquet": pa.table({"v": [1]}), "day=b/t.parquet": pa.table({"v": [2]})}, [[1], [2]],
              label="day"),
        reads({"day=a/t.csv": "v\n1\n", "day=b/t.csv": "v\n2\n"}, id="day", check=lambda d: key(d) == ["a", "b"]),
        reads({"day=a/t.csv": "v\n1\n", "day=b/t.csv": "v\n2\n"}, group="day", features="v"),
        reads({"day=a/t.csv": "v\n1\n", "day=b/t.csv": "v\n2\n"}, [[1], [2]], ignore="day"),
        reads({"day=a/t.csv": "v\n1\n", "named": "day=a"}, [[1]]),
    ],
    "Values in such folders": [
        reads({"p=1/t.csv": "v\n1\n", "p=0.5/t.csv": "v\n2\n"}, [[2, 0.5], [1, 1]]),
        reads({"p=2020-01-31/t.csv": "v\n1\n", "p=2020-02-01/t.csv": "v\n2\n"}, [[1, 18292], [2, 18293]]),
        reads({"p=1/t.csv": "v\n1\n", "p=x/t.csv": "v\n2\n"}, categories={"p": ("1", "x")}),
        reads({"p=1/t.csv": "v\n1\n", "p=__HIVE_DEFAULT_PARTITION__/t.csv": "v\n2\n"}, [[1, 1], [2, NAN]]),
    ],
    "A column that a file has": [
        fails({"day=a/t.csv": "day\n1\n", "day=b/t.csv": "day\n2\n"}, "has a column 'day', and so have its folders"),
    ],
    "Files whose columns differ": [
        fails({"1.csv": AB, "2.csv": "b,c\n3,4\n"}, 'columns="union" or columns="first"'),
        reads({"1.csv": AB, "2.csv": "b,c\n3,4\n"}, [[1, 2, NAN], [NAN, 3, 4]], columns="union"),
        reads({"1.csv": AB, "2.csv": "b,c\n3,4\n"}, [[1, 2], [NAN, 3]], columns="first"),
        reads({"1.csv": AB, "2.csv": "b,a\n4,3\n"}, [[1, 2], [3, 4]]),
    ],
    "Patterns such as": [
        reads({"d/1.csv": AB, "d/x/2.csv": "b,a\n", "d/.3.csv": "c\n", "named": "d/*.csv"}, ONE_TWO),
        reads({"d/1.csv": AB, "d/x/2.csv": AB, "d/.x/3.csv": "c\n", "named": "**/[1-2].csv"}, ONE_TWO * 2),
        reads({"1.csv": AB, "{1,2}.csv": AB, "named": "{1,2}*.csv"}, ONE_TWO),
    ],
    "Links to files and folders": [
        reads({"d/1.csv": AB, "d/2.csv": "->1.csv", "d/x": "->../e", "e/3.csv": AB, "e/up": "->../d", "named": "d"},
              ONE_TWO * 3),
        fails({"d/1.csv": AB, "x": "->d"}, "through a link"),
    ],
    "Hidden folders": [
        reads({f"{name}/t.csv": "z\n9\n" for name in ("__MACOSX", "_delta_log", "_temporary", "_spark_metadata", ".x")}
              | {"t.csv": AB, ".h.csv": "z\n"}, ONE_TWO),
    ],
    "A file without rows": [reads({"1.csv": "", "2.csv": "a,b\n", "3.csv": AB}, ONE_TWO, said="2 files without rows")],
    "`.zip`, `.csv.zip`": [
        reads({name: packed({"b.csv": b"a,b\n3,4\n", "x/a.csv": AB.encode(), "read.me": b"-"}, way), "named": name},
              [[3, 4], [1, 2]]) for name, way in {"t.zip": "zip", "t.tar": "w:", "t.tar.gz": "w:gz"}.items()
    ] + [
        reads({"t.zip": packed({"data": AB.encode()}, "zip"), "named": "t.zip"}, ONE_TWO),
        reads({"t.csv.zip": packed({"t.csv": AB.encode()}, "zip"), "u.zip": b"no archive", "v.tar": b"x"}, ONE_TWO),
    ],
    "Symbolic and hard links": [
        reads({"t.tar": packed({"a.csv": b"->.x/b", ".x/b": AB.encode(), "gone.csv": b"->../c.csv"}, "w:"),
              "named": "t.tar"}, ONE_TWO),
    ],
    "An encrypted, damaged or truncated archive": [
        fails({"t.zip": flipped(packed({"t.csv": b"a,b\n1,2222\n"}, "zip"), b"2222"), "named": "t.zip"},
              r"t\.zip is not a complete"),
        fails({"t.tar.gz": packed({"t.csv": AB.encode()})[:-20], "named": "t.tar.gz"}, r"t\.tar\.gz is not a complete"),
    ],
}  # fmt: skip
"""Cases for each row of the page, by the words with which it begins."""


def page_rows() -> list[str]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [line[2:] for line in lines if not line.startswith(("| ---", "| Kind of", "| Type"))]


def write(case: Case, folder: Path) -> list[Path]:
    """Write the files of a case, and links that begin with an arrow. Returns the sources."""
    files = case.files
    if not isinstance(files, dict):
        files = {"t.parquet" if isinstance(files, pa.Table) else "t.csv": files}
    for name, content in files.items():
        path = folder / name
        if name == "named":
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            parquet.write_table(content, path)
        elif isinstance(content, str) and content.startswith("->"):
            path.symlink_to(content[2:])
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    names = [name for name in files if name != "named"]
    named = files.get("named", names[0] if len(names) == 1 else ".")
    return [folder / str(named or names[0])]


def convert(case: Case, folder: Path, said: list[str]) -> Dataset:
    options = dict(case.options)
    dialect = {name: options.pop(name) for name in DIALECT & options.keys()}
    if marker := options.pop("missing_marker", None):
        dialect["missing"] = (*MISSING, marker)
    (folder / "in").mkdir()
    listener = Listener(progress=lambda *words: said.append(str(words[-1])))
    sources = write(case, folder / "in")
    return fs.convert_csv(
        sources, folder / "out", csv=CsvOptions(**dialect), listener=listener, client=SerialExecutor(), **options
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_true(rule: str, tmp_path: Path) -> None:
    for number, case in enumerate(RULES[rule]):
        (folder := tmp_path / str(number)).mkdir()
        said: list[str] = []
        if case.error:
            with pytest.raises(FoldstreamError, match=f"(?s){case.error}"):
                convert(case, folder, said)
            assert not (folder / "out").exists()
            continue
        dataset = convert(case, folder, said)
        schema = dataset.schema
        if case.x is not None:
            np.testing.assert_allclose(read_all(dataset)["x"].reshape(len(dataset), -1), case.x, rtol=1e-6)
        assert case.features is None or schema.features == tuple(case.features.split(" "))
        assert case.categories is None or schema.categories == case.categories
        assert case.dates is None or schema.dates == case.dates
        assert not case.left_out or case.left_out in schema.left_out
        assert re.search(case.said, " ".join(said))
        assert case.check is None or case.check(dataset)


def test_every_row_of_the_page_has_cases() -> None:
    rows = page_rows()
    assert [row for row in rows if not row.startswith(tuple(RULES))] == []
    assert [rule for rule in RULES if not any(row.startswith(rule) for row in rows)] == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_row_that_does_not_end_is_an_error(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'a,w\n1,"' + b"x\n" * 400_000
    monkeypatch.setattr(cut, "LONGEST_ROW", 300_000)
    case = fails({f"t.csv{suffix}": gzip.compress(text, 1) if suffix else text}, "")
    with pytest.raises(SourceError, match=r"the row at line 2 does not end within 300,000 bytes"):
        convert(case, tmp_path, [])
