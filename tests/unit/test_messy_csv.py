"""Messy CSV: what pandas reads, or an error with its place; never silently other rows.

Every case is read whole and in tiny pieces, for ranges of a file are cut without knowing what stands before them.
"""

import bz2
import csv
import gzip
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from foldstream.pipeline.csv import cut as csv_cut
from foldstream.pipeline.csv import open as csv_open
from foldstream.pipeline.csv.cut import CsvTable, cut_ranges, cut_tasks, resolve_cuts
from foldstream.pipeline.csv.options import CsvOptions
from foldstream.pipeline.csv.rewrite import Rewriting, rewritten
from foldstream.pipeline.csv.row_batch import Columns, Numbers, Piece
from foldstream.pipeline.csv.rows import RowReader
from foldstream.pipeline.tables.readers import OpenTask, open_source
from foldstream.pipeline.tables.sources import describe_source
from foldstream.storage.errors import RowError, SourceError, UsageError

from ..conftest import convert_file
from .test_csv import read_all

Options = dict[str, Any]

LONG = "x" * 3_000_000
NOTED = {"comment": "#"}
LONG_BARS, SPACES, ESCAPES = {"delimiter": "||"}, {"delimiter": "whitespace"}, {"escape": "\\"}
NAMES, PYTHON = {"names": "a,b"}, {"engine": "python"}

