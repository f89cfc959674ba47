"""What all tasks of a conversion need to write shards, and which pieces of the sources contain the rows of a shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ...storage.format import Layout, Schema
from ..csv.row_batch import Columns, Piece, Rounding
from .readers import SourceTable, tables_from_json, tables_to_json
from .spec import ConversionSpec, DatasetPiece


@dataclass(frozen=True, eq=False)
class ShardPlan:
    """The part of a spec that tasks need.

    `pieces` is (pieces, 8) int64: the fields of each `DatasetPiece` and of its piece, in the order of the sources.
    `sampled`: a value that does not fit the schema is not an error, but shows that the sample was not representative.
    `rounding`: which numbers may be rounded to the dtype of `x`. `required`: no value may be missing. `like_other`: the
    categories and classes are those of another dataset; with `encode_unknown`, unknown categories get an additional
    code after all others.
    """

    layout: Layout
    schema: Schema
    columns: Columns
    tables: Sequence[SourceTable]
    pieces: np.ndarray
    sampled: bool
    rounding: Rounding
    required: bool
    like_other: bool
    encode_unknown: bool

    @classmethod
    def of(cls, spec: ConversionSpec) -> Self:
        """The plan for the tasks of a spec."""
        pieces = [(one.table, *vars(one.piece).values(), one.first_row, one.rows, one.skipped) for one in spec.pieces]
        return cls(
            spec.layout,
            spec.schema,
            spec.columns,
            spec.tables,
            np.array(pieces, np.int64),
            spec.sampled,
            spec.rounding,
            spec.request["missing"] == "error",
            spec.request["like"] is not None,
            spec.request["unknown"] == "code",
        )

    def pieces_of(self, shard: int) -> list[DatasetPiece]:
        """The pieces that contain rows of a shard, in order."""
        start, stop = self.layout.shard_range(shard)
        first_rows = self.pieces[:, 5]
        first, last = np.searchsorted(first_rows, [start, stop - 1], side="right").tolist()
        found = self.pieces[first - 1 : last].tolist()
        return [DatasetPiece(fields[0], Piece(*fields[1:5]), *fields[5:]) for fields in found]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "pieces": self.pieces.tolist(), "tables": tables_to_json(self.tables)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "layout": Layout(**value["layout"]),
                "schema": Schema.from_json(value["schema"]),
                "columns": Columns.from_json(value["columns"]),
                "tables": tables_from_json(value["tables"]),
                "pieces": np.array(value["pieces"], np.int64),
            }
        )
