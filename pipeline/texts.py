"""The kinds of sources behind one face: what was opened, and the reader of a piece of it."""

from dataclasses import asdict
from typing import Any

import numpy as np

from .csv_cut import CsvText, Piece
from .csv_dialect import Dialect
from .csv_rows import Columns, Numbers, RowReader
from .parquet import ParquetTable, TableReader

Text = CsvText | ParquetTable
Reader = RowReader | TableReader


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
