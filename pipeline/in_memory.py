"""New rows in memory, such as those of a request, encoded by the code that converts files.

A row is what a CSV file would contain: the text of each column. Images are the bytes of their files.
"""

import csv
import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from ..storage.format.images import ImageForm
from ..storage.format.layout import Layout
from ..storage.format.schema import Schema
from .csv.cut import CsvTable
from .csv.dialect import Dialect, padded
from .csv.kernels import count_lines
from .csv.row_batch import Columns, Numbers, Piece
from .csv.rows import RowReader
from .images.files import ImageFile
from .images.watchdog import decode_images
from .predictions.unknown import unknown_in
from .sequences.tokenizer import TokenReading
from .tables.fill import MisfitError, ShardFiller, ShardPlan

NUMBERS = Numbers("float64", "all")


@dataclass(frozen=True)
class EncodedRows:
    """The valid rows, in order: `x` (rows, *sample_shape). `errors` are the column, None if it is not known, and the
    reason for each invalid row, and `unknown` the rows and columns whose category does not occur in the training
    data."""

    x: np.ndarray
    errors: dict[int, tuple[str | None, str]] = field(default_factory=dict)
    unknown: tuple[tuple[int, str], ...] = ()


class RowEncoder:
    """Encodes rows as a dataset with the columns of `schema` stores them.

    Numbers are float64 and are rounded to float32, or become integers again, as the training data are; dates are
    written as in the training data, and unknown categories get the code after all others.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        texts = (*schema.categories, *schema.dates)
        self.columns = Columns(schema.features, texts, (*schema.dates,), formats=schema.formats)
        self.table = CsvTable("the request", "", False, Dialect(), schema.features, 0, 1, 0)
        flat = (len(schema.features),)
        self.stored = Schema(
            schema.features, flat, "float64", categories=schema.categories, dates=schema.dates, formats=schema.formats
        )

    def encode(self, rows: Sequence[Mapping[str, str]]) -> EncodedRows:
        """Encode rows that have all columns; the text of a missing value is empty."""
        try:
            found = self._encode(rows)
        except MisfitError as misfit:  # of a whole column: find the row
            if len(rows) > 1:
                return _joined([self.encode([row]) for row in rows])
            nothing = np.empty((0, *self.schema.sample_shape), self.schema.x_dtype)
            return EncodedRows(nothing, {0: (None, str(misfit))})
        return replace(found, x=self._narrowed(found.x))

    def _encode(self, rows: Sequence[Mapping[str, str]]) -> EncodedRows:
        lines = [_csv_line([row[name] for name in self.schema.features]) for row in rows]
        text = padded(b"".join(lines))
        piece = Piece(0, len(text) - 1, 1, len(rows))
        reader = RowReader(self.table, piece, self.columns, NUMBERS, text=text)
        arrays = {spec.name: spec.empty(len(rows)) for spec in self.stored.arrays()}
        batch = reader.read(arrays["x"])
        plan = ShardPlan(
            layout=Layout(len(rows), len(rows), 1),
            schema=self.stored,
            columns=self.columns,
            tables=[self.table],
            pieces=np.empty((0, 8), np.int64),
            sampled=True,  # a value that does not fit is a MisfitError
            rounding="all",
            required=False,
            like_other=True,
            encode_unknown=True,
            needed_labels=(),
        )
        if batch.rows:
            ShardFiller(plan, arrays).place(reader, batch, slice(0, batch.rows))
        x = arrays["x"][: batch.rows]
        begins = [*accumulate((count_lines(np.frombuffer(line, np.uint8)) for line in lines), initial=1)]
        errors = {bisect_right(begins, one.line) - 1: (one.column, one.reason) for one in batch.errors}
        valid = [row for row in range(len(rows)) if row not in errors]
        unknown = [
            (valid[at], name) for name, found in unknown_in(x, self.schema) for at in np.flatnonzero(found).tolist()
        ]
        return EncodedRows(x, errors, tuple(sorted(unknown)))

    def _narrowed(self, x: np.ndarray) -> np.ndarray:
        """Numbers in the dtype of the training data: integers only if they remain the same, so that small ones of
        images are normalized in the same way."""
        x = x.reshape(len(x), *self.schema.sample_shape)
        with np.errstate(invalid="ignore", over="ignore"):
            stored = x.astype(self.schema.x_dtype)
        return stored if stored.dtype.kind == "f" or np.array_equal(stored, x) else x


class TokenEncoder:
    """Encodes rows as the sequences of a dataset with this schema: texts that the tokenizer reads, or lists of ids."""

    def __init__(self, schema: Schema, tokens: TokenReading) -> None:
        self.schema, self.tokens = schema, tokens

    def encode(self, rows: Sequence[Mapping[str, str]]) -> EncodedRows:
        """Encode rows that have the column of the texts."""
        lists = self.tokens.read(pa.array([row[self.tokens.column] for row in rows], pa.string()))
        errors: dict[int, tuple[str | None, str]] = {
            row: (self.tokens.column, reason) for row, reason in lists.wrong.items()
        }
        kept = lists.without([*errors])
        x = np.empty((len(kept.lengths), *self.schema.sample_shape), self.schema.x_dtype)
        kept.fill(x)
        return EncodedRows(x, errors)


def _csv_line(values: Sequence[str]) -> bytes:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode(errors="surrogatepass")


def _joined(parts: Sequence[EncodedRows]) -> EncodedRows:
    """Rows that were encoded one by one."""
    errors = {row: one.errors[0] for row, one in enumerate(parts) if one.errors}
    unknown = tuple((row, name) for row, one in enumerate(parts) for _, name in one.unknown)
    return EncodedRows(np.concatenate([one.x for one in parts]), errors, unknown)


def decode_in_memory(images: Sequence[bytes], form: ImageForm) -> EncodedRows:
    """Decode image files, in the process that decodes those of a conversion."""
    with TemporaryDirectory(prefix="foldstream-") as folder:
        files = []
        for number, data in enumerate(images):
            path = Path(folder) / str(number)
            path.write_bytes(data)
            files.append(ImageFile(str(path), 0, len(data)))
        with decode_images(files, form) as decoded:
            valid = [number for number in range(len(files)) if number not in decoded.errors]
            errors: dict[int, tuple[str | None, str]] = {row: (None, why) for row, why in decoded.errors.items()}
            return EncodedRows(decoded.samples[valid].copy(), errors)