READS = {
    "quoted line ends": ('who,a\n"x\ny",1\n"\n\n",2\n"p\r\nq",3\n', {}, {}),
    "quoted delimiters": ('who,a\n"x,y",1\n",",2\n', {}, {}),
    "doubled quotes": ('who,a\n"say ""no""",1\n"""",2\n"""x""",3\n', {}, {}),
    "quotes inside a plain field": ('who,a\n5" disk,1\nx""y,2\n', {}, {}),
    "a space before a quote": ('who,a\n "x",1\ny,2\n', {}, {}),
    "quoted numbers": ('who,a,b\nx,"1","2.5"\ny,"-3",4\n', {}, {}),
    "quoted names": ('"who","a ""1""","b\nc"\nx,1,2\n', {}, {}),
    "another quote": ("who,a\n'x,y',1\n", {"quote": "'"}, {"quotechar": "'"}),
    "no quote": ('who,a\n"x,1\ny",2\n', {"quote": ""}, {"quoting": 3}),
    "LF": ("who,a\nx,1\ny,2\n", {}, {}),
    "CRLF": ("who,a\r\nx,1\r\ny,2\r\n", {}, {}),
    "CR": ("who,a\rx,1\ry,2\r", {}, {}),
    "mixed line ends": ("who,a\r\nx,1\ry,2\nz,3\r\r\n\nw,4", {}, {}),
    "leading blank lines": ("\n\r\n\n  \nwho,a\n\nx,1\n", {}, {}),
    "blank lines between and behind": ("who,a\n\nx,1\n \t \n\r\ny,2\n\n\n  ", {}, {}),
    "no final line end": ("who,a\nx,1\ny,2", {}, {}),
    "a final CR": ("who,a\r\nx,1\r\ny,2\r", {}, {}),
    "UTF-8 with its mark": (b"\xef\xbb\xbfwho,a\n\xc3\xa9,1\n", {}, {}),
    "UTF-16, low byte first": ("\ufeffwho,a\né,1\nœ,2\n".encode("utf-16-le"), {}, {"encoding": "utf-16"}),
    "UTF-16, high byte first": ("\ufeffwho,a\né,1\nœ,2\n".encode("utf-16-be"), {}, {"encoding": "utf-16"}),
    "UTF-32": ("who,a\né,1\nœ,2\n".encode("utf-32"), {}, {"encoding": "utf-32"}),
    "Latin-1": ("who,größe\né,1\nü,2\n".encode("latin-1"), {"encoding": "latin-1"}, {"encoding": "latin-1"}),
    "Windows": ("who,a\n€,1\n".encode("cp1252"), {"encoding": "cp1252"}, {"encoding": "cp1252"}),
    "no header": ("1,2\n3,4\n", {}, {"header": None}),
    "a header of numbers": ("1,2\n3,4\n", {"header": "first"}, {}),
    "the header that pandas gives an array": ("0,1,2\n5.1,3.5,0\n4.9,3.0,1\n", {}, {}),
    "ascending numbers above others": ("1,5,9\n3,4,8\n", {}, {"header": None}),
    "decimal commas beside semicolons": ("a;b;q\n1,5;2,5;7\n2,5;3,5;8\n", {}, {"sep": ";", "decimal": ","}),
    "years that are data": ("2019,2020\n2021.5,1\n", {"header": "none"}, {"header": None}),
    "no header by option": ("x,2\ny,4\n", {"header": "none", "id": "0"}, {"header": None}),
    "one column": ("a\n1\n2\n\n3\n", {}, {}),
    "one row": ("a,b\n1,2\n", {}, {}),
    "tabs": ("who\ta\nx y\t1\n", {}, {"sep": "\t"}),
    "semicolons": ("who;a\nx,y;1\nz;2\n", {}, {"sep": ";"}),
    "bars": ("who|a\nx;y|1\nz|2\n", {}, {"sep": "|"}),
    "another delimiter": ("who:a\nx:1\n", {"delimiter": ":"}, {"sep": ":"}),
    "a long text": (f'who,a\nx,1\n"{LONG}\n",2\ny,3\n', {}, {}),
    "a long first text": (f"who,a\n{LONG[:400_000]},2\ny,3\n", {}, {}),
    "a long name": (f"who,{LONG[:300_000]}\nx,2\n", {}, {}),
    "up to 64 bits": ("a\n9223372036854775807\n-9223372036854775808\n", {}, {}),
    "beyond what a float holds": ("a\n9007199254740993\n-9007199254740993\n", {}, {}),
    "thousands": ('who,a\nx,"1,234"\ny,"12,345,678.5"\nz,7\n', {"thousands": ","}, {"thousands": ","}),
    "decimal commas seen": ("who;a\nx;1234,5\ny;-0,25\nz;7\n", {}, {"sep": ";", "decimal": ","}),
    "decimal commas given": ("who|a\nx|1,5\n", {"decimal": ","}, {"sep": "|", "decimal": ","}),
    "dots for thousands": (
        "who;a\nx;1.234,5\ny;1.234.567\n",
        {"thousands": ".", "decimal": ","},
        {"sep": ";", "thousands": ".", "decimal": ","},
    ),
    "spaces round numbers": ("who,a,b\nx, 1 ,\t2.5\ny,3  , 4\n", {}, {}),
    "spaces round texts": ("who,a\n x ,1\n", {}, {}),
    "signs": ("a,b\n+5,-0\n-5,+0.5\n", {}, {}),
    "exponents": ("a,b\n1e3,1E-3\n2.5e+2,1e-400\n.5e1,5.e1\n", {}, {}),
    "bare points": ("a,b\n5.,.5\n-.5,-5.\n", {}, {}),
    "leading zeros": ("a,b\n007,00.5\n0,0\n", {}, {}),
    "many digits": ("a\n0.1000000000000000055511151231257827\n123456789012345678901234567890e-20\n", {}, {}),
    "comment lines": ("# made\nwho,a\n# then, more\nx,1\n#\ny,2\n", NOTED, NOTED),
    "comments behind rows": ("who,a# names, too\nx,1# one\ny,2#,2\nz,3\n", NOTED, NOTED),
    "comments with quotes": ('who,a\nx,1# "\ny,2\n#"\n"#z",3\n', NOTED, NOTED),
    "leading comments seen": ("# made by hand\n# in 2026; again\nwho;a\nx;1\ny;2\n", {}, {"sep": ";", "comment": "#"}),
    "a leading # that is a name": ("#,who,a\n1,x,2\n3,y,4\n", {}, {}),
    "a # in a text below leading comments": ("# made\na,who\n1,x#1\n2,y\n", {}, {"skiprows": 1}),
    "two columns of one name": ("a,b,a,a,a.1\n1,2,3,4,5\n", {}, {}),
    "lines to skip": ('Made "by hand\n\na,b\n1,2\n3,4\n', {"skip_lines": 2}, {"skiprows": 2}),
    "lines to skip above rows": ("x\r\n1,2\r\n3,4\r\n", {"skip_lines": 1}, {"skiprows": 1, "header": None}),
    "Excel's delimiter": ("sep=;\r\na;b\r\n1,5;2\r\n", {}, {"skiprows": 1, "sep": ";", "decimal": ","}),
    "given names": ("1,2\n3,4\n", NAMES, {"names": ["a", "b"]}),
    "names instead of a header": ("x,y\n3,4\n", {**NAMES, "header": "first"}, {"names": ["a", "b"], "header": 0}),
    "long delimiters": ("who||a\nx, y|z||1\n\ny||2\nz||3\n", LONG_BARS, {"sep": r"\|\|", **PYTHON}),
    "a delimiter beyond ASCII": ("who§a\nx,y§1\nö§2\n", {"delimiter": "§"}, {"sep": "§", **PYTHON}),
    "runs of spaces": ("  who    a   b\n x    1.5  2\n  yy 10.25 3  \n\n z 1    4\n", {}, {"sep": r"\s+"}),
    "runs of spaces and quotes": ('who a\n"x  y"   1\n  "" 2\n'.replace('""', '"p"'), SPACES, {"sep": r"\s+"}),
    "numbers between spaces": ("1.0  2.5\n3.0 40.5\n", {}, {"sep": r"\s+", "header": None}),
    "escaped quotes": ('who,a\n"say \\"no\\", x",1\nx\\,y,2\n"a\\\\",3\n', ESCAPES, {"escapechar": "\\"}),
    "escapes without quotes": ("who;a\nx\\;y;1\nz;2\n", {**ESCAPES, "quote": ""}, {"sep": ";", "escapechar": "\\"}),
    "missing numbers": ("a,b\n1,\nNA,2\nnan,4\n", {}, {}),
}  # fmt: skip
"""Text, how it is converted, and how pandas is told the same."""

