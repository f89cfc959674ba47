"""Write one shard: parse its rows into arrays, count missing values, write the files and the receipt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.errors import SourceError
from ...storage.format.layout import Layout
from ...storage.format.schema import Schema
from ...storage.format.sequences import LENGTH
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ..csv.row_batch import Columns, Numbers, Piece, Rounding, RowBatch, is_unlabelled
from ..sequences.tokenizer import TokenReading
from ..target.beside import DAY, date_seconds, encode_beside
from ..target.labels import class_codes, label_columns, truths
from ..target.plan import StoredPlan
from ..target.receipts import finish_shard
from .constants import unknown_error
from .findings import TOKEN_ROWS
from .readers import Reader, SourceTable, open_reader, tables_from_json, tables_to_json
from .spec.conversion import ConversionSpec, DatasetPiece
from .spec.request import ConvertRequest

BATCH_BYTES = 8 << 20  # of `x`, per batch of rows


@dataclass(frozen=True, eq=False)
class ShardPlan:
    """The part of a spec that tasks need.

    `pieces` is (pieces, 8) int64: the fields of each `DatasetPiece` and of its piece, in the order of the sources.
    `sampled`: a value that does not fit the schema is not an error, but shows that the sample was not representative.
    `rounding`: which numbers may be rounded to the dtype of `x`. `required`: no value may be missing. `like_other`: the
    categories and classes are those of another dataset; with `encode_unknown`, unknown categories get an additional
    code after all others. `needed_labels`: those without which a row is left out. `first_row`: the id of the first row,
    if the rows are appended to a dataset. `tokens`: how texts become token ids.
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
    needed_labels: Sequence[str]
    first_row: int = 0
    tokens: TokenReading | None = None

    @classmethod
    def of(cls, spec: ConversionSpec, root: Place) -> Self:
        """The plan for the tasks of a spec that write to `root`."""
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
            ConvertRequest.from_json(spec.request).needed_labels({*spec.columns.texts}),
            spec.first_row,
            ConvertRequest.from_json(spec.request).reading(root),
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
                "layout": Layout.from_json(value["layout"]),
                "schema": Schema.from_json(value["schema"]),
                "columns": Columns.from_json(value["columns"]),
                "tables": tables_from_json(value["tables"]),
                "pieces": np.array(value["pieces"], np.int64),
                "tokens": value["tokens"] and TokenReading.from_json(value["tokens"]),
            }
        )


@dataclass(frozen=True)
class ShardTask:
    """Write one shard of every array from the pieces that contain its rows, then its receipt."""

    plan: StoredPlan[ShardPlan]
    shard: int


class MisfitError(Exception):
    """A row contradicts the schema that was inferred from a sample."""


def write_shard_task(task: ShardTask) -> str | None:
    """Run a task. Returns a description of the first value that contradicts the sample's schema, or None."""
    plan = task.plan.load()
    try:
        arrays, missing = read_shard(plan, task.shard)
    except MisfitError as misfit:
        return str(misfit)
    arrays["id"] += plan.first_row
    finish_shard(locate(task.plan.root), plan, task.shard, arrays, missing)
    return None


