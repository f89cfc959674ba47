"""Nested columns of Arrow tables as plain ones, the names of columns, and text that is checked to be UTF-8.

The fields of a struct `a` are the columns `a.x`, `a.y`; the numbers of a list `e`, which must all have one length, the
columns `e_0`, `e_1`, …, as an embedding has them.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..csv.names import unique_names

Path = tuple[str | int, ...]
"""The way to a plain column: the name of the column of the file, then positions in structs and lists."""


def plain_columns(schema: pa.Schema, first: pa.RecordBatch | None) -> dict[str, Path]:
    """The plain columns of a table and the way to each. The length of lists is that of the first in `first`."""
    names = unique_names(schema.names)
    leaves = [
        leaf
        for position, (name, field) in enumerate(zip(names, schema, strict=True))
        for leaf in _leaves(name, (name,), field.type, first and first.column(position))
    ]
    return dict(zip(unique_names([name for name, _ in leaves]), (path for _, path in leaves), strict=True))


def _leaves(name: str, path: Path, kind: pa.DataType, values: pa.Array | None) -> Iterator[tuple[str, Path]]:
    if isinstance(kind, pa.BaseExtensionType):
        kind, values = kind.storage_type, values and values.storage
    if pa.types.is_struct(kind) and kind.num_fields:
        for position, field in enumerate(kind):
            inner = None if values is None else pc.struct_field(values, [position])
            yield from _leaves(f"{name}.{field.name}", (*path, position), field.type, inner)
        return
    length = _length(kind, values) if _is_list_of_numbers(kind) else 0
    for position in range(length):
        inner = None if values is None else values.flatten()
        yield from _leaves(f"{name}_{position}", (*path, position), kind.value_type, inner)
    if not length:
        yield name, path


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    if not _is_list(kind):
        return False
    inner = kind.value_type
    number = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner)
    return number or pa.types.is_decimal(inner) or _is_list_of_numbers(inner)


def _length(kind: pa.DataType, values: pa.Array | None) -> int:
    """The length of a list: that of its type, or of the first value."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    lengths = [] if values is None else pc.list_value_length(values).drop_null()
    return int(lengths[0].as_py()) if len(lengths) else 0


def says_parts(names: Iterable[str]) -> str:
    """What the console says about nested columns, if there are any."""
    shown = ", ".join(f"'{name}'" for name in names)
    return f", parts of {shown} are columns" if shown else ""


class PlainColumns:
    """The plain columns of one batch.

    `wrong` has the rows whose lists do not have the length of the first, with the name of their column and the reason.
    """

    def __init__(self, batch: pa.RecordBatch, names: Sequence[str], paths: dict[str, Path]) -> None:
        self.rows, self.paths = batch.num_rows, paths
        self.lengths = dict[Path, int]()
        for path in paths.values():
            for depth in range(1, len(path)):
                self.lengths[path[:depth]] = max(self.lengths.get(path[:depth], 0), int(path[depth]) + 1)
        self.wrong = dict[int, tuple[str, str]]()
        self._found = {(name,): batch.column(position) for position, name in enumerate(names)}

    def column(self, name: str) -> pa.Array:
        """A column by its name."""
        return self._at(self.paths.get(name, (name,)))

    def _at(self, path: Path) -> pa.Array:
        if path not in self._found:
            outer, position = self._at(path[:-1]), path[-1]
            if isinstance(outer, pa.ExtensionArray):
                outer = outer.storage
            if pa.types.is_struct(outer.type):
                self._found[path] = pc.struct_field(outer, [position])
            else:
                if position == 0:
                    outer = self._found[path[:-1]] = self._of_one_length(outer, path[:-1])
                self._found[path] = pc.list_element(outer, position)
        return self._found[path]

    def _of_one_length(self, lists: pa.Array, path: Path) -> pa.Array:
        """Lists without those of another length, which are listed as wrong."""
        length, lengths = self.lengths[path], pc.list_value_length(lists)
        wrong = pc.fill_null(pc.not_equal(lengths, length), False)
        if not wrong.true_count:
            return lists
        for row in np.flatnonzero(wrong.to_numpy(zero_copy_only=False)).tolist():
            name = str(path[0])
            reason = f"the list has {lengths[row].as_py():,} values, but that of the first row has {length:,}"
            self.wrong.setdefault(row, (name, reason))
        return pc.if_else(wrong, pa.scalar(None, lists.type), lists)


def checked_text(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """A column of text without values that are not UTF-8, and the rows of those. Other columns are returned as they
    are."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return checked_text(column.dictionary_decode())
    if not (_is_text(kind) or _is_binary(kind)):
        return column, []
    try:
        texts = column.cast(pa.string())
        texts.validate(full=True)
    except pa.ArrowInvalid:
        decoded = [value if value is None else _decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
        wrong = [row for row, text in enumerate(decoded) if text is None and column[row].is_valid]
        return pa.array(decoded, pa.string()), wrong
    return texts, []


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    named = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in named)


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def shown_texts(column: pa.Array) -> list[str]:
    """The values of a column as text; empty where one is missing."""
    if _is_text(column.type):
        raw = column.cast(pa.large_binary()).to_pylist()
        return ["" if value is None else value.decode(errors="replace") for value in raw]
    return ["" if value is None or value != value else str(value) for value in column.to_pylist()]  # NaN
