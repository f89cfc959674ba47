"""Tables of features in Parquet and Arrow files, also those that Hugging Face's `datasets` saves: a column of lists, or
several columns of numbers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ....storage.errors import SourceError, UsageError, suggest
from ....storage.foreign.format import Chunked, Groups
from ....storage.foreign.groups import is_list, lists, place_columns, read_group
from ....storage.foreign.parquet import footer
from ....storage.places.json_files import read_json
from ....storage.places.place import Place
from ...target.beside import folder_columns, index_of_frame
from .found import SPLITS, TABLES, FileList, FoundArray, listed, value_dtype

PARQUET, ARROW = "parquet", b"ARROW1"
MAPPED = ("file", "stream")
"""The formats of Arrow files."""
STATE, INFO = "state.json", "dataset_info.json"
DECODED_BYTES = 64 << 20  # of columns of lists whose lengths are all looked at before anything is written
MOST_COLUMNS = 256  # of an Arrow file that are read one by one, rather than through Arrow


class Group(NamedTuple):
    """A row group or a record batch, or rows of a Lance dataset: the file, the place there (see `Groups`), the length
    in bytes, and the number of rows."""

    file: Place
    place: int
    length: int
    rows: int


class TableFiles:
    """The columns of one or several files with the same columns. Those in the names of folders (`kind=a`, as Hive and
    Spark write them) can be labels and other columns, but no features."""

    _of_folders: Sequence[Mapping[str, str | None]] = ()
    """The columns in the names of each file's folders."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._files = [place] if place.is_file() else _files_in(place)
        folders = [str(file).removeprefix(f"{place}/").split("/")[:-1] for file in self._files]
        self._of_folders = [folder_columns(names, 0) for names in folders]
        self._format = _format_of(self._files[0])
        if self._format != PARQUET and place.waits_for_network:
            raise SourceError(
                f"{place}: Arrow files are mapped into memory; copy them to a local disk, or write Parquet"
            )
        self._features: Mapping[str, Any] = {}
        if not place.is_file() and INFO in place.names():
            self._features = read_json(place / INFO).get("features") or {}
        self._schema = self._schemas()

    def _schemas(self) -> pa.Schema:
        """The columns of all files. Raises SourceError if they differ."""
        schemas = [_schema_of(file, self._format) for file in self._files]
        for file, schema in zip(self._files, schemas, strict=True):
            if not schema.equals(schemas[0]):
                raise SourceError(
                    f"{file} has other columns than {self._files[0]}: {_difference(schema, schemas[0])}; write files "
                    "with the same columns, in the same order"
                )
        return schemas[0]

    def names(self) -> Sequence[str]:
        return list(dict.fromkeys([*self._schema.names, *(name for of_file in self._of_folders for name in of_file)]))

    def default(self, taken: Sequence[str]) -> tuple[str, ...]:
        aside = {*taken, *index_of_frame(self._schema)}
        free = [field for field in self._schema if field.name not in aside]
        of_lists = [field.name for field in free if is_list(field.type)]
        numbers = [field.name for field in free if _is_number(field.type)]
        return tuple(of_lists) if len(of_lists) == 1 else () if of_lists else tuple(numbers)

    @cached_property
    def _groups(self) -> Sequence[Group]:
        found = [group for file in self._files for group in _groups_of(file, self._format) if group.rows]
        if not found:
            raise SourceError(f"{self.place} has no rows; give a table with some")
        return found

    def find(self, paths: Sequence[str], sample_dim: str | None, files: FileList) -> FoundArray:
        columns, where = tuple(paths), f"{self.place}: {listed(paths, 3)}"
        for name in columns:
            self._check_name(name)
        if sample_dim is not None:
            raise UsageError(f"--sample-dim {sample_dim}: the rows of a table are its samples; remove the option")
        groups = self._groups
        bounds = np.cumsum([0, *(group.rows for group in groups)], dtype=np.int64)
        row_shape, dtype = self._form(columns, groups[0], where)
        kind = self._schema.field(columns[0]).type
        if is_list(kind):
            self._check_lists(columns[0], row_shape, where)
        places = np.array([(files.add(one.file), one.place, one.length) for one in groups], np.int64)
        described = Groups(self._format, columns, row_shape, dtype, places, bounds)
        names = columns if len(columns) > 1 or row_shape == (1,) else ()
        chunked = self._in_memory_order(described, groups, files)
        shape = _tensor_shape(kind) or row_shape
        return FoundArray(", ".join(paths), int(bounds[-1]), shape, dtype, chunked or described, names)

    def _check_name(self, name: str) -> None:
        """Raise UsageError for a column that does not exist, and for one of several with this name."""
        number = self._counts[name]
        if not number:
            raise UsageError(f"{self.place} has no column '{name}'{suggest(name, self.names())}")
        if number > 1:
            raise UsageError(f"{self.place} has {number} columns called '{name}'; rename them, so that each has a name")

    @cached_property
    def _counts(self) -> Counter[str]:
        """The number of columns of each name, of which there may be many."""
        return Counter(self._schema.names)

    def _check_lists(self, name: str, shape: tuple[int, ...], where: str) -> None:
        """Raise UsageError for lists of several lengths, as far as they are seen without decoding a large column: by
        the number of values in Parquet's metadata, and in Arrow files. Others are seen when the rows are written."""
        first, whole = 0, self._format in MAPPED or sum(group.length for group in self._groups) <= DECODED_BYTES
        for group in self._groups:
            if whole or self._number_of_values(name, group) not in (None, group.rows * prod(shape)):
                table = read_group(str(group.file), self._format, group.place, (name,), group.rows)
                try:
                    lists(table.column(0), shape, first)
                except ValueError as error:
                    raise UsageError(
                        f"{where}: {error}; samples need one shape, so fix the rows, or name another column with --x"
                    ) from None
            first += group.rows

    def _number_of_values(self, name: str, group: Group) -> int | None:
        """The number of values of a column of lists in a group, where metadata tells it."""
        if self._format != PARQUET:
            return None
        described = footer(str(group.file))
        found: int = described.metadata.row_group(group.place).column(described.leaves[name]).num_values
        return found

    def _form(self, columns: Sequence[str], first: Group, where: str) -> tuple[tuple[int, ...], str]:
        """The shape and the dtype of a row. Raises UsageError for columns that are no numbers or lists of numbers."""
        kinds = [self._schema.field(name).type for name in columns]
        if len(columns) == 1 and is_list(kinds[0]):
            table = read_group(str(first.file), self._format, first.place, tuple(columns), first.rows)
            shape, inner = _list_shape(table.column(0), where), kinds[0]
            while is_list(inner):
                inner = getattr(inner, "storage_type", inner).value_type
            return shape, value_dtype(_numpy_type(inner, where), where)
        types = [value_dtype(_numpy_type(kind, where), where) for kind in kinds]
        gaps = [np.dtype(kind).kind != "f" and self._has_gaps(name) for name, kind in zip(columns, types, strict=True)]
        types = [_with_gaps(kind) if gap else kind for kind, gap in zip(types, gaps, strict=True)]
        return (len(columns),), np.result_type(*types).name

    def _has_gaps(self, name: str) -> bool:
        """Whether values of a column are missing."""
        if self._format != PARQUET:
            return bool(self._read(name).null_count)
        for file in self._files:
            described = footer(str(file))
            for group in range(described.metadata.num_row_groups):
                found = described.metadata.row_group(group).column(described.leaves[name]).statistics
                if found is None or not found.has_null_count:
                    return bool(self._read(name).null_count)
                if found.null_count:
                    return True
        return False

    def _in_memory_order(self, described: Groups, groups: Sequence[Group], files: FileList) -> Chunked | None:
        """Columns of uncompressed Arrow files as chunks, which need no Arrow to be read; None if they are no such."""
        width = prod(described.row_shape)
        of_lists = is_list(self._schema.field(described.columns[0]).type)
        if self._format not in MAPPED or (not of_lists and len(described.columns) > MOST_COLUMNS):
            return None
        table: list[tuple[int, int, int]] = []
        for file in self._files:
            whole = pa.memory_map(str(file)).read_buffer()
            for group in (one for one in groups if one.file == file):
                batch = read_group(str(file), self._format, group.place, described.columns, group.rows, whole)
                for column in batch.columns:
                    values = _plain_values(column, group.rows, width if of_lists else 1, described.dtype)
                    start = None if values is None else values.buffers()[1].address - whole.address
                    if values is None or start is None or not 0 <= start < whole.size:
                        return None
                    size = np.dtype(described.dtype).itemsize
                    table.append((files.add(file), start + values.offset * size, len(values) * size))
        shape = (described.rows, *described.row_shape)
        chunk = (max(group.rows for group in groups), *(described.row_shape if of_lists else (1,)))
        return Chunked(shape, chunk, np.dtype(described.dtype).str, np.array(table, np.int64), bounds=described.bounds)

    def _read(self, name: str) -> pa.ChunkedArray:
        """A column of all files."""
        if self._format == PARQUET:
            tables = [parquet.read_table(file.file_argument(), columns=[name]) for file in self._files]
        else:
            tables = [_open_arrow(str(file), self._format).read_all().select([name]) for file in self._files]
        return pa.concat_tables(tables).column(0)

    def column(self, path: str) -> np.ndarray | pa.Array:
        if path in self.names() and not self._counts[path]:
            rows = [sum(group.rows for group in self._groups if group.file == file) for file in self._files]
            every = zip(self._of_folders, rows, strict=True)
            return pa.concat_arrays([pa.repeat(pa.scalar(one.get(path), pa.string()), count) for one, count in every])
        self._check_name(path)
        values = self._read(path).combine_chunks()
        if is_list(values.type):
            where = f"{self.place}: '{path}'"
            try:
                return lists(values, _list_shape(values, where))
            except ValueError as error:
                raise UsageError(f"{where}: {error}; fix the rows, or name another column") from None
        feature = self._features.get(path) or {}
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            codes = values.cast(pa.int64())
            return pa.array(feature["names"]).take(pc.if_else(pc.less(codes, 0), None, codes))  # -1 is a missing label
        return values

    def read(self, paths: Sequence[str], sample_dim: str | None, start: int, stop: int) -> np.ndarray:
        columns = tuple(paths)
        table = pa.table({name: self._read(name).slice(start, stop - start) for name in columns})
        shape, dtype = self._form(columns, self._groups[0], str(self.place))
        out = np.empty((stop - start, *shape), dtype)
        place_columns(table, Groups(self._format, columns, shape, dtype, np.zeros((0, 3)), np.zeros(1)), out)
        return out