REQUIRED: Options = {"missing": "error"}
INVALID = {
    "too few fields": ("a,b\n1,2\n3\n", {}, "line 3: the row has 1 fields but the header has 2"),
    "too many fields": ("a,b\n1,2\n3,4,5\n", {}, "line 3: the row has 3 fields but the header has 2"),
    "too many below line ends in quotes": ('a,who\n1,"\r\n\r"\n3,4,5\n', {}, "line 5: the row has 3 fields"),
    "too few names": ("1,2\n", {"names": "a"}, "--names gives 1 names, but the rows have 2 fields"),
    "fewer lines than to skip": ("a,b\n1,2\n", {"skip_lines": 9}, "has only 3 lines, but --skip-lines skips 9"),
    "a fault below skipped lines": ('t "x\n\na,b\n1,2\n1,x\n', {"skip_lines": 2}, "line 5, column 'b': 'x' is not a"),
    "a fault between long delimiters": (
        "x\na||b\n1||2\n\n1\n",
        {**LONG_BARS, "skip_lines": 1},
        "line 5: the row has 1",
    ),
    "text behind a quote between spaces": ('a b\n1 "x"y\n', SPACES, "line 2: text follows the closing quote of field"),
    "a quote left open between spaces": ('a b\n1 2\n3 "x\n', SPACES, "line 3: a quote is never closed"),
    "thousands or decimals": ("a\tb\n1,100\t2\n2,250\t3\n", {}, "may be a decimal mark or separate thousands"),
    "years above fractions": ("2019,2020\n1.5,2.5\n3.0,0.5\n", {}, "may be a header or data; use --header first or"),
    "the header again": ("a,b\n1,2\na,b\n3,4\n", {}, "line 3, column 'a': 'a' is not a number"),
    "a NUL in a number": ("a,b\n1,2\n3,4\0\n", {}, "line 3, column 'b': '4\0' is not a number"),
    "a NUL in a text": ("a,who\n1,x\n3,y\0z\n", {}, "line 3, column 'who': the text contains a NUL byte"),
    "a quote left open": ('a,who\n1,x\n2,"y\n3,z\n', {}, "line 3: a quote is never closed"),
    "a quote left open in the header": ('a,"b\n1,2\n', {}, "has a header but no rows"),
    "text behind a quote": ('a,who\n1,"x"y\n', {}, "line 2: text follows the closing quote of field 2"),
    "a space behind a quote": ('a,who\n1,"x" \n', {}, "line 2: text follows the closing quote of field 2"),
    "thousands that nobody asked for": ('a,b\n1,2\n"1,234",4\n', {}, "line 3, column 'a': '1,234' is not a number"),
    "only thousands": ('a,b\n"1,234",4\n', {}, "line 2, column 'a': '1,234' is not a number"),
    "thousands in decimals": ('a,b\n"1.5,0",4\n', {"thousands": ","}, "line 2, column 'a': '1.5,0' is not a number"),
    "thousands twice": ('a,b\n"1,,0",4\n', {"thousands": ","}, "line 2, column 'a': '1,,0' is not a number"),
    "a point among decimal commas": ("a;b\n1,5;2\n1.5;2\n", {"decimal": ","}, "line 3, column 'a': '1.5' is not"),
    "thousands among decimal commas": ("a;b\n1,5;2\n1.234,5;2\n", {}, "line 3, column 'a': '1.234,5' is not a number"),
    "infinity": ("a,b\n1,inf\n", {}, "line 2, column 'b': 'inf' is not a finite number"),
    "minus infinity": ("a,b\n1,2\n1,-Infinity\n", {}, "line 3, column 'b': '-Infinity' is not a finite number"),
    "nan": ("a,b\n1,2\n1,nan\n", REQUIRED, "line 3, column 'b': the value is missing"),
    "empty": ("a,b\n1,2\n,3\n", REQUIRED, "line 3, column 'a': the value is missing"),
    "empty quotes": ('a\n1\n""\n', REQUIRED, "line 3, column 'a': the value is missing"),
    "a delimiter behind some rows": ("a,b\n1,2,\n3,4\n", {}, "line 2: the row has 3 fields but the header has 2"),
    "1e400": ("a,b\n1,2\n1,1e400\n", {}, "line 3, column 'b': '1e400' is not a finite number"),
    "1_000": ("a,b\n1,2\n1,1_000\n", {}, "line 3, column 'b': '1_000' is not a number"),
    "only 1_000": ("a,b\n1,1_000\n", {}, "line 2, column 'b': '1_000' is not a number"),
    "0x10": ("a,b\n1,0x10\n", {}, "line 2, column 'b': '0x10' is not a number"),
    "hexadecimal letters": ("a,b\n1,2\n1,ff\n", {}, "line 3, column 'b': 'ff' is not a number"),
    "two signs": ("a,b\n1,2\n1,--5\n", {}, "line 3, column 'b': '--5' is not a number"),
    "a space in a number": ("a,b\n1,2\n1,1 000\n", {}, "line 3, column 'b': '1 000' is not a number"),
    "a space without a break": ("a,b\n1,2\n1,\u00a05\n", {}, "line 3, column 'b': '\u00a05' is not a number"),
    "digits of other scripts": ("a,b\n1,2\n1,٣\n", {}, "line 3, column 'b': '٣' is not a number"),
    "a comment that nobody asked for": ("a,b\n1,2\n1,2# x\n", {}, "line 3, column 'b': '2# x' is not a number"),
    "a comment behind spaces": ("a,b\n1,2\n # x\n", NOTED, "line 3: the row has 1 fields but the header has 2"),
    "a comment line in the middle": ("# x\na,b\n1,2\n# y\n", {}, "line 4: the row has 1 fields but the header has 2"),
    "Latin-1 in a text": ("a,who\n1,x\n2,\xe9\n".encode("latin-1"), {}, "line 3, column 'who': the text is not UTF-8"),
    "Latin-1 in a category": ("a,b\n1,\xe9\n".encode("latin-1"), {}, "line 2, column 'b': the text is not UTF-8"),
    "Latin-1 in a number": ("a,b\n1,2\n1,\xe9\n".encode("latin-1"), {}, "line 3, column 'b'"),
    "Latin-1 in the header": ("a,\xe9\n1,2\n".encode("latin-1"), {}, "line 1: the header is not UTF-8"),
    "not UTF-16 at the end": ("\ufeffa,b\n1,2\n".encode("utf-16-le")[:-1], {}, "is not valid utf-16"),
    "zero bytes": ("", {}, "is empty"),
    "blank lines alone": ("\n\r\n  \n", {}, "is empty"),
    "a mark and nothing else": (b"\xef\xbb\xbf", {}, "is empty"),
    "comments alone": ("# x\n# y", NOTED, "is empty"),
    "a header alone": ("a,b\n", {}, "has a header but no rows"),
    "a header and comments": ("a,b\n# 1,2\n", NOTED, "has a header but no rows"),
}
"""Text, how it is converted, and a part of the message."""


