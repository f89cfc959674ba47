"""The columns that a model gets beside an image: numbers, dates and categories of the CSV file of the labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.errors import UsageError
from ...storage.format.schema import Schema
from ..target.beside import DAY
from ..target.labels import TextFindings
from .labels.find import as_dates, where

FEATURES = ("feature", "category")
"""The options that name such columns."""


def feature_names(roles: Mapping[str, Sequence[str]], like: Schema | None) -> tuple[str, ...]:
    """The columns that models get, in order. Raises UsageError unless they are those of the schema `like`."""
    named = tuple(dict.fromkeys(name for role in FEATURES for name in roles.get(role, ())))
    if like is None:
        return named
    expected = like.table.features if like.table else ()
    if named not in ((), expected):
        known = f"({', '.join(expected)})" if expected else "(none)"
        raise UsageError(
            f"--feature {named[0]}: --like already selects the columns beside the images {known}; remove the option"
        )
    return expected


def describe_features(columns: Mapping[str, pa.Array], categories: Sequence[str]) -> Schema:
    """The schema of columns, (images,) text, null where a value is missing: dates, numbers, and categories, which are
    those in `categories` and all other text.

    Raises UsageError for text with too many values.
    """
    found: dict[str, tuple[str, ...]] = {}
    dates: dict[str, str] = {}
    for name, texts in columns.items():
        values = as_dates(texts)
        if name not in categories and pa.types.is_timestamp(values.type):
            times = np.any(values.cast(pa.int64()).drop_null().to_numpy() % DAY)
            dates[name] = "seconds" if times else "days"
            continue
        findings = TextFindings.of(texts)
        if name in categories or findings.kind == "text":
            if findings.distinct is None:
                raise UsageError(f"--feature {name}: it has too many distinct values to be a category; leave it out")
            found[name] = tuple(sorted({*findings.distinct, *[""] * findings.gaps}))
    return Schema(tuple(columns), (len(columns),), "float64", categories=found, dates=dates)


def encode_features(
    columns: Mapping[str, pa.Array], schema: Schema, encode_unknown: bool
) -> tuple[np.ndarray, dict[int, str]]:
    """Columns as their schema stores them, (images, columns) float64; and the images that have values which it does
    not, by index, with the reason. With `encode_unknown`, other categories get a code after all of them."""
    table = np.empty((len(columns[schema.features[0]]), len(columns)))
    errors: dict[int, str] = {}
    for place, name in enumerate(schema.features):
        texts = columns[name]
        if name in schema.categories:
            values = pc.index_in(texts.fill_null(""), pa.array(schema.categories[name], pa.string()))
            if encode_unknown:
                values = values.fill_null(len(schema.categories[name]))
            wrong, why = values.is_null(), "does not occur in the training data"
        elif name in schema.dates:
            values = as_dates(texts)
            seconds = values.cast(pa.int64()) if pa.types.is_timestamp(values.type) else pa.nulls(len(texts))
            values = pc.divide(seconds.cast(pa.float64()), float(DAY if schema.dates[name] == "days" else 1))
            wrong, why = pc.and_(texts.is_valid(), values.is_null()), "is not a date as in the other rows"
        else:
            values = as_numbers(texts)
            wrong, why = pc.and_(texts.is_valid(), values.is_null()), "is not a number"
        table[:, place] = values.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        for number in where(wrong):
            errors.setdefault(number, f"its '{name}', '{texts[number].as_py() or ''}', {why}")
    return table, errors


def as_numbers(texts: pa.Array) -> pa.Array:
    """Texts as float64, null where one is missing, infinite or no number."""
    try:
        numbers = texts.cast(pa.float64())
    except pa.ArrowInvalid:
        numbers = pa.array([number_in(text) for text in texts.to_pylist()], pa.float64())
    return pc.if_else(pc.is_inf(numbers), pa.scalar(None, pa.float64()), numbers)


def number_in(text: str | None) -> float | None:
    """The number that a text is, None if it is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
