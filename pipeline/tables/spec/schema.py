"""The schema of a dataset: classes, categories, targets, sequences, side columns."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from ....storage.errors import UsageError
from ....storage.format.dense import DenseTarget
from ....storage.format.schema import Schema
from ....storage.format.sequences import TokenForm
from ...csv.row_batch import Columns
from ...sequences.form import TokenFindings
from ...target.beside import side_columns
from ...target.labels import DISTINCT_LIMIT, TextFindings, choose_labels, choose_vector
from ..findings import Findings
from .dtype import choose_dtype
from .request import ConvertRequest


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
    labels = request.labels_in({*columns.texts})
    aside = {*labels, key, *features}
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
    if labels:
        schema = with_labels(schema, request, {name: found.texts[name] for name in labels})
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


def with_labels(schema: Schema, request: ConvertRequest, found: Mapping[str, TextFindings]) -> Schema:
    """A schema with the task and the labels, whose columns have these findings. Raises UsageError."""
    like, columns = request.like, tuple(found)
    is_vector = columns != request.labels
    if like and like.labels == (request.labels if like.dense else columns):
        own = {"task": like.task, "y_dtype": like.y_dtype, "classes": like.classes, "dense": like.dense}
        return replace(schema, labels=like.labels, **own)  # type: ignore[arg-type]
    if not is_vector:
        task, y_dtype, classes = choose_labels(request.task, dict(found))
        return replace(schema, labels=columns, task=task, y_dtype=y_dtype, classes=classes)
    task, y_dtype = choose_vector(request.task, request.labels[0], dict(found))
    if task == "multilabel":
        return replace(schema, labels=columns, task=task, y_dtype=y_dtype)
    return replace(schema, labels=request.labels, task=task, y_dtype=y_dtype, dense=DenseTarget((len(columns),)))


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
