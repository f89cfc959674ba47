"""Tables in Arrow's formats, JSON lines as Arrow, and nested columns as plain ones.

What cannot be read from the middle (a stream of Arrow, JSON lines) is read once from start to end, and stored in the
work folder: one stream of Arrow after another, each a piece.

The fields of a struct `a` are the columns `a.x`, `a.y`; the numbers of a list `e`, which must all have one length, the
columns `e_0`, `e_1`, …, as an embedding has them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from io import BytesIO
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from ...storage.errors import RowError, SourceError
from ...storage.places.locate import locate
from ..csv.cut import PIECE_BYTES, check_length
from ..csv.dialect import MARK_OF_UTF8
from ..csv.names import unique_names
from ..csv.open import decompressed
from ..csv.row_batch import Piece

Format = Literal["Parquet", "Arrow", "Arrow stream", "JSON lines"]
FILE_MAGIC, FIRST_VERSION, STREAM_END = b"ARROW1", b"FEA1", b"\xff\xff\xff\xff\0\0\0\0"
SAMPLE_ROWS = 100
WRITING = pa.ipc.IpcWriteOptions(compression="lz4")
Path = tuple[str | int, ...]
"""The way to a plain column: the name of the column of the file, then positions in structs and lists."""


def plain_columns(schema: pa.Schema, first: pa.RecordBatch | None, whole: str | None = None) -> dict[str, Path]:
    """The plain columns of a table and the way to each. The length of lists is that of the first in `first`; the lists
    of the column `whole` have various lengths and stay one column."""
    names = unique_names(schema.names)
    leaves = [
        leaf
        for position, (name, field) in enumerate(zip(names, schema, strict=True))
        for leaf in (
            [(name, (name,))] if name == whole else _leaves(name, (name,), field.type, first and first.column(position))
        )
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
    named = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in named)


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
        self._found: dict[Path, pa.Array] = {(name,): batch.column(at) for at, name in enumerate(names)}
        self._checked = set[Path]()

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
                if path[:-1] not in self._checked:
                    self._checked.add(path[:-1])
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


@contextmanager
def damage_in_words(path: str, kind: Format) -> Iterator[None]:
    """Raise SourceError for a file that is encrypted, truncated or damaged."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk
            raise
        reason = str(error).strip().partition("\n")[0]
        if "crypt" in reason:
            raise SourceError(f"{path} is encrypted ({reason}); decrypt it first") from None
        raise SourceError(f"{path} is not a complete {kind} file ({reason}); download or write it again") from None


def open_native(place: str) -> pa.NativeFile:
    """A file or an object as Arrow reads it; a local one is mapped into memory."""
    given = locate(place).file_argument()
    return pa.memory_map(given) if isinstance(given, str) else pa.PythonFile(given, "r")


def is_stream(path: str, place: str) -> bool:
    """Whether an Arrow file is a stream, which can only be read from its start. Raises SourceError for the first
    version of Feather, and for a stream without its end."""
    file = locate(place)
    magic = file.read_range(0, len(FILE_MAGIC))
    if magic.startswith(FIRST_VERSION):
        raise SourceError(f"{path} is written in the first version of Feather; write it again in the second")
    if magic == FILE_MAGIC:
        return False
    if file.read_range(max(0, file.describe().size - len(STREAM_END)), len(STREAM_END)) != STREAM_END:
        raise SourceError(f"{path} is not a complete Arrow stream (its end is missing); download or write it again")
    return True


def list_batches(place: str) -> tuple[pa.Schema, list[Piece], pa.RecordBatch | None]:
    """The schema of an Arrow file, its record batches as pieces, and its first rows."""
    with open_native(place) as file:
        whole = pa.ipc.open_file(file)
        fields = [0] if len(whole.schema) else []
        narrow = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))
        rows = [narrow.get_batch(index).num_rows for index in range(narrow.num_record_batches)]
        filled = [index for index, count in enumerate(rows) if count]
        first = whole.get_batch(filled[0]).slice(0, SAMPLE_ROWS) if filled else None
        lines = np.cumsum([1, *rows]).tolist()
        return whole.schema, [Piece(index, index + 1, lines[index], rows[index]) for index in filled], first


def store_batches(batches: Iterable[pa.RecordBatch], target: str) -> tuple[list[Piece], pa.RecordBatch | None]:
    """Store batches in a file, each as a stream of its own, and return the pieces of that file and the first rows."""
    pieces: list[Piece] = []
    first, at, line = None, 0, 1
    with locate(target).whole_file() as store:
        for batch in batches:
            step = max(1, PIECE_BYTES * batch.num_rows // max(1, batch.nbytes))
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, part.schema, options=WRITING) as writer:
                    writer.write_batch(part)
                data = sink.getvalue()
                store.write(data)
                pieces.append(Piece(at, at + data.size, line, part.num_rows))
                at, line = at + data.size, line + part.num_rows
                first = first or part.slice(0, SAMPLE_ROWS)
    return pieces, first


