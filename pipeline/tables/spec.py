"""What to write, decided before anything is written: schema, layout, and which piece feeds which shard.

Pure: requests and findings in, spec out. The spec is stored as JSON, so that a conversion that was killed goes on from
the same decision.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ...storage.errors import UsageError, check_choice, suggest
from ...storage.format import Layout, Schema, Source, choose_layout
from ..csv.cut import CsvTable
from ..csv.dialect import CsvOptions, Dialect, is_number
from ..csv.row_batch import Columns, Piece
from ..csv.rows import parse_dates
from ..target.labels import ON_ERROR, TASKS, choose_labels
from .findings import DAY, Findings
from .readers import SourceTable, table_from_json, table_to_json

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64")
FLOATS = ("float32", "float64")
DTYPES = ("auto", *INTEGERS, *FLOATS)
MISSING = ("error", "mean", "constant", "indicator")
UNKNOWN = ("error", "code")


@dataclass(frozen=True)
class ConvertRequest:
    """What the user asked for.

    `ignore` are columns that are left out; `categories` and `dates` are feature columns of that kind (others are told
    by their first rows). `missing` says what becomes of a number that is not there, `constant` with which value;
    `like` is the schema of a dataset that this one must fit, `unknown` what becomes of categories that it lacks;
    `shuffle` is the seed of a shuffle of all rows.
    """

    sources: tuple[Source, ...]
    labels: tuple[str, ...] = ()
    id: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str = "auto"
    task: str = "auto"
    ignore: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    missing: str = "error"
    constant: float | None = None
    unknown: str = "error"
    like: Schema | None = None
    on_error: str = "stop"
    shuffle: int | None = None
    csv: CsvOptions = field(default_factory=CsvOptions)

    def __post_init__(self) -> None:
        check_choice("--on-error", self.on_error, ON_ERROR)
        check_choice("--dtype", self.dtype, DTYPES)
        check_choice("--task", self.task, TASKS)
        check_choice("--missing", self.missing, MISSING)
        check_choice("--unknown", self.unknown, UNKNOWN)
        if self.shuffle is not None and not 0 <= self.shuffle < 2**63:
            raise UsageError(f"--shuffle {self.shuffle}: give a seed from 0 to 2⁶³ - 1")
        if self.like and self.missing != "error":
            raise UsageError(
                f"--missing {self.missing}: with --like the training data's fillings are taken; if they have none, "
                "convert those with --missing, and train again"
            )
        if (self.missing == "constant") != (self.constant is not None):
            raise UsageError("--missing constant needs a value, and no other way has one: --missing constant=0")

    @property
    def gaps(self) -> bool:
        """Whether features may have missing values."""
        if self.like:
            return bool(self.like.fills) or any("" in values for values in self.like.categories.values())
        return self.missing != "error"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        tuples = {name: tuple(value[name]) for name in ("labels", "ignore", "categories", "dates")}
        return cls(
            **{
                **value,
                **tuples,
                "sources": tuple(Source(**source) for source in value["sources"]),
                "shape": value["shape"] and tuple(value["shape"]),
                "like": value["like"] and Schema.from_json(value["like"]),
                "csv": CsvOptions.from_json(value["csv"]),
            }
        )


@dataclass(frozen=True)
class DatasetPiece:
    """A piece of text number `text`, the position of its first row in the whole, its rows without the faulty ones,
    and how many of those it has."""

    table: int
    piece: Piece
    first_row: int
    rows: int
    skipped: int

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.table,
            "piece": asdict(self.piece),
            "first_row": self.first_row,
            "rows": self.rows,
            "left_out": self.skipped,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(value["text"], Piece(**value["piece"]), value["first_row"], value["rows"], value["left_out"])


@dataclass(frozen=True)
class ConversionSpec:
    """All that a conversion will do. `sampled`: the schema is that of a sample, and every row is held against it."""

    layout: Layout
    schema: Schema
    columns: Columns
    tables: tuple[SourceTable, ...]
    pieces: tuple[DatasetPiece, ...]
    request: dict[str, Any]
    sampled: bool = False
    skipped: int = 0
    """Faulty rows of all sources that are left out."""

    @property
    def source_bytes(self) -> int:
        """Bytes of all sources, packed as they are."""
        return sum(source["bytes"] for source in self.request["sources"])

    def to_json(self) -> dict[str, Any]:
        return {
            "layout": asdict(self.layout),
            "schema": asdict(self.schema),
            "columns": asdict(self.columns),
            "texts": [table_to_json(table) for table in self.tables],
            "pieces": [piece.to_json() for piece in self.pieces],
            "request": self.request,
            "sampled": self.sampled,
            "left_out": self.skipped,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            Layout(**value["layout"]),
            Schema.from_json(value["schema"]),
            Columns(**{name: tuple(names) for name, names in value["columns"].items()}),
            tuple(map(table_from_json, value["texts"])),
            tuple(map(DatasetPiece.from_json, value["pieces"])),
            value["request"],
            value["sampled"],
            value["left_out"],
        )

    @cached_property
    def _first_rows(self) -> list[int]:
        return [piece.first_row for piece in self.pieces]

    def pieces_of(self, shard: int) -> tuple[DatasetPiece, ...]:
        """The pieces that hold rows of a shard, in order."""
        start, stop = self.layout.shard_range(shard)
        first = bisect_right(self._first_rows, start) - 1
        last = bisect_right(self._first_rows, stop - 1)
        return self.pieces[first:last]


def choose_columns(request: ConvertRequest, tables: Sequence[SourceTable], sample: Sequence[Sequence[str]]) -> Columns:
    """Which columns are features, in which order, and which of all are text.

    Features are all columns but label, id and those ignored, in the first text's order, or those that `like` has: then
    others are passed over. Raises UsageError for a column that is not there, and for sources whose columns differ.
    """
    header, path = tables[0].header, tables[0].path
    like = request.like
    named = [*((name, "--label") for name in request.labels), (request.id, "--id")]
    named += [(name, "--ignore") for name in request.ignore]
    named += [(name, "--category") for name in request.categories] + [(name, "--date") for name in request.dates]
    for name, option in named:
        if name and name not in header:
            raise UsageError(f"{option}: {path} has no column «{name}»{suggest(name, header)}")
    key = key_of(request, tables)
    aside = {*request.labels, key, *request.ignore}
    features = like.features if like else tuple(name for name in header if name not in aside)
    for table in tables:
        missing = [name for name in features if name not in table.header]
        extra = [name for name in table.header if name not in features and name not in aside and not like]
        lost = [name for name in (*request.labels, key) if name and name not in table.header]
        if missing or extra or lost:
            differences = _differences([*missing, *lost], extra, table.header)
            raise UsageError(f"{table.path} has other columns than expected: {differences}")
    if not features:
        raise UsageError(f"{path} has no columns besides the label and the id")
    if like:
        categories, dates = tuple(like.categories), tuple(like.dates)
    else:
        categories, dates = find_kinds(request, tables[0], features, sample)
    own = tuple(name for name in (*request.labels, key) if name)
    required = own if request.gaps else (*own, *categories, *dates)
    return Columns(features, tuple(dict.fromkeys((*own, *categories, *dates))), dates, required)


def key_of(request: ConvertRequest, tables: Sequence[SourceTable]) -> str | None:
    """The column that names the rows: that of `id`, or the one that names those of `like`, if it is there."""
    likes = request.like.key if request.like else None
    return request.id or (likes if all(likes in table.header for table in tables) else None)


def find_kinds(
    request: ConvertRequest, table: SourceTable, features: Sequence[str], sample: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which features are categories and which are dates: as asked, or because no value of the sample is a number."""
    dialect = table.dialect if isinstance(table, CsvTable) else Dialect()
    rows = [row for row in sample if len(row) == len(table.header)]
    categories, dates = [], []
    for name in features:
        position = table.header.index(name)
        values = [row[position] for row in rows]
        there = [value.encode(errors="replace").decode() for value in values if value.strip() not in dialect.missing]
        if name in request.categories:
            categories.append(name)
        elif name in request.dates:
            dates.append(name)
        elif there and not any(is_number(value, dialect) or _is_special(value) for value in there):
            (categories if parse_dates(pa.array(there, pa.string()))[1] else dates).append(name)
    return tuple(categories), tuple(dates)


