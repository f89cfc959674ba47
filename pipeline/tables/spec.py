"""The specification of a dataset, made before anything is written: schema, layout, and the pieces of each shard.

All functions are pure: requests and findings in, a spec out. The spec is stored as JSON, so that an interrupted
conversion resumes with the same decisions.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ...storage.errors import UsageError, suggest
from ...storage.format import Layout, Schema, Source, choose_layout
from ..csv.cut import CsvTable
from ..csv.dialect import Dialect, is_number
from ..csv.options import CsvOptions, as_texts
from ..csv.row_batch import Columns, Piece
from ..csv.rows import parse_dates
from ..target.labels import choose_labels
from .findings import DAY, Findings
from .options import FLOATS, INTEGERS, TableOptions, parse_missing
from .readers import SourceTable, table_from_json, table_to_json


@dataclass(frozen=True)
class ConvertRequest:
    """What the user asked for.

    `ignore` are columns to drop; `categories` and `dates` are feature columns of that kind (the kinds of others are
    inferred from the first rows). `missing` is how missing numbers are handled, `constant` the value for them; `like`
    is the schema of a dataset that this one must match, `unknown` how categories that it lacks are handled; `shuffle`
    is the seed of a shuffle of all rows.
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
        if self.shuffle is not None and not 0 <= self.shuffle < 2**63:
            raise UsageError(f"--shuffle {self.shuffle}: the seed must be from 0 to 2⁶³ - 1")
        if self.like and self.missing != "error":
            raise UsageError(
                f"--missing {self.missing} cannot be combined with --like, which uses the fill values of the training "
                "data; if it has none, convert it with --missing and train again"
            )

    @property
    def gaps(self) -> bool:
        """Whether features may have missing values."""
        if self.like:
            return bool(self.like.fills) or any("" in values for values in self.like.categories.values())
        return self.missing != "error"

    @classmethod
    def of(cls, sources: Sequence[Source], options: TableOptions, like: Schema | None) -> Self:
        """The conversion of sources that a user's options ask for; `like` is the schema that it must fit."""
        missing, constant = parse_missing(options.missing)
        return cls(
            tuple(sources),
            labels=as_texts(options.label),
            id=options.id,
            shape=tuple(options.shape) if options.shape else None,
            dtype=options.dtype,
            task=options.task,
            ignore=as_texts(options.ignore),
            categories=as_texts(options.category),
            dates=as_texts(options.date),
            missing=missing,
            constant=constant,
            unknown=options.unknown,
            like=like,
            on_error=options.on_error,
            shuffle=options.shuffle,
            csv=CsvOptions.model_validate(options.csv),
        )

    def to_json(self) -> dict[str, Any]:
        """What identifies the conversion; stored with it."""
        return {**asdict(self), "csv": self.csv.model_dump()}

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
                "csv": CsvOptions.model_validate(value["csv"]),
            }
        )


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

    @property
    def source_bytes(self) -> int:
        """The size of all sources in bytes, compressed if they are."""
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
        """The pieces that contain rows of a shard, in order."""
        start, stop = self.layout.shard_range(shard)
        first = bisect_right(self._first_rows, start) - 1
        last = bisect_right(self._first_rows, stop - 1)
        return self.pieces[first:last]


