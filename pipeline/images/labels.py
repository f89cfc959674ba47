"""The labels of images: their folders, or the rows of a CSV file that lists them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from ...storage.errors import SourceError, UsageError, suggest
from ...storage.format import Schema
from ...storage.places.locate import locate
from ..target.labels import TextFindings, choose_labels, class_codes

FOLDER = "class"  # the label's name if folders are the classes


@dataclass(frozen=True)
class Labels:
    """The labels of all listed images: text columns, (images,); the columns with a role, text, null where it is empty;
    the images without a valid label, by index, with the reason; and the paths in the CSV file that match no image."""

    columns: dict[str, pa.Array] = field(default_factory=dict)
    others: dict[str, pa.Array] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()


def label_by_folder(names: pa.Array) -> Labels:
    """Labels from the first folders of the images' paths; no labels if no image is in a folder."""
    if names.null_count == len(names):
        return Labels()
    errors = dict.fromkeys(where(names.is_null()), "the image is not in a class folder, but other images are")
    return Labels({FOLDER: names}, errors=errors)


def label_by_file(
    paths: pa.Array, file: str, names: Sequence[str] | None, roles: Mapping[str, Sequence[str]] | None = None
) -> Labels:
    """Labels from a CSV file whose first column identifies the images by path, name, or name without its suffix.

    `names` are the label columns, by default the second column, or None for images without labels, and `roles` the
    other columns to read, by role. Raises SourceError and UsageError.
    """
    table = _read_table(file)
    key, *others = table.column_names
    wanted = {"label": names or (), **(roles or {})}
    for option, columns_of in wanted.items():
        for name in columns_of:
            if name not in others:
                raise UsageError(f"--{option}: {file} has no column '{name}'{suggest(name, others)}")
    aside = dict.fromkeys(name for columns_of in (roles or {}).values() for name in columns_of)
    labels = [] if names is None else names or [name for name in others if name not in aside][:1]
    if both := [name for name in labels if name in aside]:
        raise UsageError(f"--label: the column '{both[0]}' of {file} already has another role; give it only one")
    keys = table[key].combine_chunks()
    if pc.count_distinct(keys).as_py() < len(keys):
        twice = next(value["values"] for value in pc.value_counts(keys).to_pylist() if value["counts"] > 1)
        raise SourceError(f"{file}: '{twice}' is listed more than once; keep only one of its rows")
    ways = (paths, _each(paths, "name"), _each(paths, "stem"))
    rows = max((pc.index_in(way, keys) for way in ways), key=lambda rows: len(rows) - rows.null_count)
    errors = dict.fromkeys(where(rows.is_null()), f"{file} has no {'row' if names is None else 'label'} for it")
    columns = {name: table[name].combine_chunks().take(rows) for name in labels}
    for name, values in columns.items():
        for number in where(pc.or_(values.is_null(), pc.equal(values, "")).fill_null(True)):
            errors.setdefault(number, f"its label '{name}' in {file} is empty")
    found = np.zeros(len(keys), bool)
    found[rows.drop_null().to_numpy()] = True
    taken = {name: table[name].combine_chunks().take(rows) for name in aside}
    with_gaps = {name: pc.if_else(pc.equal(one, ""), pa.scalar(None, pa.string()), one) for name, one in taken.items()}
    return Labels(columns, with_gaps, errors, tuple(keys.filter(pa.array(~found)).to_pylist()))


def as_dates(texts: pa.Array) -> pa.Array:
    """ISO 8601 dates as timestamps in seconds, null where one is missing; other texts unchanged."""
    try:
        return texts if texts.null_count == len(texts) else texts.cast(pa.timestamp("s"))
    except pa.ArrowInvalid:
        return texts


def _read_table(file: str) -> pa.Table:
    try:
        with locate(file).open_stream() as stream:
            data = stream.read()
        names = csv.open_csv(pa.BufferReader(data)).schema.names
        text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        table = csv.read_csv(pa.BufferReader(data), convert_options=text)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise SourceError(f"--labels {file} cannot be read as a CSV file ({error}); check the path") from None
    if len(names) < 2:
        raise SourceError(f"--labels {file} has only one column; it needs one for image paths and one for labels")
    return table


def _each(paths: pa.Array, part: str) -> pa.Array:
    return pa.array([getattr(PurePosixPath(path), part) for path in paths.to_pylist()], pa.string())


def where(mask: pa.Array) -> list[int]:
    """The indices at which a mask is true."""
    found: list[int] = np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()
    return found


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
    else:
        chosen = choose_labels(task, {name: TextFindings.of(values) for name, values in valid_columns.items()})
    kind, dtype, classes = chosen
    schema = Schema((), (), "uint8", labels=names, task=kind, y_dtype=dtype, classes=classes)
    columns = [_encode(name, values, classes) for name, values in valid_columns.items()]
    for name, column in zip(names, columns, strict=True):
        if kind == "multilabel" and not np.isin(column, (0, 1)).all():
            raise UsageError(f"the label '{name}' is not always 0 or 1, unlike in the training data; fix it")
    y = np.zeros((len(valid), len(names)), dtype)
    y[valid] = np.stack(columns, axis=1)
    return schema, y if len(names) > 1 else y[:, 0]


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