def _files_in(place: Place) -> list[Place]:
    """The files of a folder, in order. Raises SourceError for a folder of several splits, and for rows in another
    order than that of the files."""
    names = place.names()
    if SPLITS in names:
        splits = ", ".join(read_json(place / SPLITS)["splits"])
        raise SourceError(f"{place} contains several datasets ({splits}); give the folder of one of them")
    if STATE in names:
        state = read_json(place / STATE)
        if state.get("_indices_files") or state.get("_indices_data_files"):
            raise SourceError(f"{place} selects rows of its files; save it again after 'flatten_indices()'")
        return [place / one["filename"] for one in state["_data_files"]]
    every = [entry.name for entry in place.walk() if entry.name.endswith(TABLES)]
    found = [name for name in every if not any(part.startswith((".", "_")) for part in name.split("/"))]
    if not found:
        raise SourceError(f"{place} has no tables but hidden ones, whose names begin with '_' or '.'; rename them")
    if len({name.rpartition(".")[2] == PARQUET for name in found}) > 1:
        raise SourceError(f"{place} has Parquet and Arrow files; give a folder with one kind of them")
    return [place / name for name in sorted(found)]


def _difference(schema: pa.Schema, first: pa.Schema) -> str:
    """The first difference between two schemas, in words."""
    for name in dict.fromkeys([*first.names, *schema.names]):
        kinds = [{str(one.type) for one in either if one.name == name} for either in (schema, first)]
        if not all(kinds):
            return f"it {'lacks' if kinds[1] else 'also has'} '{name}'"
        if kinds[0] != kinds[1]:
            return f"'{name}' is {', '.join(sorted(kinds[0]))}, not {', '.join(sorted(kinds[1]))}"
    return "they have another order"


