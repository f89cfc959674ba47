"""The specification of a dataset, decided before anything is written: schema, layout, and the pieces of each shard.

All functions are pure: requests and findings in, a spec out. The spec is stored as JSON, so that an interrupted
conversion resumes with the same decisions.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any, Self

import numpy as np

from ...storage.errors import UsageError, suggest
from ...storage.format import WORK, Layout, Schema, Source, choose_layout
from ...storage.options import as_texts
from ...storage.places.json_files import as_json
from ...storage.places.place import Place
from ...storage.programs.own_code import Code
from ...storage.sequences import BESIDE_TOKENS, TokenForm
from ..csv.dialect import UNNAMED
from ..csv.options import CsvOptions
from ..csv.row_batch import Columns, Piece, Rounding
from ..sequences.form import TokenFindings
from ..sequences.tokenizer import TokenReading
from ..target.beside import DAY, roles_of, side_columns, widened
from ..target.labels import DISTINCT_LIMIT, choose_labels
from .findings import Findings
from .kinds import Sample, choose_kinds
from .options import FLOATS, INTEGERS, TableOptions
from .parquet import ParquetTable
from .readers import SourceTable, table_from_json, table_to_json

NO_CODE = Code()
NEW: dict[str, Any] = {
    "columns": "same",
    "after": None,
    "order": None,
    "tokens": None,
    "tokenizer": None,
    "length": None,
    "code": {},
}
"""The options that earlier versions did not have, with their defaults."""
NEARLY_ALL, FEWEST_TEXTS = 0.8, 20
"""A text column is free text, or names, if this fraction of its values, and at least this many, are distinct."""


@dataclass(frozen=True)
class ConvertRequest:
    """What the user asked for.

    `ignore` are columns to drop; `roles` are side columns by role, of which those in `features` are also features;
    `categories` and `dates` are feature columns of that kind (the kinds of other columns are inferred from the first
    rows). `date_formats` are formats of dates, for one column if its name and = precede it; `numbers` are columns of
    amounts such as $7.00. `missing` is whether a missing value is kept or an error; `like` is the schema of a dataset
    that this one must match, `unknown` how categories that it does not have are handled; `shuffle` is the seed for
    shuffling all rows, and `order` the SHA-256 of the file of their places (see `shuffle.py`); `columns` is whether
    files must have the "same" columns, or those of all ("union") or the "first" are read. `after` is the layout of the
    dataset that the rows are appended to; its schema is `like`, and must be matched exactly. Samples are sequences of
    the ids in the column `tokens`, at most `length`, which the `tokenizer` makes of texts: a name relative to the
    folder where its files have the hashes `code`.
    """

    sources: tuple[Source, ...]
    labels: tuple[str, ...] = ()
    id: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str = "auto"
    task: str = "auto"
    ignore: tuple[str, ...] = ()
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    date_formats: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    missing: str = "keep"
    unknown: str = "error"
    like: Schema | None = None
    on_error: str = "stop"
    shuffle: int | None = None
    columns: str = "same"
    csv: CsvOptions = field(default_factory=CsvOptions)
    after: Layout | None = None
    tokens: str | None = None
    tokenizer: str | None = None
    length: int | None = None
    code: dict[str, str] = field(default_factory=dict)
    order: str | None = None

    def __post_init__(self) -> None:
        if self.shuffle is not None and not 0 <= self.shuffle < 2**63:
            raise UsageError(f"--shuffle {self.shuffle}: the seed must be between 0 and 2⁶³ - 1")
        if both := {*self.numbers} & {*self.categories, *self.dates}:
            raise UsageError(
                f"--number {min(both)}: the column is also a category or a date; give it only one of these"
            )
        wishes = {"--tokenizer": self.tokenizer, "--length": self.length}
        if alone := [option for option, value in wishes.items() if value is not None and self.tokens is None]:
            raise UsageError(f"{alone[0]}: it is for sequences; name their column with --tokens COLUMN")
        if self.tokens and (self.shape or self.dtype != "auto"):
            raise UsageError(
                "--tokens: the shape and the type of sequences follow from them; remove --shape and --dtype"
            )
        if self.tokens and self.like:
            raise UsageError("--tokens: with --like, the tokens are those of its dataset; remove one of the options")

    @classmethod
    def of(cls, sources: Sequence[Source], options: TableOptions, like: Schema | None, code: Code = NO_CODE) -> Self:
        """The conversion request for sources and options; `like` is the schema that it must match, and `code` that of
        the tokenizer."""
        return cls(
            tuple(sources),
            labels=as_texts(options.label),
            id=options.id,
            shape=tuple(options.shape) if options.shape else None,
            dtype=options.dtype,
            task=options.task,
            ignore=as_texts(options.ignore),
            roles=roles_of(options),
            features=as_texts(options.feature),
            categories=as_texts(options.category),
            dates=as_texts(options.date),
            date_formats=as_texts(options.date_format),
            numbers=as_texts(options.number),
            missing=options.missing,
            unknown=options.unknown,
            like=like,
            on_error=options.on_error,
            shuffle=options.shuffle,
            columns=options.columns,
            csv=CsvOptions.model_validate(options.csv),
            tokens=options.tokens,
            tokenizer=code.names.get(options.tokenizer or "", options.tokenizer),
            length=options.length,
            code=code.hashes if options.tokenizer else {},
        )

    def sorted_by(self, order: str) -> Self:
        """The same request for rows in the order of a file with this hash."""
        return replace(self, order=order)

    @property
    def needed_labels(self) -> tuple[str, ...]:
        """The labels without which a row is left out. If all rows have to match another dataset, or no value may be
        missing, it is invalid instead."""
        return self.labels if (self.after or self.like is None) and self.missing == "keep" else ()

    @property
    def sequences(self) -> tuple[str, ...]:
        """The column of the token ids, if samples are sequences."""
        column = self.like.tokens.column if self.like and self.like.tokens else self.tokens
        return () if column is None else (column,)

    def reading(self, root: Place) -> TokenReading | None:
        """How texts become token ids in a conversion to `root`; None if samples are no sequences."""
        if self.like and self.like.tokens:
            return TokenReading.of(self.like.tokens, root / WORK, self.unknown == "code")
        return TokenReading(self.tokens, str(root / WORK), self.tokenizer, self.code) if self.tokens else None

    def to_json(self) -> dict[str, Any]:
        """What identifies the conversion; stored with it, as earlier versions did unless new options are used."""
        return {
            **{name: value for name, value in asdict(self).items() if name not in NEW or value != NEW[name]},
            "like": self.like and as_json(self.like),
            **({"after": self.after.to_json()} if self.after else {}),
            "sources": [source.to_json() for source in self.sources],
            "csv": self.csv.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        lists = ("labels", "ignore", "features", "categories", "dates", "date_formats", "numbers")
        tuples = {name: tuple(value.get(name, ())) for name in lists}
        return cls(
            **{
                **value,
                **tuples,
                "roles": {role: tuple(names) for role, names in value["roles"].items()},
                "sources": tuple(Source(**source) for source in value["sources"]),
                "shape": value["shape"] and tuple(value["shape"]),
                "like": value["like"] and Schema.from_json(value["like"]),
                "csv": CsvOptions.model_validate(value["csv"]),
                "after": Layout.from_json(value["after"]) if value.get("after") else None,
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


def choose_columns(request: ConvertRequest, tables: Sequence[SourceTable], sample: Sample) -> Columns:
    """Choose the feature columns, their order, and the columns that are read as text.

    Features are all columns except the labels, the id, ignored columns and columns with a role, in the order of the
    first table; or the features of `like`, in which case other columns are ignored.

    `sample` has values of each column. Raises UsageError for a column that does not exist, and for sources whose
    columns differ.
    """
    header, path = tables[0].columns, tables[0].path
    like = request.like
    named = [*((name, "--label") for name in request.labels), (request.id, "--id")]
    named += [(name, "--ignore") for name in request.ignore]
    named += [(name, "--category") for name in request.categories] + [(name, "--date") for name in request.dates]
    named += [(name, "--number") for name in request.numbers]
    named += [(name, f"--{role}") for role, names in request.roles.items() for name in names]
    named += [(name, "--feature") for name in request.features] + [(request.tokens, "--tokens")]
    parts = parts_of(tables)
    for name, option in named:
        if name and name not in header and not (option == "--ignore" and name in parts):
            raise UsageError(f"{option}: {path} has no column '{name}'{suggest(name, header)}")
    key, beside = key_of(request, tables), columns_beside(request, tables)
    if other := [name for name in request.features if name in (*request.labels, key, *request.ignore)]:
        raise UsageError(
            f"--feature {other[0]}: the column is also a label, the id or ignored; give it only one of these"
        )
    ignored = {part for name in request.ignore for part in parts.get(name, (name,))}
    aside = {*request.labels, key, *ignored, *beside, *index_columns(request, tables)}
    features = like.features if like else tuple(name for name in header if name not in aside)
    if request.tokens and request.tokens in aside:
        raise UsageError(f"--tokens {request.tokens}: the column is also a label, the id or one with a role")
    beside_tokens = features_beside(request, features)
    expected = {*features, *aside}
    features = tuple(name for name in features if name not in beside_tokens)
    for table in tables:
        there = {*table.columns}
        missing = [name for name in features if name not in there]
        extra = [name for name in table.columns if name not in expected and not like and request.columns != "first"]
        unlabelled = [name for name in (*request.labels, key, *beside) if name and name not in there]
        if missing or extra or unlabelled:
            differences = _differences([*missing, *unlabelled], extra, table.columns)
            remedy = "" if like else "; to read such files together, use --columns union or --columns first"
            raise UsageError(f"{table.path} does not have the expected columns: {differences}{remedy}")
    if not features:
        raise UsageError(
            f"{path} has no feature columns besides the labels, the id, ignored columns and columns with a role; check "
            "--label, --id, --ignore, --group and the other role options"
        )
    own = tuple(name for name in (*request.labels, key) if name)
    of_features = () if request.sequences else features
    kinds = choose_kinds(request, tables[0], of_features, beside, own, sample)
    texts = tuple(dict.fromkeys((*own, *beside, *kinds.categories, *kinds.dates, *request.sequences)))
    required = texts if request.missing == "error" else own
    known = _known_texts(request)
    return Columns(features, texts, tuple(kinds.dates), required, kinds.formats, known, request.sequences)


def features_beside(request: ConvertRequest, features: Sequence[str]) -> dict[str, str]:
    """The columns that would be features if samples were no sequences, and the reason why they are dropped."""
    if request.tokens is None or request.like:
        return {}
    wished = (*request.features, *request.categories, *request.dates, *request.numbers)
    if named := [name for name in wished if name in features]:
        raise UsageError(
            f"--tokens {request.tokens}: '{named[0]}' cannot be a feature beside sequences; store it with --keep"
        )
    return dict.fromkeys((name for name in features if name != request.tokens), BESIDE_TOKENS)


def _known_texts(request: ConvertRequest) -> dict[str, tuple[str, ...]]:
    """The texts that columns may have, if rows with others are skipped: those of `like`."""
    if request.like is None or request.on_error == "stop":
        return {}
    classes = dict.fromkeys(request.labels if request.labels == request.like.labels else (), request.like.classes)
    categories = request.like.categories if request.unknown == "error" else {}
    return {name: values for name, values in {**categories, **classes}.items() if values}


def parts_of(tables: Sequence[SourceTable]) -> dict[str | int, list[str]]:
    """The columns that are parts of a nested column, by its name."""
    found = dict[str | int, list[str]]()
    for table in tables:
        for name, way in table.nested.items() if isinstance(table, ParquetTable) else ():
            found.setdefault(way[0], []).append(name)
    return found


def index_columns(request: ConvertRequest, tables: Sequence[SourceTable]) -> dict[str, str]:
    """The columns that are the index of a DataFrame, or have no name, and the reason why they are dropped; except those
    that an option names."""
    named = {*request.features, *request.categories, *request.dates, *request.numbers, *request.labels, request.id}
    named |= {name for names in request.roles.values() for name in names}
    found = dict[str, str]()
    for table in tables:
        index = table.index if isinstance(table, ParquetTable) else ()
        found |= dict.fromkeys(index, "the index of a pandas DataFrame")
        found |= {name: "a column without a name" for name in table.header if name.startswith(UNNAMED)}
    return {name: reason for name, reason in found.items() if name not in named}


def columns_beside(request: ConvertRequest, tables: Sequence[SourceTable]) -> tuple[str, ...]:
    """The side columns: columns with a role that are not features, and those of `like` that all tables have, with its
    labels if the request names none: they may be missing or new, but predictions can be scored by the others."""
    features = {*request.features, *(request.like.features if request.like else ())}
    named = (name for names in request.roles.values() for name in names if name not in features)
    likes = [column.name for column in (request.like.beside if request.like else ())]
    likes += request.like.labels if request.like and not request.labels else ()
    taken = {*request.labels, request.id}
    everywhere = (name for name in likes if name not in taken and all(name in table.columns for table in tables))
    return tuple(dict.fromkeys((*named, *everywhere)))


def key_of(request: ConvertRequest, tables: Sequence[SourceTable]) -> str | None:
    """The key column of the rows: that of `id`, or the key column of `like` if all tables have it."""
    likes = request.like.key if request.like else None
    return request.id or (likes if all(likes in table.columns for table in tables) else None)


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
    layout = layout or choose_layout(first, schema.arrays()[0].row_bytes, padded=schema.tokens is not None)
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


def find_free_text(request: ConvertRequest, columns: Columns, total: Findings) -> dict[str, str]:
    """The text features that are unique in nearly every row, such as names, and why each is dropped."""
    found = {}
    for name in columns.texts:
        if name not in columns.places or name in (*columns.dates, *request.categories, *columns.sequences):
            continue
        distinct = total.texts[name].distinct
        there = total.rows - int(total.missing[columns.places[name]])
        count = None if distinct is None else len(distinct - {""})
        if count is None:
            found[name] = f"text with more than {DISTINCT_LIMIT:,} distinct values"
        elif count >= FEWEST_TEXTS and count >= NEARLY_ALL * there:
            found[name] = f"text with {count:,} distinct values in {there:,} rows"
    return found


def without(columns: Columns, dropped: Container[str]) -> Columns:
    """The columns except those in `dropped`."""
    lists = (columns.features, columns.texts, columns.dates, columns.required)
    features, texts, dates, required = (tuple(name for name in names if name not in dropped) for names in lists)
    formats = {name: way for name, way in columns.formats.items() if name not in dropped}
    return Columns(features, texts, dates, required, formats, columns.known, columns.sequences)


def choose_schema(
    request: ConvertRequest, columns: Columns, found: Findings, left_out: Mapping[str, str] | None = None
) -> Schema:
    """Choose dtypes, shape, classes, categories and side columns from the findings."""
    features, like = columns.features, request.like
    coded = [name for name in columns.texts if name in features and name not in (*columns.dates, *columns.sequences)]
    units = {name: found.units.get(name, "days") for name in columns.dates}
    if like:
        categories, dates = like.categories, like.dates
    else:
        categories = {name: _category_values(name, found) for name in coded}
        dates = {name: "days" if unit == "days" else "seconds" for name, unit in units.items() if name in features}
    if not features:
        raise UsageError("all feature columns are text that is unique in nearly every row; keep one with --category")
    shape = request.shape or (like.sample_shape if like else (len(features),))
    tokens = choose_tokens(request, found.lengths)
    if tokens and not like:
        shape = (min(found.lengths.longest, request.length or found.lengths.longest),)
    elif not tokens and prod(shape) != len(features):
        raise UsageError(
            f"--shape {','.join(map(str, shape))} has {prod(shape):,} values, but the data has {len(features):,} "
            "feature columns (all columns except the label, the id and columns with a role); choose a shape whose "
            "product is that number"
        )
    key = request.id or (like.key if like and like.key in columns.texts else None)
    aside = {*request.labels, key, *features}
    schema = Schema(
        features,
        shape,
        "uint8",
        key=key,
        categories=categories,
        dates=dates,
        roles=request.roles or (like.roles if like else {}),
        beside=side_columns([name for name in columns.texts if name not in aside], units, found.texts),
        left_out=dict(left_out or {}),
        formats=columns.formats,
        tokens=tokens,
    )
    if key:
        names = found.texts[key]
        schema = replace(schema, key_width=None if names.kind == "integer" else max(1, names.width))
    labels = request.labels
    if labels and like and like.labels == labels:
        schema = replace(schema, labels=labels, task=like.task, y_dtype=like.y_dtype, classes=like.classes)
    elif labels:
        task, y_dtype, classes = choose_labels(request.task, {name: found.texts[name] for name in labels})
        schema = replace(schema, labels=labels, task=task, y_dtype=y_dtype, classes=classes)
    if tokens:
        return replace(schema, x_dtype=like.x_dtype if like else np.min_scalar_type(found.lengths.largest).name)
    return replace(schema, x_dtype=choose_dtype(request.dtype, schema, found))


def choose_tokens(request: ConvertRequest, found: TokenFindings) -> TokenForm | None:
    """How the rows become sequences, if they do."""
    if request.like and request.like.tokens:
        return replace(request.like.tokens, truncated=found.truncated)
    if request.tokens is None:
        return None
    return found.form(request.tokens, request.tokenizer, request.code, request.length)


def _category_values(name: str, total: Findings) -> tuple[str, ...]:
    found = total.texts[name]
    if found.distinct is None:
        numbers = f"read it as numbers without --category '{name}', " if found.kind != "text" else ""
        raise UsageError(
            f"the column '{name}' has too many distinct values to be a category (more than {DISTINCT_LIMIT:,}); "
            f"{numbers}combine rare values in the source, drop it with --ignore '{name}', store it beside the features "
            f"with --keep '{name}', or use it as the key with --id '{name}'"
        )
    return tuple(sorted(found.distinct))


EXACT_ENOUGH = 256
"""Largest ratio of a column's values to their range in float32: 16 of 24 bits then remain for the differences."""
SMALLEST, LARGEST = 1e-30, 1e38  # in float32, with some room