def _is_special(value: str) -> bool:
    """Whether a value is meant as a number though we refuse it: infinities, thousands with commas, hexadecimals."""
    plain = value.strip().lower().lstrip("+-").replace(",", "").replace(".", "").replace("_", "")
    return plain in ("inf", "infinity", "nan") or plain.removeprefix("0x").isdigit()


def _differences(missing: Sequence[str], extra: Sequence[str], header: Sequence[str]) -> str:
    parts = []
    for kind, names in (("missing", missing), ("not known", extra)):
        if names:
            shown = ", ".join(f"«{name}»" for name in names[:5])
            parts.append(f"{kind}: {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else ""))
    hint = suggest(missing[0], header) if len(missing) == 1 else ""
    return "; ".join(parts) + hint


def specify_conversion(
    request: ConvertRequest,
    columns: Columns,
    tables: Sequence[SourceTable],
    pieces: Sequence[tuple[int, Piece]],
    findings: Sequence[Findings] | None,
    total: Findings,
) -> ConversionSpec:
    """Decide everything. `pieces` are those of all tables with their text's number; `findings` are one a piece, or
    None where `total` is that of a sample."""
    schema = choose_schema(request, columns, total)
    numbered, first = [], 0
    for position, (table, piece) in enumerate(pieces):
        rows = findings[position].rows if findings else piece.rows
        if rows:
            numbered.append(DatasetPiece(table, piece, first, rows, findings[position].skipped if findings else 0))
            first += rows
    layout = choose_layout(first, schema.arrays()[0].row_bytes)
    sampled = findings is None
    return ConversionSpec(
        layout, schema, columns, tuple(tables), tuple(numbered), asdict(request), sampled, total.skipped
    )


def choose_schema(request: ConvertRequest, columns: Columns, total: Findings) -> Schema:
    """Dtypes, shape, classes, categories and what stands for missing numbers, from what the data holds."""
    features, like = columns.features, request.like
    coded = [name for name in columns.texts if name in features and name not in columns.dates]
    if like:
        categories, dates, fills, indicators = like.categories, like.dates, like.fills, like.indicators
    else:
        categories = {name: _category_values(name, total) for name in coded}
        dates = {name: "seconds" if name in total.with_time_of_day else "days" for name in columns.dates}
        fills = choose_fills(request, columns, total, dates)
        gaps = [name for name, count in zip(features, total.missing, strict=True) if count and name not in categories]
        indicators = tuple(gaps) if request.missing == "indicator" else ()
    key = request.id or (like.key if like and like.key in columns.texts else None)
    values = len(features) + len(indicators)
    shape = request.shape or (like.sample_shape if like else (values,))
    if prod(shape) != values:
        marks = f" and {len(indicators)} that mark missing values" if indicators else ""
        raise UsageError(
            f"--shape {','.join(map(str, shape))} has {prod(shape):,} values, but there are {len(features):,} "
            f"feature columns (all columns besides the label and the id){marks}; give a shape whose product is that "
            "number"
        )
    schema = Schema(
        features, shape, "uint8", key=key, categories=categories, dates=dates, fills=fills, indicators=indicators
    )
    if key:
        names = total.texts[key]
        schema = replace(schema, key_width=None if names.kind == "integer" else max(1, names.width))
    labels = request.labels
    if labels and like and like.labels == labels:
        schema = replace(schema, labels=labels, task=like.task, y_dtype=like.y_dtype, classes=like.classes)
    elif labels:
        task, y_dtype, classes = choose_labels(request.task, {name: total.texts[name] for name in labels})
        schema = replace(schema, labels=labels, task=task, y_dtype=y_dtype, classes=classes)
    return replace(schema, x_dtype=choose_dtype(request.dtype, schema, total))


def _category_values(name: str, total: Findings) -> tuple[str, ...]:
    found = total.texts[name]
    if found.distinct is None:
        raise UsageError(
            f"the column «{name}» holds text with too many distinct values to be a category; leave it out with "
            f"--ignore «{name}», or keep it as --id"
        )
    return tuple(sorted(found.distinct))


def choose_fills(request: ConvertRequest, columns: Columns, total: Findings, dates: dict[str, str]) -> dict[str, float]:
    """What stands where a number is missing, of every feature that is a number or a date."""
    if request.missing == "error":
        return {}
    fills = {}
    for position, name in enumerate(columns.features):
        if name in columns.texts and name not in columns.dates:
            continue
        if request.constant is not None:
            fills[name] = request.constant
            continue
        count = total.rows - int(total.missing[position])
        mean = float(total.total[position]) / count if count else 0.0
        fills[name] = mean / DAY if dates.get(name) == "days" else mean
    return fills


def choose_dtype(asked: str, schema: Schema, total: Findings) -> str:
    """The narrowest dtype that holds every value of `x` exactly, or the one asked for if it can.

    Asking for a float type consents to its rounding; asking for an integer type does not.
    """
    if asked in FLOATS:
        return asked
    ends: list[float] = list(total.beyond_exact)
    fractions = total.has_fractions
    for position, name in enumerate(schema.features):
        if name in schema.categories:
            ends += [0, len(schema.categories[name])]  # one more for what is not known
        elif total.low[position] <= total.high[position]:
            unit = DAY if schema.dates.get(name) == "days" else 1
            ends += [total.low[position] / unit, total.high[position] / unit]
        if name in schema.fills and total.missing[position]:
            ends.append(schema.fills[name])
            fractions = fractions or schema.fills[name] != np.floor(schema.fills[name])
    if schema.indicators:
        ends += [0, 1]
    low, high = min(ends, default=0), max(ends, default=0)
    fitting = [name for name in INTEGERS if np.iinfo(name).min <= low and high <= np.iinfo(name).max]
    if asked == "auto":
        if not fractions and fitting:
            return fitting[0]
        if total.beyond_exact:
            raise UsageError(
                f"no type holds {min(total.beyond_exact)} to {max(total.beyond_exact)} exactly beside the other values; leave the "
                "column out with --ignore, keep it as --id, or give --dtype float64 to round"
            )
        return "float64" if total.needs_float64 else "float32"
    if fractions:
        raise UsageError(f"--dtype {asked}: there are values with decimals; use auto, float32 or float64")
    if asked not in fitting:
        can = f"; {fitting[0]} can (so would auto choose)" if fitting else ""
        raise UsageError(f"--dtype {asked} cannot hold {low:.0f} to {high:.0f}{can}")
    return asked
