"""The dialect of a CSV file: delimiter, quote, header, encoding, comment, decimal point, missing-value markers.

Whatever the user does not specify is detected from the file's first rows and reported.
"""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Self

import numpy as np

from ...storage.errors import SourceError, UsageError
from .kernels import find_rows
from .names import unique_names
from .options import MISSING, CsvOptions

DELIMITERS = ",\t;|"
OTHERS = ": ^~/&!*=\x01\x1f"  # that may separate fields, but are not detected
NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "space"}
UNNAMED = "Unnamed: "  # and the position, counted from 0
SAMPLE_ROWS = 100
BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
MARK_OF_UTF8 = b"\xef\xbb\xbf"
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
WHOLE = re.compile(r"[+-]?\d+")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
CURRENCY = re.compile(r"^[€$£¥%]\s?|\s?[€$£¥%]$")
COMMA_NUMBER = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")


@dataclass(frozen=True)
class Dialect:
    """The dialect of one file. `comment` and `thousands` are empty if the file has none. `written` describes the
    delimiter of the source if the text had to be rewritten, `named` whether the columns have given names."""

    delimiter: str = ","
    quote: str = '"'
    comment: str = ""
    decimal: str = "."
    thousands: str = ""
    missing: tuple[str, ...] = MISSING
    encoding: str = "utf-8"
    header: bool = True
    written: str = ""
    named: bool = False

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "missing": tuple(value["missing"])})

    def marks(self) -> np.ndarray:
        """The bytes that `kernels.py` searches for, (4,) int64: delimiter, quote, comment, decimal point."""
        return np.array([ord(m) if m else -1 for m in (self.delimiter, self.quote, self.comment, self.decimal)])

    def describe(self) -> str:
        """A description for the console."""
        delimiter = self.written or f"delimiter {NAMES.get(self.delimiter, self.delimiter)}"
        parts = [delimiter, f"encoding {self.encoding}"]
        unnamed = "no header: columns named " + ("by --names" if self.named else "0, 1, 2, …")
        parts.append("header in the first row" if self.header else unnamed)
        if self.decimal != ".":
            parts.append(f"decimal point '{self.decimal}'")
        if self.comment:
            parts.append(f"comments start with '{self.comment}'")
        return ", ".join(parts)


def padded(data: bytes) -> np.ndarray:
    """Text as `kernels.py` expects it: with a line end appended, (length + 1,) uint8."""
    return np.frombuffer(data + b"\n", np.uint8)


def find_encoding(head: bytes, options: CsvOptions) -> str:
    """The encoding of a file: the one set by the user, the one given by its byte order mark, or UTF-8.

    Raises UsageError for an encoding that Python does not know.
    """
    if options.encoding:
        try:
            return _codec_name(options.encoding)
        except LookupError:
            raise UsageError(f"--encoding {options.encoding}: unknown encoding; try utf-8, utf-16 or latin-1") from None
    marked = [name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)]
    return marked[0] if marked else "utf-8"


def _codec_name(name: str) -> str:
    codec = codecs.lookup(name).name
    return "utf-8" if codec in ("utf-8-sig", "ascii") else codec


def find_dialect(path: str, head: bytes, encoding: str, options: CsvOptions) -> Dialect:
    """Detect the dialect from the first rows of a text, given as UTF-8 without a byte order mark.

    Raises SourceError for a text without rows, and UsageError if the special characters are not distinct.
    """
    comment = options.comment if options.comment is not None else ""
    dialect = Dialect(
        quote=options.quote,
        comment=comment,
        thousands=options.thousands,
        missing=options.missing,
        encoding=encoding,
    )
    delimiter = options.delimiter or find_delimiter(path, head, dialect)
    dialect = replace(dialect, delimiter=delimiter, decimal=options.decimal or ".")
    if options.comment is None and head.lstrip(b"\r\n \t").startswith(b"#") and _comments_lead(head, dialect):
        dialect = replace(dialect, comment="#")
    rows = sample_rows(head, dialect)
    if not rows:
        raise SourceError(f"{path} is empty; provide a CSV file with a header and rows")
    if options.decimal is None and delimiter != "," and _has_decimal_commas(path, rows, options):
        dialect = replace(dialect, decimal=",")
    marks = [m for m in (dialect.delimiter, dialect.quote, dialect.decimal, dialect.comment) if m]
    # Inside quotes, the delimiter may also separate thousands.
    if len(set(marks)) < len(marks) or dialect.thousands in marks[1:]:
        raise UsageError(
            f"{path}: the delimiter '{dialect.delimiter}', quote '{dialect.quote}', decimal '{dialect.decimal}', "
            f"comment '{dialect.comment}' and thousands '{dialect.thousands}' characters must all differ; set them "
            "with --delimiter, --quote, --decimal, --comment and --thousands"
        )
    found = options.header == "auto" and not options.names and _has_header(path, rows, dialect)
    return replace(dialect, header=options.header == "first" or found, named=bool(options.names))


