"""The rows in the body of a request: JSON, CSV, or image files."""

import base64
import binascii
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tornado.httputil import HTTPFile, parse_body_arguments

from ...storage.format.arrays import IMAGE
from ...storage.format.schema import Schema

MOST_PROBLEMS = 20  # that are reported together
MISSING_COLUMN = "the column is missing; give it, or null if its value is not known"


@dataclass(frozen=True)
class Problem:
    """What is wrong with a request, or with one of its rows (from 0) and columns."""

    reason: str
    row: int | None = None
    column: str | None = None

    def of_request(self, rows: range) -> "Problem":
        """The problem of a row among those of several requests, as that of the request with these rows."""
        return self if self.row is None else replace(self, row=self.row - rows.start)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class RequestError(Exception):
    """A request that cannot be answered, with the HTTP status that says so."""

    def __init__(self, status: int, problems: Sequence[Problem]) -> None:
        super().__init__(problems[0].reason)
        self.status, self.problems = status, tuple(problems[:MOST_PROBLEMS])


@dataclass(frozen=True)
class GivenRow:
    """A row: the texts of its columns, as a CSV file would have them; its image file; and what identifies it."""

    texts: Mapping[str, str]
    image: bytes = b""
    id: Any = None


def parse_body(schema: Schema, content_type: str, body: bytes) -> list[GivenRow]:
    """The rows of a body. Raises RequestError."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("application/json", ""):
        rows = [_of_json(schema, row, number) for number, row in enumerate(_objects(body))]
    elif kind == "text/csv" and not schema.image:
        rows = [_of_texts(schema, row, number) for number, row in enumerate(_csv_rows(body))]
    elif schema.image and not schema.table and (kind.startswith("image/") or kind == "application/octet-stream"):
        rows = [(GivenRow({}, body), [])]
    elif schema.image and not schema.table and kind == "multipart/form-data":
        rows = [(GivenRow({}, file.body, file.filename), []) for file in _files(content_type, body)]
    else:
        raise RequestError(415, [Problem(f"the content type is '{kind}'; use {' or '.join(content_types(schema))}")])
    if problems := [problem for _, found in rows for problem in found]:
        raise RequestError(422, problems)
    if not rows:
        raise RequestError(422, [Problem("the request has no rows; send at least one")])
    return [row for row, _ in rows]


def content_types(schema: Schema) -> tuple[str, ...]:
    """The content types that a request may have."""
    if not schema.image:
        return "application/json", "text/csv"
    return ("application/json",) if schema.table else ("application/json", "image/*", "multipart/form-data")


def _objects(body: bytes) -> list[Any]:
    try:
        value = json.loads(body)
    except ValueError as error:  # also of text that is not UTF-8
        raise RequestError(400, [Problem(f"the body is not JSON: {error}")]) from None
    except RecursionError:
        raise RequestError(400, [Problem("the JSON is nested too deeply; send an object of plain values")]) from None
    return value if isinstance(value, list) else [value]


def _csv_rows(body: bytes) -> Iterator[dict[Any, Any]]:
    try:
        yield from csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError(400, [Problem(f"the body is not CSV in UTF-8: {error}")]) from None


def _files(content_type: str, body: bytes) -> list[HTTPFile]:
    files: dict[str, list[HTTPFile]] = {}
    try:
        parse_body_arguments(content_type, body, {}, files)
    except Exception as error:  # noqa: BLE001 - tornado raises several, and the body is at fault
        raise RequestError(400, [Problem(f"the body is not a form with files: {error}")]) from None
    return [file for several in files.values() for file in several]


Parsed = tuple[GivenRow, list[Problem]]


def _of_json(schema: Schema, row: Any, number: int) -> Parsed:
    if not isinstance(row, dict):
        return GivenRow({}), [Problem("a row must be an object of values by column name", number)]
    problems, texts = list[Problem](), dict[Any, Any]()
    tabular = schema.tabular
    for name in tabular.features:
        if name in row:
            text = _ids_text(row[name]) if schema.tokens else _text(row[name], tabular.categories.get(name, ()))
            if text is None:
                allowed = "a string, a list of token ids" if schema.tokens else "a number, a string"
                problems.append(Problem(f"the value must be {allowed} or null", number, name))
            texts[name] = text or ""
    image = b""
    if schema.image:
        try:
            given = row[IMAGE]
            image = base64.b64decode(given.partition(",")[2] if given.startswith("data:") else given, validate=True)
        except KeyError:
            problems.append(Problem("the image is missing", number, IMAGE))
        except (AttributeError, ValueError, binascii.Error):
            problems.append(Problem("the image must be a file in base64", number, IMAGE))
    of_texts, more = _of_texts(schema, texts, number)
    return GivenRow(of_texts.texts, image, row.get(schema.key)), problems + more


def _ids_text(value: Any) -> str | None:
    """The text of a sequence: itself, or token ids as a file would have them; None for anything else."""
    if isinstance(value, list) and all(type(id) is int for id in value):
        return " ".join(map(str, value))
    return value or "" if value is None or isinstance(value, str) else None


def _text(value: Any, categories: Sequence[str]) -> str | None:
    """The text of a value as a CSV file would have it; None for a value that has none."""
    match value:
        case None:
            return ""
        case bool():  # files spell it in several ways
            return next((known for known in categories if known.lower() == str(value).lower()), str(value))
        case str():
            return value
        case int() | float():
            return repr(value)
        case _:
            return None


def _of_texts(schema: Schema, row: Mapping[Any, Any], number: int) -> Parsed:
    features = schema.tabular.features if not schema.image or schema.table else ()
    problems = [Problem(MISSING_COLUMN, number, name) for name in features if row.get(name) is None]
    if None in row:
        problems.append(Problem("the row has more fields than the header", number))
    return GivenRow({name: row.get(name) or "" for name in features}, id=row.get(schema.key)), problems
