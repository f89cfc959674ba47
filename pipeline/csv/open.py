"""Open a CSV source: detect its dialect and header, and unpack a file that cannot be read from the middle.

A file that is compressed or not UTF-8 is read once from start to end, and its rows are stored as compressed UTF-8
pieces in the conversion's work folder. After that, both kinds of files are read in parallel, piece by piece.
"""

import bz2
import codecs
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import PurePath
from typing import IO, Any

import numpy as np
import pyarrow as pa
from isal import igzip, igzip_lib

from ...storage.errors import SourceError
from ...storage.format.manifest import Source
from ...storage.places.locate import locate
from .cut import PACKER, PIECE_BYTES, CsvTable, check_length, count_text
from .dialect import (
    MARK_OF_UTF8,
    Dialect,
    column_names,
    find_delimiter,
    find_dialect,
    find_encoding,
    padded,
    sample_rows,
    split_row,
)
from .kernels import count_lines, find_rows
from .names import renamed_columns
from .options import CsvOptions
from .rewrite import Rewriting, find_rewriting, rewritten
from .row_batch import Piece

HEAD_BYTES = 256 << 10
LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")
SEPARATOR_LINE = re.compile(rb"\"?sep=([^\r\n\"]{1,4})\"?(\r\n|\n|\r)", re.IGNORECASE)
BROKEN: tuple[type[Exception], ...] = (EOFError, zlib.error, igzip_lib.IsalError, lzma.LZMAError, OSError)  # type: ignore[assignment]
"""The exceptions raised by a damaged or truncated stream."""


def open_csv(
    source: Source, options: CsvOptions, unpacked: str
) -> tuple[CsvTable, tuple[Piece, ...] | None, list[list[str]]]:
    """Open a source: its table, its pieces if they are already known (because the source had to be unpacked to the file
    `unpacked`), and the fields of its first rows.

    Raises SourceError for a file that is empty, damaged or truncated, or does not match its encoding.
    """
    path = source.path
    suffix = PurePath(path).suffix.lower()
    head = locate(path).read_range(0, min(HEAD_BYTES, source.bytes))
    encoding = "utf-8" if suffix in COMPRESSED else find_encoding(head, options)
    if suffix in COMPRESSED or encoding != "utf-8" or rewriting_of(path, head.removeprefix(MARK_OF_UTF8), options):
        with closing(locate(path).open_stream()) as raw:
            return unpack_csv(path, suffix, raw, options, unpacked)
    skipped = len(MARK_OF_UTF8) if head.startswith(MARK_OF_UTF8) else 0
    while True:
        whole = len(head) == source.bytes
        begin = _read_begin(path, head[skipped:], encoding, options, whole)
        if begin:
            break
        head = locate(path).read_range(0, min(4 * len(head), source.bytes))
    start, renamed = skipped + begin.start, begin.renamed
    table = CsvTable(path, path, False, begin.dialect, begin.header, start, begin.line, source.bytes, renamed=renamed)
    return table, None, begin.sample


@dataclass(frozen=True)
class _Begin:
    dialect: Dialect
    header: tuple[str, ...]
    start: int
    line: int
    renamed: tuple[str, ...]
    sample: list[list[str]]


def past_preamble(path: str, head: bytes, options: CsvOptions, whole: bool) -> tuple[int, int, CsvOptions] | None:
    """Where the text begins after the lines to skip, and after a line `sep=;` as Excel writes it; the number of those
    lines, and the options with that delimiter. None if more of the text is needed. Raises SourceError."""
    at = 0
    for line in range(options.skip_lines):
        found = LINE_END.search(head, at)
        if not found and not whole:
            return None
        if not found:
            raise SourceError(f"{path} has only {line + 1:,} lines, but --skip-lines skips {options.skip_lines:,}")
        at = found.end()
    if found := SEPARATOR_LINE.match(head, at):
        delimiter = options.delimiter or found[1].decode(errors="replace")
        return found.end(), options.skip_lines + 1, options.model_copy(update={"delimiter": delimiter})
    return at, options.skip_lines, options


def rewriting_of(path: str, head: bytes, options: CsvOptions) -> Rewriting | None:
    """How a text that begins with `head` has to be rewritten, if so."""
    begin = past_preamble(path, head, options, False)
    if begin is None:
        return None
    head, options = head[begin[0] :], begin[2]
    dialect = Dialect(quote=options.quote, comment=options.comment or "")
    return find_rewriting(head, options, partial(find_delimiter, path, head, dialect))


def _read_begin(path: str, head: bytes, encoding: str, options: CsvOptions, whole: bool) -> _Begin | None:
    """The dialect, the header and where the rows begin, from the start of a text; None if more of it is needed.

    `head` is UTF-8 without a byte order mark; `whole` means that it is the entire text.
    """
    if not head.strip():
        if whole:
            raise SourceError(f"{path} is empty; provide a CSV file with a header and rows")
        return None
    begin = past_preamble(path, head, options, whole)
    if begin is None:
        return None
    before, lines, options = begin
    head = head[before:]
    dialect = find_dialect(path, head, encoding, options)
    [[first, end]] = find_rows(padded(head), dialect.marks(), 1).tolist()
    if dialect.comment and options.comment is None:
        # The lines before the first row are taken for comments; a # after it may be part of a text.
        dialect = replace(dialect, comment="")
        [[_, end]] = find_rows(padded(head[first:]), dialect.marks(), 1).tolist()
        end += first if end >= 0 else 0
    if not whole and not 0 <= end < len(head):
        check_length(path, 1, len(head))
        return None
    end = min(end, len(head)) if end >= 0 else len(head)
    fields = split_row(head[first:end], dialect)
    line = 1 + lines + count_lines(np.frombuffer(head[:first], np.uint8))
    if not dialect.header:
        names = column_names(path, fields, line, (), options.names or tuple(map(str, range(len(fields)))))
        return _Begin(dialect, names, before + first, line, (), sample_rows(head[first:][:HEAD_BYTES], dialect))
    if head[end - 1 : end + 1] == b"\r\n":  # past_row stops after the CR
        end += 1
    rows = sample_rows(head[end:][:HEAD_BYTES], dialect)
    names = column_names(path, fields, line, rows, options.names or ())
    line = 1 + lines + count_lines(np.frombuffer(head[:end], np.uint8))
    return _Begin(dialect, names, before + end, line, renamed_columns(options.names or fields), rows)


