"""The kinds of columns, numbers, dates or categories, decided from the types and the first values of the sources."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from ...storage.errors import SourceError, UsageError
from ...storage.format.layout import Layout
from ...storage.format.schema import Schema
from ..csv.amounts import AMOUNT, LOCAL, find_amounts
from ..csv.cut import CsvTable
from ..csv.dates import (
    DAY_FIRST,
    EXAMPLES,
    SHORT,
    YEAR_FIRST,
    as_format,
    count_dates,
    find_ways,
    pattern_of,
    short_formats,
)
from ..csv.dialect import Dialect, is_number
from ..target.beside import UNITS
from ..target.labels import label_columns
from .readers import SourceTable

Sample = Mapping[str, Sequence[str]]
"""Values of each column as text, from the first rows."""
MOST_SAID = 10  # columns
QUANTITIES = ("time", "fold", "weight")  # roles of columns that may be numbers


class Wishes(Protocol):
    """What a request says about the kinds of columns."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def categories(self) -> tuple[str, ...]: ...
    @property
    def dates(self) -> tuple[str, ...]: ...
    @property
    def date_formats(self) -> tuple[str, ...]: ...
    @property
    def numbers(self) -> tuple[str, ...]: ...
    @property
    def roles(self) -> dict[str, tuple[str, ...]]: ...
    @property
    def like(self) -> Schema | None: ...
    @property
    def after(self) -> Layout | None: ...


@dataclass
class Kinds:
    """The categorical columns and the dates among some columns, and the formats as in `Columns`."""

    categories: list[str] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)


def choose_kinds(
    request: Wishes,
    table: SourceTable,
    features: Sequence[str],
    beside: Sequence[str],
    own: Sequence[str],
    sample: Sample,
) -> Kinds:
    """The kinds of the features and of the columns beside them, and the formats of these and of the label and the key,
    which are `own`. Those of the features are as in the schema `like`, if there is one, and those of all columns if
    rows are appended.

    Raises UsageError for formats that are not valid, and SourceError for dates whose order is not clear.
    """
    like = request.like
    if like and request.after:
        dates = [column.name for column in like.beside if column.kind in UNITS]
        found = Kinds([], dates, _find_formats(request, table, dates, like, sample))
    else:
        found = _find_kinds(request, table, beside, sample)
    if like:
        formats = _find_formats(request, table, like.dates, like, sample)
        of_features = Kinds([*like.categories], [*like.dates], formats)
    else:
        of_features = _find_kinds(request, table, features, sample)
    labels = [name for label in request.labels for name in label_columns(label, {*table.columns})]
    quantities = [*labels, *(name for role in QUANTITIES for name in request.roles.get(role, ()))]
    amounts = dict.fromkeys({*own} & {*request.numbers}, AMOUNT)
    formats = {**_find_local(table, quantities, sample), **of_features.formats, **amounts, **found.formats}
    dates = [*of_features.dates, *found.dates]
    _check_format_used(request, table.columns, formats, dates)
    return Kinds(of_features.categories, dates, formats)


def _find_kinds(request: Wishes, table: SourceTable, names: Sequence[str], sample: Sample) -> Kinds:
    """The kinds of columns: as requested, those of the types, or what most of the different values in the sample
    are."""
    found = Kinds()
    given, general = split_formats(request.date_formats, table.columns)
    for name in names:
        values = present(sample.get(name, ()), table)
        kind = _kind_of(request, table, name, values, given, general)
        if kind == "category":
            found.categories.append(name)
        elif kind == "date":
            found.dates.append(name)
            way = given.get(name) or _way_of(request, table, name, values, general)
            if way != YEAR_FIRST:
                found.formats[name] = way
        elif name in request.numbers:
            found.formats[name] = AMOUNT
    return found


def _find_formats(
    request: Wishes, table: SourceTable, dates: Iterable[str], kinds: Schema, sample: Sample
) -> dict[str, str]:
    """The formats of the columns of a schema in a table, some of which are `dates`: as requested, as in the schema, or
    as its own values have them where those of the schema do not fit."""
    given, general = split_formats(request.date_formats, table.columns)
    formats = {name: way for name, way in kinds.formats.items() if way == AMOUNT}
    formats |= dict.fromkeys(request.numbers, AMOUNT)
    for name in dates:
        known = kinds.formats.get(name, YEAR_FIRST)
        values = present(sample.get(name, ()), table)
        formats[name] = given.get(name) or _way_of(request, table, name, values, general, known)
    return {name: way for name, way in formats.items() if way != YEAR_FIRST}


def _find_local(table: SourceTable, names: Sequence[str], sample: Sample) -> dict[str, str]:
    """The format of those columns of text, such as labels, whose numbers may have a decimal comma, separators of
    thousands or spaces around them."""
    if not isinstance(table, CsvTable):
        return {}
    dialect = table.dialect
    local = dialect.decimal != "." or bool(dialect.thousands)
    spaced = (name for name in names if any(v != v.strip() and is_number(v, dialect) for v in sample.get(name, ())))
    return dict.fromkeys(names if local else spaced, LOCAL)


