"""The kinds of sources behind one face: what was opened, and the reader of a piece of it."""

from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from ...storage.format import Source
from ..csv.cut import CsvText
from ..csv.dialect import Dialect
from ..csv.open import open_text
from ..csv.options import CsvOptions
from ..csv.row_batch import Columns, Numbers, Piece
from ..csv.rows import RowReader
from .parquet import ParquetTable, TableReader, open_table
from .sources import PARQUET

Text = CsvText | ParquetTable
Reader = RowReader | TableReader


@dataclass(frozen=True)
class OpenTask:
    """Open `source`; one that has to be unpacked goes to the file `unpacked`."""

    source: Source
    options: CsvOptions
    unpacked: str


@dataclass(frozen=True)
class OpenedText:
    """A text, its pieces if they are known already, and the fields of its first rows."""

    text: Text
    pieces: tuple[Piece, ...] | None
    sample: list[list[str]]


def open_source(task: OpenTask) -> OpenedText:
    """Carry out a task. Raises SourceError for a file that is not what its name says, or has no rows."""
    if PurePath(task.source.path).suffix.lower() == PARQUET:
        return OpenedText(*open_table(task.source))
    return OpenedText(*open_text(task.source, task.options, task.unpacked))


def open_reader(
    text: Text, piece: Piece, columns: Columns, numbers: Numbers, fills: np.ndarray | None = None, skip: int = 0
) -> Reader:
    """A reader of the rows of a piece behind the first `skip`. `fills` (features,) stand where a number is missing;
    without them a missing number is a fault."""
    if isinstance(text, ParquetTable):
        return TableReader(text, piece, columns, numbers, fills, skip)
    return RowReader(text, piece, columns, numbers, fills, skip)


def text_to_json(text: Text) -> dict[str, Any]:
    """A text as JSON, with its kind."""
    return {"kind": type(text).__name__, **asdict(text)}


def text_from_json(value: dict[str, Any]) -> Text:
    """Read back what `text_to_json` gave."""
    fields = {**value, "header": tuple(value["header"])}
    if fields.pop("kind") == ParquetTable.__name__:
        return ParquetTable(**fields)
    return CsvText(**{**fields, "dialect": Dialect.from_json(fields["dialect"])})
