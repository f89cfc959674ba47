"""Labels and other columns of a source, which are small and are stored as arrays of our own."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ...storage.errors import SourceError, UsageError
from ...storage.format.schema import Schema
from ...storage.places.locate import locate
from ..target.beside import encode_beside, encode_texts, side_columns, unit_of
from ..target.labels import TextFindings, choose_labels, class_codes
from .sources.find import open_source
from .sources.found import Source, in_arrow


@dataclass(frozen=True)
class Columns:
    """The fields of a schema that describe labels and other columns, and the arrays of these by name."""

    schema: Schema
    arrays: Mapping[str, np.ndarray]

    @property
    def digest(self) -> str:
        """SHA-256 of all values."""
        found = hashlib.sha256()
        for name, array in self.arrays.items():
            found.update(name.encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


@dataclass(frozen=True)
class ColumnRequest:
    """The paths of labels, of the id, and of columns by role, and the task."""

    labels: tuple[str, ...] = ()
    key: str | None = None
    roles: Mapping[str, tuple[str, ...]] | None = None
    task: str = "auto"

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them."""
        others = [path for paths in (self.roles or {}).values() for path in paths]
        return (*self.labels, *([self.key] if self.key else []), *others)


def read_columns(request: ColumnRequest, source: Source, rows: int) -> Columns:
    """Read all columns. Raises UsageError for those that do not exist or have another number of rows."""

    def read(path: str, option: str) -> dict[str, pa.Array]:
        return named_columns(path, column_of(source, path), rows, option)

    labels: dict[str, pa.Array] = {}
    for path in request.labels:
        labels |= {name: _written(values) for name, values in read(path, "--y").items()}
    arrays: dict[str, np.ndarray] = {}
    schema = Schema((), (), "uint8")
    if labels:
        schema, arrays["y"] = encode_labels(labels, request.task)
    if request.key:
        found_keys = read(request.key, "--id")
        if len(found_keys) > 1:
            raise UsageError(f"--id {request.key} has {len(found_keys)} columns; name one that identifies the rows")
        ((name, values),) = found_keys.items()
        schema, arrays["key"] = _encode_key(schema, name, _written(values))
    roles: dict[str, tuple[str, ...]] = {}
    beside: dict[str, pa.Array] = {}
    for role, paths in (request.roles or {}).items():
        found = {name: values for path in paths for name, values in read(path, f"--{role}").items()}
        roles[role], beside = tuple(found), beside | found
    units = {name: unit_of(values) for name, values in beside.items() if pa.types.is_timestamp(values.type)}
    texts = {name: TextFindings.of(values) for name, values in beside.items() if name not in units}
    columns = side_columns(tuple(beside), units, texts)
    arrays |= {column.array: _encoded(encode_beside, column, beside[column.name]) for column in columns}
    return Columns(replace(schema, roles=roles, beside=columns), arrays)


def _encoded(encode: Callable[..., np.ndarray], *given: Any) -> np.ndarray:
    try:
        return encode(*given)
    except ValueError as error:
        raise SourceError(f"{error}; fix it, or leave the column out") from None


def _encode_key(schema: Schema, name: str, values: pa.Array) -> tuple[Schema, np.ndarray]:
    found = TextFindings.of(values)
    if found.gaps:
        raise SourceError(f"the id '{name}' has missing values; fix them, or leave out --id")
    width = None if found.kind == "integer" else found.width
    stored = values.cast(pa.int64()).to_numpy() if width is None else _encoded(encode_texts, name, values, width)
    return replace(schema, key=name, key_width=width), stored


def column_of(source: Source, path: str) -> np.ndarray | pa.Array:
    """The values of a column: of the source itself, of another file, or as FILE:PATH of an array in another file."""
    if path in source.names():
        return source.column(path)
    file, separator, inner = path.rpartition(":")
    if separator and locate(file).exists():
        return open_source(locate(file)).column(inner)
    if locate(path).exists():
        other = open_source(locate(path))
        names = other.names()
        if len(names) != 1:
            raise UsageError(f"{path} has several arrays; name one as {path}:{names[0]}")
        return other.column(names[0])
    return source.column(path)  # which says what there is


