"""The rows with the highest loss: their features, and images of them."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...pipeline.images.preview import is_image_shape, labels_in, render_sample
from ...storage.blocks.reader import cached_reader
from ...storage.dataset import Dataset
from ...storage.format.schema import THRESHOLD, Schema
from ...storage.format.sequences import ids_text
from .pages import number, share

if TYPE_CHECKING:
    from pandas import DataFrame

FIRST_ROWS = 10  # that are shown; the others on demand
MOST_FEATURES = 20  # whose values are shown
Browse = Callable[[Sequence[int]], "DataFrame"]
"""Reads rows of the dataset, by their numbers, as a table with the names and values of the source."""


def shown_features(schema: Schema) -> tuple[str, ...]:
    """The columns whose values are shown of the worst rows: not those of an image, and of a window which one it is."""
    if schema.windows:
        return (*schema.windows.groups, schema.windows.time)
    drawn = schema.table is None and is_image_shape(schema.sample_shape)
    return () if drawn else schema.tabular.features[:MOST_FEATURES]


def add_features(worst: Sequence[dict[str, Any]], names: Sequence[str], browse: Browse) -> None:
    """Add the values of these columns to the worst rows, as text."""
    for first in range(0, len(worst) if names else 0, FIRST_ROWS):  # each may be in another block
        some = worst[first : first + FIRST_ROWS]
        table = browse([row["row"] for row in some])[list(names)]
        for row, values in zip(some, table.itertuples(index=False, name=None), strict=True):
            row["features"] = dict(zip(names, map(value_text, values), strict=True))


def value_text(value: Any) -> str:
    """A value of a feature as text; empty if it is missing."""
    if value is None or value != value:  # NaN, or no date
        return ""
    if isinstance(value, list):
        return ids_text(value)
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value).removesuffix(" 00:00:00")


def worst_rows(rows: Sequence[Mapping[str, Any]], schema: Schema, dataset: Dataset) -> list[dict[str, Any]]:
    """Describe the worst rows, with an image of each row if the samples are images."""
    reader, described = cached_reader(dataset, ["x"]), []
    for row in rows:
        own = {"features": row.get("features", {}), "image": ""}
        described.append({"row": row["row"], "name": row["name"], "loss": row["loss"], **own, **in_words(row, schema)})
        if is_image_shape(schema.sample_shape) and not schema.windows:
            [block], [place] = dataset.layout.blocks_at(np.array([row["row"]]))
            buffer = io.BytesIO()
            render_sample(reader.read([block])["x"][place], dataset).save(buffer, "PNG")
            described[-1]["image"] = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return described


def in_words(row: Mapping[str, Any], schema: Schema) -> dict[str, str]:
    """What is true of a row, and what was predicted."""
    truth, prediction = row["truth"], row["prediction"]
    if schema.dense:
        return {"truth": "", "predicted": ""}
    if schema.classes:
        chosen = max(range(len(prediction)), key=prediction.__getitem__)
        said = f"{schema.classes[chosen]} ({share(prediction[chosen])})"
        return {"truth": schema.classes[int(truth[0])], "predicted": said}
    if schema.task == "multilabel":
        likely = ((name, p) for name, p in zip(schema.labels, prediction, strict=True) if p >= THRESHOLD)
        named = [f"{name} ({share(p)})" for name, p in likely]
        return {"truth": labels_in(schema, truth), "predicted": ", ".join(named) or "none"}
    return {"truth": ", ".join(map(number, truth)), "predicted": ", ".join(map(number, prediction))}