def read_shard(plan: ShardPlan, shard: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Parse the rows of a shard: its arrays, and the number of missing values per feature. Raises MisfitError."""
    start, stop = plan.layout.shard_range(shard)
    arrays = {spec.name: spec.empty(stop - start) for spec in plan.schema.arrays()}
    arrays["id"][:] = np.arange(start, stop)
    filler = ShardFiller(plan, arrays)
    for piece in plan.pieces_of(shard):
        first, last = max(start, piece.first_row), min(stop, piece.first_row + piece.rows)
        filler.fill(piece, first - piece.first_row, slice(first - start, last - start))
    return arrays, filler.missing


class ShardFiller:
    """Fills the arrays of one shard with the rows of pieces, and counts the missing values of each feature."""

    def __init__(self, plan: ShardPlan, arrays: dict[str, np.ndarray]) -> None:
        self.plan, self.schema, self.columns, self.arrays = plan, plan.schema, plan.columns, arrays
        self.missing = np.zeros(len(self.schema.features), np.int64)
        self.x = arrays["x"].reshape(len(arrays["x"]), -1)
        self.batch_rows = max(1, BATCH_BYTES // self.x[:1].nbytes)
        self.numbers = Numbers(self.schema.x_dtype, plan.rounding)
        if plan.tokens:  # readers know columns, and ids are not one for each
            self.x, self.batch_rows = np.zeros((len(self.x), 1), self.x.dtype), min(self.batch_rows, TOKEN_ROWS)
        self.classes = pa.array(self.schema.classes, pa.string())
        self.categories = {name: pa.array(values, pa.string()) for name, values in self.schema.categories.items()}

    def fill(self, piece: DatasetPiece, skip: int, rows: slice) -> None:
        """Copy the rows of a piece after the first `skip` to the positions `rows` of the shard.

        Raises RowError for an invalid row unless invalid rows are skipped, MisfitError, and SourceError if the piece
        has changed since it was scanned.
        """
        table = self.plan.tables[piece.table]
        passed = 0 if piece.skipped else skip
        numbers, required, tokens = self.numbers, self.plan.required, self.plan.tokens
        reader = open_reader(table, piece.piece, self.columns, numbers, required, passed, tokens)
        if skip > passed:
            self._pass_over(reader, skip, piece)
        at = rows.start
        while at < rows.stop and not reader.ended:
            window = slice(at, min(at + self.batch_rows, rows.stop))
            batch = reader.read(self.x[window])
            self._check(batch, piece)
            if batch.rows:
                self.place(reader, batch, slice(at, at + batch.rows))
            at += batch.rows
        if at != rows.stop:
            raise SourceError(
                f"{table.path} changed during the conversion (rows were removed); "
                "run the command again with --overwrite once the file no longer changes"
            )

    def _pass_over(self, reader: Reader, rows: int, piece: DatasetPiece) -> None:
        """Read and discard the first valid rows of a piece that contains invalid ones."""
        scratch = np.empty((min(rows, self.batch_rows), self.x.shape[1]), self.x.dtype)
        while rows and not reader.ended:
            batch = reader.read(scratch[:rows])
            self._check(batch, piece)
            rows -= batch.rows

    def _check(self, batch: RowBatch, piece: DatasetPiece) -> None:
        if batch.errors and not piece.skipped:
            if is_unlabelled(batch.errors[0], self.plan.needed_labels):
                self._misfit("some rows have no label", sample=True)
            raise batch.errors[0]
        if batch.misfits:
            value, where = batch.misfits[0]
            self._misfit(f"{value} cannot be stored as {self.schema.x_dtype}", where)

    def _misfit(self, reason: str, where: str = "the new rows", sample: bool = False) -> None:
        """Raise an error: MisfitError if the sample may be to blame, which for appended rows it is only if `sample`."""
        if self.plan.first_row and not (sample and self.plan.sampled):
            raise SourceError(
                f"{where}: {reason}, unlike in the dataset that the rows are appended to; fix the rows, or convert all "
                "sources together into a new dataset"
            )
        if self.plan.sampled:
            raise MisfitError(reason)
        if self.plan.like_other:
            raise SourceError(f"the source does not match the dataset given with --like: {reason}; fix the source")
        raise SourceError(
            f"the sources changed during the conversion ({reason}); run the command again with --overwrite once they "
            "no longer change"
        )

    def place(self, reader: Reader, batch: RowBatch, rows: slice) -> None:
        """Store everything of a batch that is not a plain number: categories, dates, labels, keys."""
        schema, places, x = self.schema, self.columns.places, self.x[rows]
        texts = dict(zip(self.columns.texts, batch.texts, strict=True))
        missing = batch.missing[np.argsort(batch.missing[:, 1], kind="stable")]
        with_gaps, starts = np.unique(missing[:, 1], return_index=True)
        parts = np.split(missing[:, 0], starts[1:]) if len(starts) else []
        gaps = {schema.features[column]: at for column, at in zip(with_gaps, parts, strict=True)}
        for name in (*schema.categories, *schema.dates):
            position, values = places[name], texts[name]
            if values.null_count:
                gaps[name] = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))
            if name in schema.dates:
                x[:, position] = self._dates(name, values)
            else:
                x[:, position] = self._codes(reader, batch, name, values.fill_null(""), self.categories[name])
        if batch.tokens is not None:
            self.arrays[LENGTH][rows] = batch.tokens.fill(self.arrays["x"][rows])
            for name in self.columns.sequences:
                self.missing[places[name]] += texts[name].null_count
        for name, at in gaps.items():
            self.missing[places[name]] += len(at)
            if name not in schema.categories and not self.numbers.is_float:
                self._misfit(f"the column '{name}' has missing values")
        if schema.task == "classification":
            (label,) = schema.labels
            self.arrays["y"][rows] = self._codes(reader, batch, label, texts[label], self.classes)
        elif schema.labels:
            names = label_columns(schema.labels[0], texts) if schema.dense else schema.labels
            of_labels = [self._targets(name, texts[name]) for name in names]
            self.arrays["y"][rows] = np.stack(of_labels, axis=1) if schema.target_shape else of_labels[0]
        try:
            for column in schema.named:
                self.arrays[column.array][rows] = encode_beside(column, texts[column.name])
        except ValueError as reason:
            self._misfit(str(reason), sample=True)

    def _codes(self, reader: Reader, batch: RowBatch, name: str, values: pa.Array, known: pa.Array) -> np.ndarray:
        codes = class_codes(values, known) if name in self.schema.labels else pc.index_in(values, known)
        if codes.null_count:
            row = int(np.flatnonzero(codes.is_null().to_numpy(zero_copy_only=False))[0])
            if not self.plan.like_other:
                self._misfit(f"the column '{name}' contains '{values[row].as_py()}'")
            if not self.plan.encode_unknown or name in self.schema.labels:
                raise unknown_error(reader, batch, row, name, values[row].as_py(), name in self.schema.labels)
            codes = codes.fill_null(len(known))
        found: np.ndarray = codes.to_numpy()
        return found

    def _dates(self, name: str, values: pa.Array) -> np.ndarray:
        seconds = date_seconds(values)
        if self.schema.dates[name] == "days":
            if (seconds[~np.isnan(seconds)] % DAY).any():
                self._misfit(f"the column '{name}' contains times of day")
            seconds = seconds / DAY
        there = ~np.isnan(seconds)
        with np.errstate(invalid="ignore"):  # of NaN among integers, which is reported as missing
            stored = seconds.astype(self.x.dtype)
        if self.plan.rounding != "all" and (stored[there].astype(np.float64) != seconds[there]).any():
            self._misfit(f"a date in the column '{name}' cannot be stored as {self.schema.x_dtype}")
        return stored

    def _targets(self, label: str, values: pa.Array) -> np.ndarray:
        binary = self.schema.task == "multilabel"
        try:
            numbers = truths(values) if binary else values.cast(pa.float64())
        except pa.ArrowInvalid:
            numbers = pa.nulls(1, pa.float64())
        found: np.ndarray = numbers.to_numpy(zero_copy_only=False)
        if not np.isfinite(found).all():
            self._misfit(f"the label '{label}' is not always {'0 or 1' if binary else 'a number'}")
        return found