def sample_rows(head: bytes, dialect: Dialect, most: int = SAMPLE_ROWS) -> list[list[str]]:
    """The fields of the first complete rows in `head`."""
    bounds = find_rows(padded(head), dialect.marks(), most).tolist()
    if len(bounds) > 1 and not 0 <= bounds[-1][1] <= len(head):
        bounds.pop()  # it may be truncated
    return [split_row(head[begin:end] if end >= 0 else head[begin:], dialect) for begin, end in bounds]


def split_row(row: bytes, dialect: Dialect) -> list[str]:
    """Split one row into its fields."""
    text = row.decode(errors="surrogateescape")
    quote = re.escape(dialect.quote)
    quoted = re.compile(f"{quote}([^{quote}]*(?:{quote}{quote}[^{quote}]*)*)(?:{quote}|$)") if quote else None
    plain = re.compile(f"[^{re.escape(dialect.delimiter + dialect.comment)}\r\n]*")
    fields, at = [], 0
    while True:
        within = quoted.match(text, at) if quoted else None
        rest = plain.match(text, within.end() if within else at)
        assert rest
        inner = within[1].replace(2 * dialect.quote, dialect.quote) if within else ""
        fields.append(inner + rest[0])
        at = rest.end() + 1
        if text[at - 1 : at] != dialect.delimiter:
            return fields


def find_delimiter(path: str, head: bytes, dialect: Dialect) -> str:
    """The candidate for which most rows have as many fields as the header, or at least as one another, and the most."""
    best, most = ",", (False, 1)
    names = [suffix.lower() for suffix in PurePath(path).suffixes]
    candidates = "\t" + DELIMITERS if ".tsv" in names else DELIMITERS
    for candidate in candidates:
        rows = sample_rows(head, replace(dialect, delimiter=candidate), 20)
        counts = [len(row) for row in rows if not row[0].startswith("#")]  # they may be comments
        common = max(set(counts), key=counts.count, default=0)
        as_header = bool(counts) and counts[0] == common
        found = as_header, common
        if common > 1 and found > most and counts.count(common) > (0.5 if as_header else 0.8) * len(counts):
            best, most = candidate, found
    if most[1] == 1 and all(len(row) == 1 for row in sample_rows(head, replace(dialect, delimiter=best), 1)):
        _check_single(path, head, dialect)
    return best


def _check_single(path: str, head: bytes, dialect: Dialect) -> None:
    """Raise SourceError if the rows evidently have several fields although no delimiter was found."""
    for mark in DELIMITERS + OTHERS:
        rows = sample_rows(head, replace(dialect, delimiter=mark), 20)
        runs = mark == " " and any(not field for row in rows for field in row)
        if mark == " ":
            rows = [[field for field in row if field.strip()] for row in rows]
        if not _seem_separate(rows, mark):
            continue
        name = NAMES.get(mark, f"'{mark}'" if mark.isprintable() else repr(mark))
        remedy = f"use --delimiter {'' if mark.isprintable() else '$'}{mark!r}"
        if runs:
            remedy = "use --delimiter whitespace"
        raise SourceError(
            f"{path}: no delimiter was found, but most rows have several fields if {name} separates them; {remedy}, or "
            "use --delimiter , if the file has a single column"
        )