def unpack_csv(
    path: str, suffix: str, raw: Any, options: CsvOptions, unpacked: str
) -> tuple[CsvTable, tuple[Piece, ...], list[list[str]]]:
    """Open a CSV source that is read once from start to end, and store its rows in the file `unpacked`; see
    `open_csv`. `raw` is the stream of the file, compressed as its suffix says."""
    try:
        with closing(decompressed(raw, suffix)) as stream:
            return _unpack_stream(path, options, unpacked, stream)
    except BROKEN as error:
        if suffix not in COMPRESSED or (isinstance(error, OSError) and error.errno):
            raise  # an error of the disk, or of the archive around it; a damaged stream has no errno
        raise SourceError(f"{path} is not a complete {suffix} file ({error}); download or compress it again") from None
    except UnicodeError as error:
        raise SourceError(
            f"{path} is not valid {error.encoding if isinstance(error, UnicodeDecodeError) else 'in its encoding'} "
            f"({error}); set --encoding"
        ) from None


def decompressed(stream: Any, suffix: str) -> Any:
    """A decompressed stream of bytes."""
    match suffix:
        case ".gz":
            return igzip.IGzipFile(fileobj=stream)
        case ".bz2":
            return bz2.BZ2File(stream)
        case ".xz":
            return lzma.LZMAFile(stream)
        case ".zst":
            return pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
        case _:
            return stream


def _decoded(stream: Any, encoding: str, first: bytes) -> Iterator[bytes]:
    """The stream's text as UTF-8 without a byte order mark. `first` is what has already been read from the stream."""
    data, begun = first, False
    decoder = codecs.getincrementaldecoder(encoding)()
    while data:
        if encoding == "utf-8":
            yield data if begun else data.removeprefix(MARK_OF_UTF8)
        else:
            text = decoder.decode(data)
            yield (text if begun else text.removeprefix("\ufeff")).encode()
        begun = True
        data = stream.read(PIECE_BYTES)
    if encoding != "utf-8":
        decoder.decode(b"", final=True)


def _unpack_stream(
    path: str, options: CsvOptions, unpacked: str, stream: Any
) -> tuple[CsvTable, tuple[Piece, ...], list[list[str]]]:
    first = bytes(stream.read(PIECE_BYTES))
    encoding = find_encoding(first, options)
    blocks = _decoded(stream, encoding, first)
    text = b""
    while len(text) < HEAD_BYTES and (block := next(blocks, b"")):
        text += block
    way = rewriting_of(path, text, options)
    if way and (preamble := past_preamble(path, text, options, False)):
        before, lines, options = preamble
        options = way.options(options).model_copy(update={"skip_lines": 0})
        blocks = chain([b"\n" * lines], rewritten(chain([text[before:]], blocks), way))  # to count the lines
    else:
        blocks = chain([text], blocks)
    head, begin, whole = b"", None, False
    while begin is None:
        more = next(blocks, None)
        whole = more is None
        head += more or b""
        begin = _read_begin(path, head, encoding, options, whole)
    dialect = replace(begin.dialect, written=way.describe() if way else "")
    table = CsvTable(path, unpacked, True, dialect, begin.header, 0, begin.line, 0, renamed=begin.renamed)
    with locate(unpacked).whole_file() as store:
        pieces, length = _store_pieces(table, head[begin.start :], blocks, store)
    return replace(table, bytes=length), tuple(pieces), begin.sample


def _store_pieces(table: CsvTable, first: bytes, blocks: Iterator[bytes], store: IO[bytes]) -> tuple[list[Piece], int]:
    """Cut a stream of text into pieces of whole rows and store them one after another, each compressed separately."""
    pieces: list[Piece] = []
    carry, pending, rows = first, b"", 0
    line, inside, at = table.line, False, 0

    def store_pending() -> None:
        nonlocal at, line
        if rows:
            data = PACKER.encode(pending)
            store.write(data)
            pieces.append(Piece(at, at + len(data), line, rows))
            at += len(data)
        line += count_lines(np.frombuffer(pending, np.uint8))

    for block in chain(blocks, [None]):
        # A section ends after its last line end, so that the next begins at the start of a line.
        end = len(carry) if block is None else carry.rfind(b"\n") + 1 or _last_return(carry)
        section, carry = carry[:end], carry[end:] + (block or b"")
        if not section:
            check_length(table.path, line, len(carry))
            continue
        _, outside, if_inside = count_text(padded(section), table.dialect)
        count = if_inside if inside else outside
        inside = count.inside
        pending += section[: count.first] if count.rows else section
        if count.rows:
            store_pending()
            pending, rows = section[count.first :], count.rows
        check_length(table.path, line, len(pending))
    store_pending()
    return pieces, at


def _last_return(data: bytes) -> int:
    """The position after the last CR that is certainly not half of a CRLF, or 0 if there is none."""
    return data.rfind(b"\r", 0, len(data) - 1) + 1


COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