def named_columns(path: str, values: np.ndarray | pa.Array, rows: int, option: str) -> dict[str, pa.Array]:
    """Values as columns of texts or timestamps: one, which is called by the last part of the path, or several for an
    array of two dimensions. Raises UsageError for other shapes, and for what is neither numbers, text nor dates."""
    name = path.rpartition(":")[2].rpartition("/")[2].removesuffix(".npy").removesuffix(".npz")
    what = f"{option} {path}"
    if isinstance(values, np.ndarray) and not values.ndim:
        raise UsageError(f"{what} is a single value, but the features have {rows:,} rows; name a column")
    if len(values) != rows:
        raise UsageError(f"{what} has {len(values):,} values, but the features have {rows:,} rows")
    if isinstance(values, np.ndarray) and values.ndim > 1:
        if values.ndim > 2 or not values.shape[1]:
            raise UsageError(f"{what} has the shape {values.shape}; give one column, or rows of columns")
        if values.shape[1] > 1:
            return {f"{name}_{number}": as_texts(column, what) for number, column in enumerate(values.T)}
        values = values[:, 0]
    return {name: as_texts(values, what)}


def as_texts(values: np.ndarray | pa.Array, what: str) -> pa.Array:
    """A column as text, or as timestamps; missing values are null. Raises UsageError for values that are neither."""
    try:
        found = in_arrow(values) if isinstance(values, np.ndarray) else values
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        if pa.types.is_date(found.type):
            found = found.cast(pa.timestamp("s"))
        if pa.types.is_floating(found.type):
            found = found.cast(pa.float64())
        return found if pa.types.is_timestamp(found.type) else found.cast(pa.string())
    except UnicodeDecodeError as error:
        raise SourceError(f"{what} has bytes that are not UTF-8 ({error}); write the text as UTF-8") from None
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        kind = values.dtype if isinstance(values, np.ndarray) else values.type
        raise UsageError(
            f"{what} has values of type {kind}, which are neither numbers, text nor dates; name another column, or "
            "store it as one of these"
        ) from None


def _written(values: pa.Array) -> pa.Array:
    """Texts, also of timestamps; those of whole days are dates."""
    if not pa.types.is_timestamp(values.type):
        return values
    plain = values.cast(pa.timestamp(values.type.unit))  # in UTC
    return (plain.cast(pa.date32()) if unit_of(plain) == "days" else plain).cast(pa.string())


def encode_labels(labels: Mapping[str, pa.Array], task: str) -> tuple[Schema, np.ndarray]:
    """The label fields of a schema, and `y`, (rows,) or (rows, labels). Raises UsageError for labels that do not match
    the task."""
    for name, values in labels.items():
        if values.null_count:
            raise SourceError(
                f"the label '{name}' is missing in {values.null_count:,} rows; fill it, or leave such rows out of the "
                "source"
            )
    kind, dtype, classes = choose_labels(task, {name: TextFindings.of(values) for name, values in labels.items()})
    columns = [_numbers(values, classes) for values in labels.values()]
    y = np.stack(columns, axis=1).astype(dtype)
    schema = Schema((), (), "uint8", labels=tuple(labels), task=kind, y_dtype=dtype, classes=classes)
    return schema, y if len(labels) > 1 else y[:, 0].copy()


def _numbers(values: pa.Array, classes: Sequence[str]) -> np.ndarray:
    if classes:
        return np.asarray(class_codes(values, pa.array(classes)))
    try:
        return np.asarray(values.cast(pa.float64()))
    except pa.ArrowInvalid:  # true and false
        return np.asarray(values.cast(pa.bool_()).cast(pa.float64()))