def _seem_separate(rows: Sequence[Sequence[str]], mark: str) -> bool:
    """Whether a mark evidently separates the fields of rows: the usual ones if the header and half of the rows have it;
    others if it gives as many fields as in the header, and more than two or numbers."""
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    header, below = rows[0], rows[1:]
    if mark in DELIMITERS:
        return 2 * sum(len(row) > 1 for row in below) >= len(below)
    alike = [row for row in below if len(row) == len(header)]
    if not alike or len(alike) < 0.9 * len(below):
        return False
    if mark != " " and len(header) > 2:
        return True
    return any(all(NUMBER.fullmatch(field) for field in column) for column in zip(*alike, strict=True))


def _comments_lead(head: bytes, dialect: Dialect) -> bool:
    """Whether the lines that begin with # are comments: their numbers of fields differ from those of the rows."""
    rows = sample_rows(head, dialect)
    marked = [len(row) for row in rows if row[0].startswith("#")]
    others = {len(row) for row in rows if not row[0].startswith("#")}
    return bool(others) and (len(others) == 1 and any(count not in others for count in marked))


def _has_decimal_commas(path: str, rows: Sequence[Sequence[str]], options: CsvOptions) -> bool:
    """Whether commas are decimal marks. Raises SourceError if they may as well separate thousands."""
    fields = [field.strip() for row in rows[1:] for field in row]
    found = [field for field in fields if COMMA_NUMBER.fullmatch(field)]
    amounts = (CURRENCY.sub("", field) for field in fields if CURRENCY.search(field))
    found += [field for field in amounts if COMMA_NUMBER.fullmatch(field) and not THOUSANDS.fullmatch(field)]
    if not found or options.thousands == "," or any(re.fullmatch(r"-?\d+\.\d+", field) for field in fields):
        return False
    if all(THOUSANDS.fullmatch(field) for field in found):
        raise SourceError(
            f"{path}: the comma in {found[0]} may be a decimal mark or separate thousands; use --decimal , or "
            "--thousands ,"
        )
    return True


def is_number(field: str, dialect: Dialect) -> bool:
    """Whether a field is a number."""
    plain = field.replace(dialect.thousands, "") if dialect.thousands else field
    return NUMBER.fullmatch(plain.replace(dialect.decimal, ".")) is not None


def _has_header(path: str, rows: Sequence[Sequence[str]], dialect: Dialect) -> bool:
    """Whether the first row is a header: it is not all numbers, or it is 0, 1, 2, …, as pandas names columns.

    Raises SourceError for other numbers that may well be names: ascending integers, such as years, above a column whose
    numbers all have fractions.
    """
    first, below = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    if not all(is_number(field, dialect) for field in first):
        return True
    if len(first) > 1 and [field.strip() for field in first] == [str(position) for position in range(len(first))]:
        return True
    if not below or not all(WHOLE.fullmatch(field.strip()) for field in first):
        return False
    names = [int(field) for field in first]
    ascending = len(names) > 1 and all(one < other for one, other in pairwise(names))
    if ascending and any(all(dialect.decimal in field for field in column) for column in zip(*below, strict=True)):
        raise SourceError(
            f"{path}: the first row ({', '.join(first[:4])}{', …' * (len(first) > 4)}) may be a header or data; use "
            "--header first or --header none"
        )
    return False


def column_names(
    path: str, row: Sequence[str], line: int, rows: Sequence[Sequence[str]], given: Sequence[str] = ()
) -> tuple[str, ...]:
    """The names of the columns of a header above `rows`, or those given instead.

    A column without a name is called as pandas does, `Unnamed: 2`, and so is one that only the rows have: the last if
    they all end with a delimiter, the first if they have names of their own, as R writes them. Raises SourceError for
    names that are not UTF-8, or whose number is not that of the columns.
    """
    if given and len(given) != len(row):
        raise SourceError(
            f"{path}: --names gives {len(given):,} names, but the rows have {len(row):,} fields; name all"
        )
    names = [name if name.strip() else f"{UNNAMED}{position}" for position, name in enumerate(given or row)]
    if any("\udc80" <= letter <= "\udcff" for name in names for letter in name):
        raise SourceError(f"{path}, line {line}: the header is not UTF-8; set --encoding, e.g. latin-1")
    if rows and not given and {len(one) for one in rows} == {len(row) + 1}:
        if not any(one[-1].strip() for one in rows):
            names.append(f"{UNNAMED}{len(row)}")
        elif len(rows) > 1 and len({one[0] for one in rows}) == len(rows):
            names.insert(0, f"{UNNAMED}0")
    return unique_names(names)