def _format_of(file: Place) -> str:
    """The format of a file: "parquet", or Arrow's "file" or "stream"."""
    start = file.read_range(0, 6)
    return PARQUET if start.startswith(b"PAR1") else "file" if start == ARROW else "stream"


def _open_arrow(path: str, form: str) -> Any:
    open_it = pa.ipc.open_file if form == "file" else pa.ipc.open_stream
    return open_it(pa.memory_map(path))


def _schema_of(file: Place, form: str) -> pa.Schema:
    try:
        if form == PARQUET:
            return parquet.read_schema(file.file_argument())
        return _open_arrow(str(file), form).schema
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file}: Arrow cannot open it ({error}); write it again") from None


def _groups_of(file: Place, form: str) -> Iterator[Group]:
    if form == PARQUET:
        found = footer(str(file)).metadata
        for number in range(found.num_row_groups):
            group = found.row_group(number)
            yield Group(file, number, group.total_byte_size, group.num_rows)
        return
    if form == "file":
        opened = _open_arrow(str(file), form)
        for number in range(opened.num_record_batches):
            batch = opened.get_batch(number)
            yield Group(file, number, batch.nbytes, batch.num_rows)
        return
    with pa.memory_map(str(file)) as stream:
        schema = pa.ipc.read_schema(pa.ipc.read_message(stream))
        while stream.tell() < stream.size():
            place = stream.tell()
            try:
                message = pa.ipc.read_message(stream)
            except EOFError:
                return
            if message.type == "dictionary":
                raise SourceError(f"{file} is a stream with dictionaries; write it as an Arrow file or as Parquet")
            batch = pa.ipc.read_record_batch(message, schema)
            yield Group(file, place, batch.nbytes, batch.num_rows)


