"""Read the table of the labels: all of its columns as text, whatever kind of file it is."""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather, parquet

from ....storage.errors import RowError, SourceError
from ....storage.format.manifest import Source
from ....storage.places.locate import locate
from ...csv.cut import cut_ranges, cut_tasks, resolve_cuts
from ...csv.dialect import UNNAMED
from ...csv.open import BROKEN, COMPRESSED, decompressed, open_csv
from ...csv.options import CsvOptions
from ...csv.row_batch import Columns, Numbers
from ...csv.rows import RowReader, plain_numbers
from ...target.beside import index_of_frame

BATCH_ROWS = 65_536
TABLES = (".parquet", ".feather", ".arrow", ".ipc")
JSON = (".jsonl", ".ndjson", ".json")
IsData = Callable[[Sequence[Sequence[str]]], bool]
"""Whether the first of some rows of a CSV file is no header but data."""


@dataclass(frozen=True)
class LabelTable:
    """Columns of text, null where a value is missing. `index` are those that pandas has written as an index."""

    columns: dict[str, pa.Array]
    index: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def read_label_table(file: str, is_data: IsData, options: CsvOptions) -> LabelTable:
    """Read a CSV file as `convert csv` does, or a Parquet, Arrow or JSON lines file. Raises SourceError."""
    suffixes = [suffix.lower() for suffix in PurePath(file).suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    kind = suffixes[-1] if suffixes else ""
    try:
        if kind in TABLES:
            return _read_arrow(file, kind)
        return _read_json(file, packed) if kind in JSON else _read_csv(file, is_data, options)
    except FileNotFoundError:
        raise SourceError(f"--labels {file} does not exist; check the path") from None
    except RowError as error:
        place = error.source, error.line, error.column
        raise RowError(*place, error.reason, "fix or remove the row", error.unit) from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, *BROKEN, UnicodeError) as error:
        raise SourceError(f"--labels {file} cannot be read ({error}); check the file, or save it as CSV") from None


def _read_csv(file: str, is_data: IsData, options: CsvOptions) -> LabelTable:
    place = locate(file)
    source = Source(str(place), *place.describe())
    with tempfile.TemporaryDirectory(prefix="foldstream-") as folder:
        unpacked = str(Path(folder, "unpacked"))
        options = _with_header(source, options, is_data, unpacked)
        table, pieces, _ = open_csv(source, options, unpacked)
        if pieces is None:
            pieces = tuple(resolve_cuts(table, [cut for task in cut_tasks(table) for cut in cut_ranges(task)]))
        batches = []
        for piece in pieces:
            reader = RowReader(table, piece, Columns((), table.header), Numbers("float64"))
            while not reader.ended:
                batch = reader.read(np.empty((BATCH_ROWS, 0)))
                if batch.errors:
                    raise batch.errors[0]
                batches.append(batch.texts)
    if not batches:
        raise SourceError(f"--labels {file} has no rows; name a file with a row for each image")
    columns = {
        name: pa.concat_arrays(parts) for name, parts in zip(table.header, zip(*batches, strict=True), strict=True)
    }
    dialect = table.dialect
    if dialect.decimal != ".":
        columns = {name: _with_points(texts, dialect.thousands, dialect.decimal) for name, texts in columns.items()}
    return LabelTable(columns, frozenset(name for name in columns if name.startswith(UNNAMED)))


def _with_header(source: Source, options: CsvOptions, is_data: IsData, unpacked: str) -> CsvOptions:
    """The options with what the first rows say: whether there is a header, and whether spaces separate the fields."""
    _, _, first = open_csv(source, options.model_copy(update={"header": "none"}), unpacked)
    if options.delimiter is None and all(len(row) == 1 and " " in row[0] for row in first):
        options = options.model_copy(update={"delimiter": " "})
        _, _, first = open_csv(source, options.model_copy(update={"header": "none"}), unpacked)
    header = options.header if options.header != "auto" else "none" if is_data(first) else "first"
    return options.model_copy(update={"header": header})


def _with_points(texts: pa.Array, thousands: str, decimal: str) -> pa.Array:
    """A column of numbers with decimal points; one of other texts unchanged."""
    plain = plain_numbers(texts, thousands, decimal)
    return texts if pc.any(pc.equal(plain, "")).as_py() else plain


def _read_arrow(file: str, kind: str) -> LabelTable:
    stream = locate(file).file_argument()
    table = parquet.read_table(stream) if kind == ".parquet" else feather.read_table(stream)
    if twice := [name for name in table.column_names if table.column_names.count(name) > 1]:
        raise SourceError(f"--labels {file}: two columns are named '{twice[0]}'; rename one of them")
    columns = {name: _as_text(column) for name, column in zip(table.column_names, table, strict=True)}
    return LabelTable(columns, frozenset(index_of_frame(table.schema)))


def _as_text(chunks: pa.ChunkedArray) -> pa.Array:
    """A column of any type as text, as `convert csv` reads it from Parquet."""
    column = chunks.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if pa.types.is_nested(column.type):
        values = column.to_pylist()
        return pa.array([value if value is None else json.dumps(value, default=str) for value in values], pa.string())
    return column.cast(pa.string())


def _read_json(file: str, packed: str) -> LabelTable:
    with closing(locate(file).open_stream()) as raw, closing(decompressed(raw, packed)) as stream:
        text = bytes(stream.read()).decode("utf-8-sig")
    try:
        lines = [line for line in text.split("\n") if line.strip()]
        whole = _loads(text) if text.lstrip().startswith("[") else list(map(_loads, lines))
    except ValueError as error:
        raise SourceError(f"--labels {file} is not JSON lines ({error}); fix it, or save it as CSV") from None
    if not whole or not all(isinstance(row, dict) for row in whole):
        raise SourceError(f"--labels {file} has no rows, or rows that are not objects; fix it, or save it as CSV")
    names = dict.fromkeys(name for row in whole for name in row)
    return LabelTable({name: pa.array([text_of(row.get(name)) for row in whole], pa.string()) for name in names})


def _loads(text: str) -> Any:
    return json.loads(text, parse_float=str, parse_int=str)  # as they are written


def text_of(value: object) -> str | None:
    """A value of JSON as text; None if it is missing."""
    return value if value is None or isinstance(value, str) else json.dumps(value)
