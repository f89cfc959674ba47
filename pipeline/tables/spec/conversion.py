"""The specification of a dataset, decided before anything is written: schema, layout, and the pieces of each shard.

Requests and findings in, a spec out. The spec is stored as JSON, so that an interrupted conversion resumes with the
same decisions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ....storage.errors import UsageError
from ....storage.format.layout import Layout, choose_layout
from ....storage.format.schema import Schema
from ...csv.row_batch import Columns, Piece, Rounding
from ...target.beside import widened
from ..findings import Findings
from ..options import FLOATS
from ..readers import SourceTable, table_from_json, table_to_json
from .columns import features_beside, index_columns
from .free_text import find_free_text, without
from .request import ConvertRequest
from .schema import choose_schema


@dataclass(frozen=True)
class DatasetPiece:
    """A piece of the source table with index `table`, the position of its first row in the dataset, its number of
    valid rows, and the number of invalid rows that are skipped."""

    table: int
    piece: Piece
    first_row: int
    rows: int
    skipped: int

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.table,
            "piece": self.piece,
            "first_row": self.first_row,
            "rows": self.rows,
            "left_out": self.skipped,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(value["text"], Piece(**value["piece"]), value["first_row"], value["rows"], value["left_out"])


@dataclass(frozen=True)
class ConversionSpec:
    """Everything that a conversion does. `sampled`: the schema was inferred from a sample, and every row is checked
    against it."""

    layout: Layout
    schema: Schema
    columns: Columns
    tables: tuple[SourceTable, ...]
    pieces: tuple[DatasetPiece, ...]
    request: dict[str, Any]
    sampled: bool = False
    skipped: int = 0
    """Invalid rows of all sources, which are skipped."""
    skipped_rows: tuple[int, ...] = ()
    """Their positions among all rows."""

    @property
    def rounding(self) -> Rounding:
        """Which numbers may be rounded: all if the user asked for a float type."""
        if self.request["dtype"] in FLOATS:
            return "all"
        return "fractions" if self.schema.x_dtype == "float32" else "none"

    @property
    def first_row(self) -> int:
        """The id of the first row: 0 unless the rows are appended to a dataset."""
        return int((self.request.get("after") or {}).get("rows", 0))

    @property
    def source_bytes(self) -> int:
        """The size of all sources in bytes, compressed if they are."""
        return sum(source["bytes"] for source in self.request["sources"])

    def to_json(self) -> dict[str, Any]:
        """What `from_json` makes the spec of, once it is stored as JSON."""
        return {
            "layout": self.layout,
            "schema": self.schema,
            "columns": self.columns.to_json(),
            "texts": [table_to_json(table) for table in self.tables],
            "pieces": [piece.to_json() for piece in self.pieces],
            "request": self.request,
            "sampled": self.sampled,
            "left_out": self.skipped,
            **({"left_out_rows": self.skipped_rows} if self.skipped_rows else {}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            Layout.from_json(value["layout"]),
            Schema.from_json(value["schema"]),
            Columns.from_json(value["columns"]),
            tuple(map(table_from_json, value["texts"])),
            tuple(map(DatasetPiece.from_json, value["pieces"])),
            value["request"],
            value["sampled"],
            value["left_out"],
            tuple(value.get("left_out_rows", ())),
        )


def specify_conversion(
    request: ConvertRequest,
    columns: Columns,
    tables: Sequence[SourceTable],
    pieces: Sequence[tuple[int, Piece]],
    findings: Sequence[Findings] | None,
    total: Findings,
) -> ConversionSpec:
    """Specify the dataset. `pieces` are those of all tables, with the table's index; `findings` has one entry per
    piece, or is None if `total` comes from a sample."""
    dropped = {} if request.like else find_free_text(request, columns, total)
    index = {} if request.like else index_columns(request, tables)
    others = [name for name in tables[0].columns if name not in (*columns.names, *request.ignore, *index)]
    index |= features_beside(request, others)
    kept = [position for position, name in enumerate(columns.features) if name not in dropped]
    columns = without(columns, dropped)
    if request.like and request.after:
        schema = matched_schema(request.like, columns, total, tables[0].path)
    else:
        schema = choose_schema(request, columns, total.of_features(kept), {**index, **dropped})
    numbered, first = [], 0
    for position, (table, piece) in enumerate(pieces):
        rows = findings[position].rows if findings else piece.rows
        if rows:
            numbered.append(DatasetPiece(table, piece, first, rows, len(findings[position].skipped) if findings else 0))
            first += rows
    layout = request.after and replace(request.after, rows=first, parts=())
    layout = layout or choose_layout(first, schema.row_bytes, padded=schema.tokens is not None)
    sampled = findings is None
    return ConversionSpec(
        layout,
        schema,
        columns,
        tuple(tables),
        tuple(numbered),
        request.to_json(),
        sampled,
        len(total.skipped),
        total.skipped,
    )


def matched_schema(schema: Schema, columns: Columns, found: Findings, path: str) -> Schema:
    """The schema of a dataset, for rows that are appended to it; their texts may be longer. Raises UsageError if they
    lack one of its columns."""
    if missing := [column.name for column in schema.named if column.name not in columns.texts]:
        raise UsageError(f"{path} has no column '{missing[0]}', which the dataset stores beside the features; add it")
    return widened(schema, {name: texts.width for name, texts in found.texts.items()})