def _list_shape(column: Any, where: str) -> tuple[int, ...]:
    """The shape of the first list of a column. Raises UsageError if it has none."""
    values, shape = column.slice(0, 1), list[int]()
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    while is_list(values.type):
        values = getattr(values, "storage", values)
        lengths = {*pc.list_value_length(values).to_pylist()}
        if lengths & {None, 0} or len(lengths) > 1:
            what = "a missing or empty list" if lengths & {None, 0} else f"lists of {len(lengths)} lengths"
            raise UsageError(
                f"{where}: row 0 has {what}; samples need one shape, so fix the rows, or name another column"
            )
        shape.append(lengths.pop())
        values = values.flatten()
    return tuple(shape)


def _tensor_shape(kind: pa.DataType) -> tuple[int, ...]:
    """The shape that the type of a column of tensors names, whose lists are flat; empty for other columns, and for
    tensors whose axes are in another order than their names."""
    if not isinstance(kind, pa.FixedShapeTensorType):
        return ()
    axes = list(range(len(kind.shape)))
    return tuple(kind.shape) if (kind.permutation or axes) == axes else ()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _numpy_type(kind: pa.DataType, where: str) -> Any:
    if not _is_number(kind):
        raise UsageError(
            f"{where} has values of type {kind}, which are not numbers; name other columns with --x, or convert the "
            "files with 'foldstream convert csv', which encodes text and dates"
        )
    return kind.to_pandas_dtype()


def _with_gaps(kind: str) -> str:
    """The floating-point type that stores all values of an integer type, as far as there is one."""
    return "float32" if np.dtype(kind).itemsize <= 2 else "float64"


def _plain_values(column: Any, rows: int, width: int, dtype: str) -> Any:
    """The values of a column as one array, None if they are not stored as plain values of this type without gaps."""
    values = column
    while is_list(values.type):
        values = getattr(values, "storage", values)
        values = values.flatten()
    plain = _is_number(values.type) and not pa.types.is_boolean(values.type)
    if not plain or values.null_count or np.dtype(values.type.to_pandas_dtype()) != np.dtype(dtype):
        return None
    return values if len(values) == rows * width else None