@dataclass(frozen=True)
class Rows:
    """Values of the number columns (rows, columns), the texts of the others, and the invalid rows."""

    numbers: np.ndarray
    texts: list[list[str | None]]
    errors: list[RowError]


def write(text: str | bytes, path: Path) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def cut_file(path: Path, options: CsvOptions) -> tuple[CsvTable, Sequence[Piece]]:
    """Open and cut a file without writing a dataset."""
    [opened] = open_source(OpenTask(describe_source(str(path)), options, str(path.with_suffix(".unpacked"))))
    table = opened.table
    assert isinstance(table, CsvTable)
    if opened.pieces is not None:
        return table, opened.pieces
    return table, resolve_cuts(table, [cut for task in cut_tasks(table) for cut in cut_ranges(task)])


def read_rows(
    path: Path, options: CsvOptions, texts: Sequence[str] = (), dtype: str = "float64", required: bool = False
) -> Rows:
    """All rows of a file, without writing a dataset; some at a time. With `required`, no number may be missing."""
    table, pieces = cut_file(path, options)
    features = tuple(name for name in table.header if name not in texts)
    values, found = [np.zeros((0, len(features)), dtype)], Rows(np.zeros(0), [[] for _ in texts], [])
    for piece in pieces:
        reader = RowReader(table, piece, Columns(features, tuple(texts)), Numbers(dtype), required)
        rows = 0
        while not reader.ended:
            x = np.empty((max(3, piece.rows // 4), len(features)), dtype)
            batch = reader.read(x)
            values.append(x[: batch.rows])
            found.errors.extend(batch.errors)
            for column, more in zip(found.texts, batch.texts, strict=True):
                column.extend(more.to_pylist())
            rows += batch.rows + len(batch.errors)
        assert rows == piece.rows, "as many rows were counted as are read"
    return replace(found, numbers=np.concatenate(values))


def split_options(text: str | bytes, options: Options) -> tuple[CsvOptions, Options]:
    """Options of the dialect, and those of the conversion: a column who is the id."""
    raw = (text.encode() if isinstance(text, str) else text).replace(b"\0", b"")
    own: Options = {"id": "who"} if b"who" in raw else {}
    own |= {name: options[name] for name in ("id", "missing") if name in options}
    return CsvOptions(**{name: value for name, value in options.items() if name not in own}), own


def read_with_pandas(path: Path, own: Options, same: Options) -> tuple[list[str], pd.DataFrame]:
    """The texts of the id column, and the others."""
    frame = cast(pd.DataFrame, pd.read_csv(path, **same))
    frame.columns = frame.columns.map(str)
    keys = frame.pop(own["id"]).tolist() if "id" in own else []
    return keys, frame


def assert_same(x: np.ndarray, frame: pd.DataFrame) -> None:
    expected = frame.to_numpy()
    np.testing.assert_array_equal(x, expected.astype(x.dtype))
    if x.dtype != np.float32:  # which rounds fractions
        np.testing.assert_array_equal(x.astype(expected.dtype), expected)


@pytest.mark.parametrize(("text", "options", "same"), READS.values(), ids=READS)
def test_what_pandas_reads_is_converted(text: str | bytes, options: Options, same: Options, tmp_path: Path) -> None:
    path = write(text, tmp_path / "data.csv")
    dialect, own = split_options(text, options)
    keys, frame = read_with_pandas(path, own, same)
    dataset = convert_file(path, tmp_path / "out", csv=dialect, **own)
    rows = read_all(dataset)
    assert list(dataset.schema.features) == list(frame.columns)
    assert_same(rows["x"].reshape(len(rows["x"]), -1), frame)
    assert [bytes(key).rstrip(b"\0").decode() for key in rows.get("key", [])] == keys


@pytest.mark.parametrize(("text", "options", "same"), READS.values(), ids=READS)
def test_pieces_of_any_size_are_what_pandas_reads(
    text: str | bytes, options: Options, same: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(text, tmp_path / "data.csv")
    dialect, own = split_options(text, options)
    keys, frame = read_with_pandas(path, own, same)
    dtype = "int64" if all(kind.kind == "i" for kind in frame.dtypes) else "float64"
    texts = [own["id"]] if "id" in own else []
    for size in (1, 7, 64):
        monkeypatch.setattr(csv_cut, "PIECE_BYTES", max(size, len(text) // 500))
        monkeypatch.setattr(csv_open, "PIECE_BYTES", max(8, size, len(text) // 500))
        rows = read_rows(path, dialect, texts, dtype)
        assert not rows.errors
        assert_same(rows.numbers, frame)
        assert rows.texts == [keys] * len(texts)


@pytest.mark.parametrize(("text", "options", "message"), INVALID.values(), ids=INVALID)
def test_what_is_no_table_is_refused_with_its_place(
    text: str | bytes, options: Options, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(text, tmp_path / "data.csv")
    dialect, own = split_options(text, options)
    for size in (1 << 20, 1, 7, 64):
        monkeypatch.setattr(csv_cut, "PIECE_BYTES", size)
        monkeypatch.setattr(csv_open, "PIECE_BYTES", max(8, size))
        with pytest.raises(SourceError) as caught:
            convert_file(path, tmp_path / "out", csv=dialect, **own)
        assert message in str(caught.value)
        assert str(path) in str(caught.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {"decimal": ","}, "must all differ"),
        ("a,b\n1,2\n", {"thousands": "."}, "must all differ"),
        ("a,b\n1,2\n", {"encoding": "latin-one"}, "--encoding latin-one: unknown encoding"),
        ("a\n99999999999999999999\n", {}, "no dtype can store 99999999999999999999"),
        ("a\n9223372036854775808\n-9223372036854775809\n", {}, "no dtype can store -9223372036854775809"),
        ("a,b\n9007199254740993,0.5\n", {}, "no dtype can store 9007199254740993"),
    ],
)
def test_what_cannot_be_meant_or_held_is_refused(text: str, options: Options, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert_file(write(text, tmp_path / "data.csv"), tmp_path / "out", csv=CsvOptions(**options))
    assert message in str(caught.value)


def texts_of(rows: list[list[str]], way: Rewriting) -> str:
    """Rows as a text that has to be rewritten: every second field is quoted, others are escaped."""
    lines = []
    for number, row in enumerate(rows):
        fields = []
        for column, field in enumerate(row):
            if way.escape:
                field = re.sub(r'([\\",; \n|§])', r"\\\1", field)
            if (number + column) % 2 or not way.escape:
                field = '"' + (field if way.escape else field.replace('"', '""')) + '"'
            fields.append(field)
        lines.append((way.delimiter or "  \t ").join(fields))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("way", [Rewriting("||"), Rewriting("§"), Rewriting(""), Rewriting(";", escape="\\")], ids=str)
def test_rewritten_text_has_the_same_fields_at_any_cut(way: Rewriting) -> None:
    draws = np.random.default_rng(1)
    letters = np.array(list('ab1,;"\\ |\n§\x1f'))
    rows = [["".join(draws.choice(letters, size)) + "x" for size in draws.integers(0, 6, 3)] for _ in range(200)]
    text = texts_of(rows, way).encode()
    for size in (1, 5, 10_000):
        blocks = [text[at : at + size] for at in range(0, len(text), size)]
        plain = b"".join(rewritten(blocks, way)).decode()
        assert plain.count("\n") == text.count(b"\n")
        assert list(csv.reader(io.StringIO(plain, newline=""), delimiter=way.plain_delimiter)) == rows


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_what_is_compressed_and_cut_short_is_refused(suffix: str, tmp_path: Path) -> None:
    text = b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(20_000))
    packed = (gzip if suffix == ".gz" else bz2).compress(text)
    whole = write(packed, tmp_path / f"whole.csv{suffix}")
    assert_same(read_rows(whole, CsvOptions()).numbers, pd.read_csv(whole))
    for length in (10, len(packed) // 2, len(packed) - 1):
        cut = write(packed[:length], tmp_path / f"cut.csv{suffix}")
        with pytest.raises(SourceError, match=rf"cut.csv{suffix} is not a complete {suffix} file"):
            convert_file(cut, tmp_path / "out")


def test_errors_of_a_packed_file_are_named_with_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_open, "PIECE_BYTES", 16)
    text = b'a,who\n1,"x\n\n"\n' + b"\n" * 100 + b"2,y\r\n" + b"\n" * 50 + b"three,z\n"
    with pytest.raises(SourceError, match="line 156, column 'a': 'three' is not a number"):
        convert_file(write(gzip.compress(text), tmp_path / "data.csv.gz"), tmp_path / "out", id="who")
