"""CSV is read as pandas reads it, as plain Python reads it by the same grammar, and alike in pieces of any size."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from foldstream.pipeline.csv import cut as csv_cut
from foldstream.pipeline.csv.dialect import padded
from foldstream.pipeline.csv.kernels import count_lines, find_rows
from foldstream.pipeline.csv.options import MISSING, CsvOptions
from foldstream.storage.errors import RowError
from hypothesis import given, settings
from hypothesis import strategies as st

from ..unit.test_messy_csv import Rows, cut_file, read_rows

PLAIN = CsvOptions(delimiter=",", header="first")
NOTATIONS = ["{}", "+{}", " {}", "{}\t", '"{}"', "{}e0", "{}E-3", "{}e+05", "00{}"]
NO_NUMBERS = ["", "x", "1_0", "0x1", "inf", "-nan", "1e999", "1 0", "1.2.3", "--1", "1e", "é", "true", '"1""0"']

whole_numbers = st.integers(-(2**53) + 1, 2**53 - 1).map(str)
decimals = st.floats(allow_nan=False, allow_infinity=False).map(repr)
shorter = st.decimals(-(10**6), 10**6, places=3).map(str)
bare = st.sampled_from(["5.", ".5", "-.25", "0", "-0", "7e2", "0.1000000000000000055511151231257827", "4.9e-324"])
notations = st.sampled_from(NOTATIONS)


def spell(number: str, notation: str) -> str:
    """A number in another notation, where that is one."""
    signed = number.startswith("-") and notation[0] in "+0"
    return number if signed or ("e" in number and "e" in notation.lower()) else notation.format(number)


numbers = st.builds(spell, st.one_of(whole_numbers, decimals, shorter, bare), notations)
names = st.text(st.sampled_from(list('ab,"\n\r#; é🎉x')), min_size=1, max_size=8).filter(
    lambda text: text not in MISSING
)
line_ends = st.sampled_from(["\n", "\r\n", "\r"])


def quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@st.composite
def tables(draw: st.DrawFn) -> str:
    """Names and numbers as someone might write them, one field of some tables no number."""
    columns = draw(st.integers(1, 3))
    rows = [[draw(names), *(draw(numbers) for _ in range(columns))] for _ in range(draw(st.integers(1, 6)))]
    rows = [[quote(name) if re.search('[,"\n\r]', name) or draw(st.booleans()) else name, *r] for name, *r in rows]
    if draw(st.integers(0, 3)) == 0:
        row, column = draw(st.integers(0, len(rows) - 1)), draw(st.integers(1, columns))
        rows[row][column] = draw(st.sampled_from(NO_NUMBERS))
    text = ""
    for fields in (["who", *"abc"[:columns]], *rows):
        blank = draw(st.sampled_from(["", "", "", "  ", "\t"]))
        text += (blank + draw(line_ends)) * draw(st.sampled_from([0, 0, 0, 1, 2])) + ",".join(fields) + draw(line_ends)
    return text if draw(st.booleans()) else text.rstrip("\r\n")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each case writes anew."""
    return tmp_path_factory.mktemp("csv") / "data.csv"