def choose_columns(request: ConvertRequest, tables: Sequence[SourceTable], sample: Sequence[Sequence[str]]) -> Columns:
    """Choose the feature columns, their order, and the columns that are read as text.

    Features are all columns except the labels, the id and the ignored ones, in the order of the first table; or those
    of `like`, and other columns are then ignored. Raises UsageError for a column that does not exist, and for sources
    whose columns differ.
    """
    header, path = tables[0].header, tables[0].path
    like = request.like
    named = [*((name, "--label") for name in request.labels), (request.id, "--id")]
    named += [(name, "--ignore") for name in request.ignore]
    named += [(name, "--category") for name in request.categories] + [(name, "--date") for name in request.dates]
    for name, option in named:
        if name and name not in header:
            raise UsageError(f"{option}: {path} has no column '{name}'{suggest(name, header)}")
    key = key_of(request, tables)
    aside = {*request.labels, key, *request.ignore}
    features = like.features if like else tuple(name for name in header if name not in aside)
    for table in tables:
        missing = [name for name in features if name not in table.header]
        extra = [name for name in table.header if name not in features and name not in aside and not like]
        unlabelled = [name for name in (*request.labels, key) if name and name not in table.header]
        if missing or extra or unlabelled:
            differences = _differences([*missing, *unlabelled], extra, table.header)
            raise UsageError(f"{table.path} does not have the expected columns: {differences}")
    if not features:
        raise UsageError(
            f"{path} has no feature columns besides the labels, the id and ignored columns; check --label, --id and "
            "--ignore"
        )
    if like:
        categories, dates = tuple(like.categories), tuple(like.dates)
    else:
        categories, dates = find_kinds(request, tables[0], features, sample)
    own = tuple(name for name in (*request.labels, key) if name)
    required = own if request.gaps else (*own, *categories, *dates)
    return Columns(features, tuple(dict.fromkeys((*own, *categories, *dates))), dates, required)


def key_of(request: ConvertRequest, tables: Sequence[SourceTable]) -> str | None:
    """The key column of the rows: that of `id`, or the key column of `like` if all tables have it."""
    likes = request.like.key if request.like else None
    return request.id or (likes if all(likes in table.header for table in tables) else None)


def find_kinds(
    request: ConvertRequest, table: SourceTable, features: Sequence[str], sample: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The features that are categories and those that are dates: as requested, or if no sampled value is a number."""
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
    """Whether a value is meant as a number but is not accepted: infinities, thousands with commas, hexadecimals."""
    plain = value.strip().lower().lstrip("+-").replace(",", "").replace(".", "").replace("_", "")
    return plain in ("inf", "infinity", "nan") or plain.removeprefix("0x").isdigit()


def _differences(missing: Sequence[str], extra: Sequence[str], header: Sequence[str]) -> str:
    parts = []
    for kind, names in (("missing", missing), ("unexpected", extra)):
        if names:
            shown = ", ".join(f"'{name}'" for name in names[:5])
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
    """Specify the dataset. `pieces` are those of all tables, with the table's index; `findings` has one entry per
    piece, or is None if `total` comes from a sample."""
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
        layout, schema, columns, tuple(tables), tuple(numbered), request.to_json(), sampled, total.skipped
    )


def choose_schema(request: ConvertRequest, columns: Columns, total: Findings) -> Schema:
    """Choose dtypes, shape, classes, categories and fill values from the findings."""
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
        added = f" and {len(indicators)} indicators of missing values" if indicators else ""
        raise UsageError(
            f"--shape {','.join(map(str, shape))} has {prod(shape):,} values, but the data has {len(features):,} "
            f"feature columns (all columns except the label and the id){added}; choose a shape whose product is that "
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
            f"the text column '{name}' has too many distinct values to be a category; drop it with --ignore '{name}', "
            f"or use it as the key with --id '{name}'"
        )
    return tuple(sorted(found.distinct))


def choose_fills(request: ConvertRequest, columns: Columns, total: Findings, dates: dict[str, str]) -> dict[str, float]:
    """The fill value for missing values of every feature that is a number or a date."""
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
    """The narrowest dtype that represents every value of `x` exactly, or the requested one if it can.

    A requested float type may round; a requested integer type may not.
    """
    if asked in FLOATS:
        return asked
    ends: list[float] = list(total.beyond_exact)
    fractions = total.has_fractions
    for position, name in enumerate(schema.features):
        if name in schema.categories:
            ends += [0, len(schema.categories[name])]  # one more for unknown values
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
                f"no dtype can store {min(total.beyond_exact)} to {max(total.beyond_exact)} exactly together with the "
                "other values; drop the column with --ignore, use it as --id, or round with --dtype float64"
            )
        return "float64" if total.needs_float64 else "float32"
    if fractions:
        raise UsageError(f"--dtype {asked} cannot store fractional values; use auto, float32 or float64")
    if asked not in fitting:
        remedy = f"use {fitting[0]} or auto" if fitting else "use auto"
        raise UsageError(f"--dtype {asked} cannot store {low:.0f} to {high:.0f}; {remedy}")
    return asked
