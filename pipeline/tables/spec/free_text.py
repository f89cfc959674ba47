"""Text columns that are no categories, such as names, and columns without them."""

from collections.abc import Container

from ...csv.row_batch import Columns
from ...target.labels import DISTINCT_LIMIT
from ..findings import Findings
from .request import ConvertRequest

NEARLY_ALL, FEWEST_TEXTS = 0.8, 20
"""A text column is free text, or names, if this fraction of its values, and at least this many, are distinct."""


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
