"""What to write, decided before anything is written: schema, layout, and which piece feeds which shard.

Pure: requests and findings in, plan out. The plan is stored as JSON, so that a conversion that was killed goes on from
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
from ..csv.cut import CsvText
from ..csv.dialect import Dialect, is_number
from ..csv.options import CsvOptions, as_texts
from ..csv.row_batch import Columns, Piece
from ..csv.rows import parse_dates
from ..target.labels import ON_ERROR, TASKS, choose_labels
from .findings import DAY, Findings
from .options import FLOATS, INTEGERS, TableOptions, parse_missing
from .readers import Text, text_from_json, text_to_json

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
class PlannedPiece:
    """A piece of text number `text`, the position of its first row in the whole, its rows without the faulty ones,
    and how many of those it has."""

    text: int
    piece: Piece
    first_row: int
    rows: int
    left_out: int


@dataclass(frozen=True)
class ConvertPlan:
    """All that a conversion will do. `sampled`: the schema is that of a sample, and every row is held against it."""

    layout: Layout
    schema: Schema
    columns: Columns
    texts: tuple[Text, ...]
    pieces: tuple[PlannedPiece, ...]
    request: dict[str, Any]
    sampled: bool = False
    left_out: int = 0
    """Faulty rows of all sources that are left out."""

    @property
    def source_bytes(self) -> int:
        """Bytes of all sources, packed as they are."""
        return sum(source["bytes"] for source in self.request["sources"])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "texts": [text_to_json(text) for text in self.texts]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            Layout(**value["layout"]),
            Schema.from_json(value["schema"]),
            Columns(**{name: tuple(names) for name, names in value["columns"].items()}),
            tuple(map(text_from_json, value["texts"])),
            tuple(PlannedPiece(**{**piece, "piece": Piece(**piece["piece"])}) for piece in value["pieces"]),
            value["request"],
            value["sampled"],
            value["left_out"],
        )

    @cached_property
    def _first_rows(self) -> list[int]:
        return [piece.first_row for piece in self.pieces]

    def pieces_of(self, shard: int) -> tuple[PlannedPiece, ...]:
        """The pieces that hold rows of a shard, in order."""
        start, stop = self.layout.shard_range(shard)
        first = bisect_right(self._first_rows, start) - 1
        last = bisect_right(self._first_rows, stop - 1)
        return self.pieces[first:last]


def choose_columns(request: ConvertRequest, texts: Sequence[Text], sample: Sequence[Sequence[str]]) -> Columns:
    """Which columns are features, in which order, and which of all are text.

    Features are all columns but label, id and those ignored, in the first text's order, or those that `like` has: then
    others are passed over. Raises UsageError for a column that is not there, and for sources whose columns differ.
    """
    header, path = texts[0].header, texts[0].path
    like = request.like
    named = [*((name, "--label") for name in request.labels), (request.id, "--id")]
    named += [(name, "--ignore") for name in request.ignore]
    named += [(name, "--category") for name in request.categories] + [(name, "--date") for name in request.dates]
    for name, option in named:
        if name and name not in header:
            raise UsageError(f"{option}: {path} has no column «{name}»{suggest(name, header)}")
    key = key_of(request, texts)
    aside = {*request.labels, key, *request.ignore}
    features = like.features if like else tuple(name for name in header if name not in aside)
    for text in texts:
        missing = [name for name in features if name not in text.header]
        extra = [name for name in text.header if name not in features and name not in aside and not like]
        lost = [name for name in (*request.labels, key) if name and name not in text.header]
        if missing or extra or lost:
            differences = _differences([*missing, *lost], extra, text.header)
            raise UsageError(f"{text.path} has other columns than expected: {differences}")
    if not features:
        raise UsageError(f"{path} has no columns besides the label and the id")
    if like:
        categories, dates = tuple(like.categories), tuple(like.dates)
    else:
        categories, dates = find_kinds(request, texts[0], features, sample)
    own = tuple(name for name in (*request.labels, key) if name)
    required = own if request.gaps else (*own, *categories, *dates)
    return Columns(features, tuple(dict.fromkeys((*own, *categories, *dates))), dates, required)


def key_of(request: ConvertRequest, texts: Sequence[Text]) -> str | None:
    """The column that names the rows: that of `id`, or the one that names those of `like`, if it is there."""
    likes = request.like.key if request.like else None
    return request.id or (likes if all(likes in text.header for text in texts) else None)


def find_kinds(
    request: ConvertRequest, text: Text, features: Sequence[str], sample: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which features are categories and which are dates: as asked, or because no value of the sample is a number."""
    dialect = text.dialect if isinstance(text, CsvText) else Dialect()
    rows = [row for row in sample if len(row) == len(text.header)]
    categories, dates = [], []
    for name in features:
        position = text.header.index(name)
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


