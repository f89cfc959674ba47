"""Labels as numbers: the task, the classes and `y`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....storage.errors import UsageError
from ....storage.format.schema import Schema
from ...target.labels import DISTINCT_LIMIT, TextFindings, choose_labels, class_codes
from .find import Labels


def encode_labels(labels: Labels, task: str, like: Schema | None) -> tuple[Schema, np.ndarray]:
    """The label fields of a schema, and `y` for all images; the values of images with errors are unused.

    Raises UsageError if the labels do not match the task or the schema `like`.
    """
    nothing = Schema((), (), "uint8")
    if not labels.columns:
        return nothing, np.zeros(0)
    names = tuple(labels.columns)
    if like and like.labels != names:
        raise UsageError(
            f"the labels are {', '.join(names)}, but the training data has {', '.join(like.labels)}; select the same "
            "ones with --label"
        )
    valid = np.ones(len(labels.columns[names[0]]), bool)
    valid[list(labels.errors)] = False
    valid_columns = {name: values.filter(pa.array(valid)) for name, values in labels.columns.items()}
    if like:
        assert like.task
        assert like.y_dtype
        chosen = like.task, like.y_dtype, like.classes
    elif labels.names and task in ("auto", "classification"):
        chosen = name_classes(valid_columns[names[0]], labels.empty)
    else:
        found = {name: TextFindings.of(values) for name, values in valid_columns.items()}
        if labels.names and task == "regression":  # there, 007 is a number
            found = {name: replace(one, kind=_kind_of_numbers(valid_columns[name])) for name, one in found.items()}
        chosen = choose_labels(task, found)
    kind, dtype, classes = chosen
    schema = Schema((), (), "uint8", labels=names, task=kind, y_dtype=dtype, classes=classes)
    columns = [_encode(name, values, classes) for name, values in valid_columns.items()]
    for name, column in zip(names, columns, strict=True):
        if kind == "multilabel" and not np.isin(column, (0, 1)).all():
            raise UsageError(f"the label '{name}' is not always 0 or 1, unlike in the training data; fix it")
    y = np.zeros((len(valid), len(names)), dtype)
    y[valid] = np.stack(columns, axis=1)
    return schema, y if len(names) > 1 else y[:, 0]


def name_classes(values: pa.Array, empty: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """Names as classes: the task, the dtype of `y` and the classes, in the order of their numbers if all are numbers.
    Raises UsageError for too few or too many."""
    found = {*pc.unique(values).to_pylist(), *empty}
    if not 2 <= len(found) <= DISTINCT_LIMIT:
        many = f"there are {len(found):,} classes, but at most {DISTINCT_LIMIT:,} are possible"
        one = f"all images are of the class '{min(found)}', but a classifier needs two"
        raise UsageError(f"{many if len(found) > 1 else one}; name the folder of the class folders, or use --labels")
    numbers = _kind_of_numbers(pa.array(found)) == "number"
    classes = sorted(found, key=(lambda name: (float(name), name)) if numbers else str)
    return "classification", np.min_scalar_type(len(classes) - 1).name, tuple(classes)


def _kind_of_numbers(names: pa.Array) -> str:
    try:
        return "number" if pc.all(pc.is_finite(names.cast(pa.float64()))).as_py() else "text"
    except pa.ArrowInvalid:
        return "text"


def _encode(name: str, values: pa.Array, classes: Sequence[str]) -> np.ndarray:
    try:
        codes = class_codes(values, pa.array(classes)) if classes else values.cast(pa.float64())
    except pa.ArrowInvalid:
        raise UsageError(f"the label '{name}' is not always a number, unlike in the training data; fix it") from None
    if codes.null_count:
        unknown = values.filter(codes.is_null())[0].as_py()
        raise UsageError(f"the label '{name}' has the class '{unknown}', which does not occur in the training data")
    encoded: np.ndarray = codes.to_numpy()
    return encoded