def choose_dtype(asked: str, schema: Schema, total: Findings) -> str:
    """The narrowest dtype for the values of `x`, or the requested one if it can represent them.

    Whole numbers are stored exactly, fractions at least as float32 (see `fits_float32`). Missing numbers need a float
    type. A requested float type may round; a requested integer type may not.
    """
    if asked in FLOATS:
        return asked
    numbers = [position for position, name in enumerate(schema.features) if name not in schema.categories]
    beyond_exact = [one.value for one in total.beyond_exact]
    ends: list[float] = [*beyond_exact, *(len(values) for values in schema.categories.values())]  # unknown values
    for position in numbers:
        if total.low[position] <= total.high[position]:
            unit = DAY if schema.dates.get(schema.features[position]) == "days" else 1
            ends += [float(total.low[position] / unit), float(total.high[position] / unit)]  # exact beside integers
    low, high = min([0.0, *ends]), max([0.0, *ends])
    fractions, gaps = total.has_fractions[numbers].any(), [n for n in numbers if total.missing[n]]
    fitting = [name for name in INTEGERS if np.iinfo(name).min <= low and high <= np.iinfo(name).max]
    if asked == "auto":
        if not fractions and not gaps and fitting:
            return fitting[0]
        if total.beyond_exact:
            raise UsageError(
                f"no dtype can store {min(beyond_exact)} to {max(beyond_exact)} exactly together with fractions or "
                f"missing values ({max(total.beyond_exact).where}); drop the column with --ignore, use it as --id, or "
                "round with --dtype float64"
            )
        return "float32" if fits_float32(total) else "float64"
    if gaps:
        name = schema.features[gaps[0]]
        raise UsageError(
            f"--dtype {asked} cannot store missing values, which the column '{name}' has; use auto or float32"
        )
    if fractions:
        raise UsageError(f"--dtype {asked} cannot store fractional values; use auto, float32 or float64")
    if asked not in fitting:
        remedy = f"use {fitting[0]} or auto" if fitting else "use auto"
        raise UsageError(f"--dtype {asked} cannot store {low:.0f} to {high:.0f}; {remedy}")
    return asked


def fits_float32(total: Findings) -> bool:
    """Whether float32 preserves every whole number, and the differences between the values of columns with fractions.

    A column of values around 1e9 that differ by hundredths needs float64; a column of prices does not.
    """
    if total.needs_float64.any():
        return False
    low, high = total.low[total.has_fractions], total.high[total.has_fractions]
    size = np.maximum(np.abs(low), np.abs(high))
    constant = low == high
    spread_out = constant | (size <= EXACT_ENOUGH * (high - low))
    return bool((spread_out & (size >= SMALLEST) & (size <= LARGEST)).all())