def plan_conversion(
    request: ConvertRequest,
    columns: Columns,
    texts: Sequence[Text],
    pieces: Sequence[tuple[int, Piece]],
    findings: Sequence[Findings] | None,
    total: Findings,
) -> ConvertPlan:
    """Decide everything. `pieces` are those of all texts with their text's number; `findings` are one a piece, or
    None where `total` is that of a sample."""
    schema = choose_schema(request, columns, total)
    planned, first = [], 0
    for position, (text, piece) in enumerate(pieces):
        rows = findings[position].rows if findings else piece.rows
        if rows:
            planned.append(PlannedPiece(text, piece, first, rows, findings[position].left_out if findings else 0))
            first += rows
    layout = choose_layout(first, schema.arrays()[0].row_bytes)
    sampled = findings is None
    return ConvertPlan(
        layout, schema, columns, tuple(texts), tuple(planned), request.to_json(), sampled, total.left_out
    )


def choose_schema(request: ConvertRequest, columns: Columns, total: Findings) -> Schema:
    """Dtypes, shape, classes, categories and what stands for missing numbers, from what the data holds."""
    features, like = columns.features, request.like
    coded = [name for name in columns.texts if name in features and name not in columns.dates]
    if like:
        categories, dates, fills, indicators = like.categories, like.dates, like.fills, like.indicators
    else:
        categories = {name: _category_values(name, total) for name in coded}
        dates = {name: "seconds" if name in total.timed else "days" for name in columns.dates}
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
    ends: list[float] = list(total.large)
    broken = total.broken
    for position, name in enumerate(schema.features):
        if name in schema.categories:
            ends += [0, len(schema.categories[name])]  # one more for what is not known
        elif total.low[position] <= total.high[position]:
            unit = DAY if schema.dates.get(name) == "days" else 1
            ends += [total.low[position] / unit, total.high[position] / unit]
        if name in schema.fills and total.missing[position]:
            ends.append(schema.fills[name])
            broken = broken or schema.fills[name] != np.floor(schema.fills[name])
    if schema.indicators:
        ends += [0, 1]
    low, high = min(ends, default=0), max(ends, default=0)
    fitting = [name for name in INTEGERS if np.iinfo(name).min <= low and high <= np.iinfo(name).max]
    if asked == "auto":
        if not broken and fitting:
            return fitting[0]
        if total.large:
            raise UsageError(
                f"no type holds {min(total.large)} to {max(total.large)} exactly beside the other values; leave the "
                "column out with --ignore, keep it as --id, or give --dtype float64 to round"
            )
        return "float64" if total.wide else "float32"
    if broken:
        raise UsageError(f"--dtype {asked}: there are values with decimals; use auto, float32 or float64")
    if asked not in fitting:
        can = f"; {fitting[0]} can (so would auto choose)" if fitting else ""
        raise UsageError(f"--dtype {asked} cannot hold {low:.0f} to {high:.0f}{can}")
    return asked