def split_formats(date_formats: Sequence[str], header: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """The formats of columns by name, and the one for all other columns. Raises UsageError for invalid ones."""
    given, general = dict[str, str](), None
    for text in date_formats:
        name, named, written = text.partition("=")
        if named and name in header:
            given[name] = written
        elif named and "%" not in name:
            raise UsageError(f"--date-format {text}: there is no column '{name}'; check the name")
        else:
            written = general = text
        pattern_of(written)
    return given, general


def _check_format_used(
    request: Wishes, header: Sequence[str], formats: Mapping[str, str], dates: Sequence[str]
) -> None:
    """Raise UsageError if the format for all columns reads none."""
    general = split_formats(request.date_formats, header)[1]
    if general and general not in formats.values() and not {*dates} & {*request.dates}:
        raise UsageError(
            f"--date-format {general}: the first rows of no text column have such dates; check the format, or name the "
            f"column with --date-format 'COLUMN={general}'"
        )


def present(values: Sequence[str], table: SourceTable) -> list[str]:
    """The values that are not missing."""
    missing = frozenset(dialect_of(table).missing)
    return [value if value.isascii() else _valid(value) for value in values if value.strip() not in missing]


def _valid(text: str) -> str:
    """A text without the bytes that are not UTF-8."""
    return text.encode(errors="replace").decode()


def dialect_of(table: SourceTable) -> Dialect:
    """The dialect of a table, the default one for Parquet."""
    return table.dialect if isinstance(table, CsvTable) else Dialect()


def _kind_of(
    request: Wishes, table: SourceTable, name: str, values: Sequence[str], given: Mapping[str, str], general: str | None
) -> str:
    """The kind of a column: "category", "date" or "number"."""
    if name in request.categories:
        return "category"
    if name in request.numbers:
        return "number"
    if name in request.dates or name in given:
        return "date"
    typed = "" if isinstance(table, CsvTable) else table.kinds.get(name, "")
    if typed in ("date", "number", "seconds"):
        return "date" if typed == "date" else "number"
    if not typed and _all_numbers(values):
        return "number"
    if not values:
        return "category"
    if find_ways(values) or short_formats(values) or (general and _fits(values, general)):
        return "date"
    return "number" if typed != "text" and _mostly_numbers(values, dialect_of(table)) else "category"


def _all_numbers(values: Sequence[str]) -> bool:
    """Whether Python reads all values as numbers, which is quick, and true of most columns."""
    with suppress(ValueError):
        return all(float(value) is not None for value in values)
    return False


def _fits(values: Sequence[str], way: str) -> bool:
    """Whether most of the different values are dates in this format, and not all of them are numbers."""
    different = list(dict.fromkeys(values))
    if all(is_number(value, Dialect()) for value in different):
        return False
    return 2 * count_dates(pa.array(different, pa.string()), way) >= len(different)


def _way_of(
    request: Wishes,
    table: SourceTable,
    name: str,
    values: Sequence[str],
    general: str | None,
    known: str | None = None,
) -> str:
    """The way in which the dates of a column are written. Raises SourceError if it is not clear."""
    if general and (name in request.dates or _fits(values, general)):
        return general
    if not values or (not isinstance(table, CsvTable) and table.kinds.get(name) == "date"):
        return known or YEAR_FIRST
    ways = find_ways(values, known)
    if len(ways) > 1:
        example = next(value for value in values if re.match(pattern_of(DAY_FIRST), value.strip()))
        raise _unclear(table, name, example, [as_format(way, example) for way in ways])
    if not ways and (formats := short_formats(values)):
        example = next(value for value in values if SHORT.fullmatch(value.strip().partition(" ")[0]))
        raise _unclear(table, name, example, formats)
    return ways[0] if ways else known or YEAR_FIRST


def _unclear(table: SourceTable, name: str, value: str, formats: Sequence[str]) -> SourceError:
    options = " or ".join(f"--date-format '{name}={one}'" for one in formats)
    return SourceError(
        f"{table.path}, column '{name}': the order of day and month in '{value}' is not clear from the first rows; "
        f"use {options}, or keep the column as text with --category '{name}'"
    )


def _mostly_numbers(values: Sequence[str], dialect: Dialect) -> bool:
    """Whether at least half of the different values are numbers, or look so although they are not accepted."""
    different = {value.strip() for value in values}
    numbers = sum(is_number(value, dialect) or _is_special(value) for value in different)
    return 2 * numbers >= len(different)


def _is_special(value: str) -> bool:
    """Whether a value looks like a number but is not accepted: infinity, thousands with commas, hexadecimal."""
    plain = value.lower().lstrip("+-").replace(",", "").replace("_", "")
    if plain.count(".") > 1 and not re.fullmatch(r"\d{1,3}(\.\d{3})+", plain):  # an address or a version
        return False
    plain = plain.replace(".", "")
    return plain in ("inf", "infinity", "nan") or plain.removeprefix("0x").isdigit()


def describe_kinds(
    table: SourceTable, texts: Sequence[str], formats: Mapping[str, str], request: Wishes, sample: Sample
) -> list[str]:
    """What a user should know about how columns are read: the order of dates, text that may be numbers, and units."""
    said = [f"'{name}' has dates {EXAMPLES[way]}" for name, way in formats.items() if way in EXAMPLES]
    decimal, known = dialect_of(table).decimal, {*request.categories, *formats}
    for name in (name for name in texts if name not in known):
        values = {*present(sample.get(name, ()), table)}
        digits = [value for value in values if any(map(str.isdigit, value))]
        amounts = find_amounts(digits, decimal) if 2 * len(digits) >= len(values) else []
        odd = [value for value in amounts if not is_number(value, dialect_of(table))]
        stored_as_text = not isinstance(table, CsvTable) and name not in request.labels
        if 2 * len(amounts) >= len(values) and (odd or (amounts and stored_as_text)):
            said.append(
                f"'{name}' is text such as '{min(odd or amounts)}'; to read numbers from it, use --number '{name}'"
            )
    if not isinstance(table, CsvTable):
        said += [f"'{name}' is stored in seconds" for name in table.in_seconds if name in sample]
    return [*said[:MOST_SAID], f"and {len(said) - MOST_SAID} more"] if len(said) > MOST_SAID else said