def read_batch(kind: Format, place: str, piece: Piece, used: Iterable[str]) -> pa.RecordBatch:
    """The rows of a piece: a record batch of a file, or a stream among those stored by `store_batches`."""
    if kind != "Arrow":
        data = locate(place).read_range(piece.start, piece.stop - piece.start)
        return pa.ipc.open_stream(data).read_next_batch()
    file = open_native(place)
    names = unique_names(pa.ipc.open_file(file).schema.names)
    wanted = {*used}
    fields = [position for position, name in enumerate(names) if name in wanted] or [0]
    if len({*names}) < len(names) or names != tuple(pa.ipc.open_file(file).schema.names):
        fields = []  # all: names do not say which column is meant
    return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields)).get_batch(piece.start)


def json_blocks(path: str, place: str, suffix: str) -> Iterator[bytes]:
    """The text of JSON lines, compressed as the suffix says, in blocks of whole lines. Raises SourceError for an
    array."""
    with closing(locate(place).open_stream()) as raw, closing(decompressed(raw, suffix)) as stream:
        rest, begun = b"", False
        while block := stream.read(PIECE_BYTES):
            if not begun and (text := bytes(block).removeprefix(MARK_OF_UTF8).lstrip()):
                begun, block = True, text
                if text.startswith(b"["):
                    raise SourceError(f"{path} is one JSON array; write one object per line, e.g. with jq -c '.[]'")
            end = block.rfind(b"\n") + 1
            if end:
                yield rest + block[:end]
            rest = block[end:] if end else rest + block
            check_length(path, 1, len(rest))
        if rest.strip():
            yield rest


def read_json(path: str, block: bytes, rows: int, schema: pa.Schema | None) -> pa.Table:
    """Parse a block of JSON lines, `rows` rows after the first one, with the types that it has or those of `schema`.

    Raises RowError for a line that is not an object, or whose values have other types than those before.
    """
    ways = arrow_json.ParseOptions(schema, unexpected_field_behavior="ignore" if schema else "infer")
    reading = arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1)
    try:
        return arrow_json.read_json(BytesIO(block), reading, ways)
    except pa.ArrowInvalid as error:
        reason = str(error).removeprefix("JSON parse error: ").strip()
        found = re.search(r"(.*?) in row (\d+)$", reason)
        row = rows + 1 + (int(found[2]) if found else 0)
        remedy = "write one JSON object per line, and each value in the same way in all of them"
        raise RowError(path, row, None, (found[1] if found else reason).rstrip("."), remedy, unit="row") from None


def find_json_schema(path: str, blocks: Iterable[bytes]) -> pa.Schema:
    """The types that fit the values of all lines. Dates stay text, as in CSV."""
    fields, rows = dict[str, pa.DataType](), 0
    for block in blocks:
        table = read_json(path, block, rows, None)
        for field in table.schema:
            fields[field.name] = _common_type(path, field.name, fields.get(field.name, pa.null()), field.type)
        rows += table.num_rows
    return pa.schema(list(fields.items()))


def json_batches(path: str, blocks: Iterable[bytes], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of JSON lines with these types."""
    rows = 0
    for block in blocks:
        table = read_json(path, block, rows, schema)
        yield from table.combine_chunks().to_batches()
        rows += table.num_rows


def _common_type(path: str, name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type for values of two types of JSON. Raises SourceError for a number and a text."""
    one, other = (pa.string() if pa.types.is_timestamp(kind) else kind for kind in (one, other))
    if pa.types.is_struct(one) or pa.types.is_struct(other):
        kinds = [{field.name: field.type for field in kind} for kind in (one, other) if not pa.types.is_null(kind)]
        if all(pa.types.is_struct(kind) or pa.types.is_null(kind) for kind in (one, other)):
            fields = dict.fromkeys(field for kind in kinds for field in kind)
            for field in fields:
                found = [kind.get(field, pa.null()) for kind in kinds]
                fields[field] = _common_type(path, f"{name}.{field}", found[0], found[-1])
            return pa.struct(list(fields.items()))
    elif pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(_common_type(path, name, one.value_type, other.value_type))
    if pa.types.is_null(one) or one == other:
        return pa.list_(_common_type(path, name, pa.null(), other.value_type)) if pa.types.is_list(other) else other
    if pa.types.is_null(other):
        return one
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise SourceError(
        f"{path}, column '{name}': some values are {one}, others {other}; write all of them in the same way"
    )


def open_pieces(
    path: str, place: str, unpacked: str, kind: Format, suffix: str
) -> tuple[pa.Schema, list[Piece], pa.RecordBatch | None, str]:
    """The schema, the pieces and the first rows of an Arrow file or of JSON lines; and where the pieces are."""
    with damage_in_words(path, kind):
        if kind == "Arrow":
            return *list_batches(place), place
        if kind == "Arrow stream":
            with open_native(place) as file:
                stream = pa.ipc.open_stream(file)
                return stream.schema, *store_batches(stream, unpacked), unpacked
        schema = find_json_schema(path, json_blocks(path, place, suffix))
        return schema, *store_batches(json_batches(path, json_blocks(path, place, suffix), schema), unpacked), unpacked