def read_cut(path: Path, options: CsvOptions, texts: list[str], size: int) -> Rows:
    """All rows of a file cut into ranges of `size` bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_cut, "PIECE_BYTES", size)
        return read_rows(path, options, texts, required=True)


@settings(max_examples=500, deadline=None)
@given(tables(), st.integers(8, 200))
def test_tables_are_read_as_pandas_reads_them(path: Path, text: str, size: int) -> None:
    path.write_bytes(text.encode())
    rows = read_cut(path, PLAIN, ["who"], size)
    frame = pd.read_csv(path, dtype={"who": str}, keep_default_na=False)
    keys = frame.pop("who").tolist()
    sound = all(kind.kind in "if" for kind in frame.dtypes) and np.isfinite(frame.to_numpy()).all()
    assert bool(rows.errors) != sound
    assert len(rows.numbers) + len(rows.errors) == len(frame)
    if sound:
        np.testing.assert_array_equal(rows.numbers, frame.to_numpy())
        assert rows.texts == [keys]


TOKENS = [*"0123456789.-+eE#; x\0é,\n\r", "\r\n", '"', '"1"', '",', "1.5", "NA", "9" * 17, "e-7"]
noise = st.lists(st.sampled_from(TOKENS), max_size=4).map("".join)
plain_fields = st.from_regex(r"[-+]?[0-9]{1,5}([.][0-9]{0,4})?([eE][-+]?[0-9]{1,2})?", fullmatch=True)
odd_fields = st.sampled_from(
    ['""', '"1"', '"a\n""b"', '"\r\n,"', " 7", "1 ", "-", ".", "1e5e", "9007199254740993", "0#"]
)
fields = st.one_of(plain_fields, plain_fields, plain_fields, odd_fields, noise)


@st.composite
def texts(draw: st.DrawFn, columns: int, delimiter: str = ",", decimal: str = ".") -> str:
    """Rows as they should be, and noise."""
    rows = st.lists(fields.map(lambda field: field.replace(".", decimal)), min_size=columns, max_size=columns)
    lines = st.builds(lambda row, end: delimiter.join(row) + end, rows, line_ends)
    return "".join(draw(st.lists(st.one_of(lines, lines, lines, noise), max_size=8)))


def split(text: str, delimiter: str, comment: str) -> list[tuple[int, str, list[tuple[int, str]]]]:
    """The rows of a text in plain Python: where one begins, what is wrong with it itself, and its fields."""
    rows, i, ends = [], 0, {delimiter, comment, "\r", "\n"}
    quoted = re.compile('"([^"]*(?:""[^"]*)*)"(?!")')
    while i < len(text):
        line = re.compile("[^\r\n]*").match(text, i)
        assert line
        if text[i] == comment or not line[0].strip(" \t"):
            i = line.end() + 1
            continue
        begin, error, fields = i, "", []
        while True:
            start, inner = i, ""
            if text[i : i + 1] == '"':
                within = quoted.match(text, i)
                if not within:
                    i, error = len(text), "never closed"
                    break
                start, inner, i = i + 1, within[1].replace('""', '"'), within.end()
                error = error or ("follows" if text[i : i + 1] not in {"", *ends} else "")
            stop = next((j for j in range(i, len(text)) if text[j] in ends), len(text))
            fields.append((start, inner + text[i:stop]))
            i = stop + 1
            if text[stop : stop + 1] != delimiter:
                line = re.compile("[^\r\n]*").match(text, stop)
                i = line.end() + 1 if line else i
                break
        rows.append((begin, error, fields))
    return rows


def value(field: str, decimal: str) -> float | str:
    """The number that a field is, NaN for one that no float64 holds; or what is wrong with it."""
    plain = field.strip(" \t\n\r\v\f")
    if plain in MISSING:
        return "missing"
    if decimal == "," and not re.fullmatch(r"[+-]?(\d+(,\d*)?|,\d+)([eE][+-]?\d+)?", plain, re.ASCII):
        return "number"
    plain = plain.replace(decimal, ".")
    try:
        number = float(plain)
    except ValueError:
        return "number"
    if not plain.isascii() or "_" in plain or not math.isfinite(number):
        return "number"
    return math.nan if re.fullmatch(r"[+-]?\d+", plain) and int(number) != int(plain) else number


Read = tuple[list[list[float]], list[str | None], list[tuple[int, str]]]


def read_plainly(text: str, delimiter: str, comment: str, decimal: str, named: bool, columns: int) -> Read:
    """Numbers, texts (of the first column if it is `named`) and errors (line, kind) of a text below its header."""
    numbers, kept, errors = [], [], []
    for begin, error, fields in split(text, delimiter, comment):
        wrong = [(begin, error)] if error else []
        if not wrong and len(fields) != columns:
            wrong = [(begin, "fields")]
        values = [] if wrong else [(start, value(field, decimal)) for start, field in fields[named:]]
        for kind in ("missing", "number"):
            wrong += [(start, kind) for start, number in values if number == kind]
        if not wrong and named and "\0" in fields[0][1]:
            wrong = [(fields[0][0], "NUL")]
        if wrong:
            errors.append((2 + len(re.findall("\r\n|\r|\n", text[: wrong[0][0]])), wrong[0][1]))
            continue
        numbers.append([number for _, number in values if not isinstance(number, str)])
        kept += [None if fields[0][1] in MISSING else fields[0][1]] if named else []
    return numbers, kept, errors


def kind_of(error: RowError) -> str:
    kinds = ("never closed", "follows", "fields", "missing", "NUL", "number")
    return next(kind for kind in kinds if kind in error.reason.rpartition("'")[2])


@settings(max_examples=500, deadline=None)
@given(
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([(",", "."), (";", "."), (";", ",")]),
    st.sampled_from(["", "#"]),
    st.data(),
)
def test_any_text_is_read_as_by_a_plain_reader(
    path: Path, columns: int, named: bool, marks: tuple[str, str], comment: str, data: st.DataObject
) -> None:
    columns += named
    delimiter, decimal = marks
    text = data.draw(texts(columns, delimiter, decimal), label="text")
    header = delimiter.join((["who"] * named + ["a", "b", "c"])[:columns])
    path.write_bytes(f"{header}\n{text}".encode())
    options = CsvOptions(delimiter=delimiter, decimal=decimal, comment=comment, header="first")
    numbers, kept, errors = read_plainly(text, delimiter, comment, decimal, named, columns)
    size, keys = data.draw(st.integers(1, 99)), ["who"] * named
    if len(cut_file(path, options)[0].header) > columns:  # all rows have one field more than the header
        assert not numbers
        return
    rows = read_cut(path, options, keys, size)
    assert sorted((error.line, kind_of(error)) for error in rows.errors) == sorted(errors)
    expected = np.array(numbers).reshape(-1, columns - named)
    assert rows.numbers.shape == expected.shape
    held = ~np.isnan(expected)
    assert rows.numbers[held].tobytes() == expected[held].tobytes()
    assert rows.texts == [kept] * named


@settings(max_examples=500, deadline=None)
@given(texts(2), st.integers(1, 60), st.sampled_from(["", "#"]), st.sampled_from(["", '"']))
def test_pieces_of_any_size_hold_the_same_rows(path: Path, text: str, size: int, comment: str, quote: str) -> None:
    raw = f"a,b\n0,0\n{text}".encode()
    path.write_bytes(raw)
    options = CsvOptions(delimiter=",", comment=comment, quote=quote, header="first")
    source, [whole] = cut_file(path, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_cut, "PIECE_BYTES", size)
        _, pieces = cut_file(path, options)
    begins = []
    for piece in (whole, *pieces):
        bounds = find_rows(padded(raw[piece.start : piece.stop]), source.dialect.marks(), len(raw))
        assert len(bounds) == piece.rows
        assert piece.line == 1 + count_lines(np.frombuffer(raw[: piece.start], np.uint8))
        begins.append(bounds[:, 0] + piece.start)
    assert np.concatenate(begins[1:]).tolist() == begins[0].tolist()
    assert [piece.stop for piece in pieces] == [*(piece.start for piece in pieces[1:]), len(raw)]
