"""Cutting CSV files into pieces of whole rows.

A plain file is cut where it lies. A compressed one cannot be entered in the middle, so it is decompressed once and
its pieces are kept, packed, in the conversion's work folder: from then on both kinds are read in parallel.
"""

import bz2
import csv
import glob
import gzip
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from numcodecs import Zstd

from ..storage.errors import SourceError
from ..storage.files import sync_directory
from ..storage.format import Source

PIECE_BYTES = 8 << 20
LONGEST_ROW = 256 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path, mode: pa.input_stream(str(path), compression="zstd"),
}
SUFFIXES = (".csv", ".tsv")  # of the files of a folder, perhaps with one of the above


@dataclass(frozen=True)
class Piece:
    """Whole rows of one source: bytes `start` to `stop` of `path`, whose first line is line `first_line` (from 1).

    `path` is the source itself, or the packed copy of a compressed one (`packed`, Zstandard).
    """

    source: str
    path: str
    start: int
    stop: int
    first_line: int
    packed: bool


@dataclass(frozen=True)
class SplitTask:
    """Cut `source`; a compressed source puts its pieces into the file `spill`."""

    source: Source
    spill: str


@dataclass(frozen=True)
class Split:
    """A source's column names and its pieces in order."""

    header: tuple[str, ...]
    pieces: tuple[Piece, ...]


def find_sources(places: Sequence[str]) -> tuple[Source, ...]:
    """The files that paths, folders and patterns name; those of a folder or a pattern in the order of their paths.

    Raises SourceError for a place with no file, and for a file that two places name.
    """
    paths: list[str] = []
    for place in places:
        found = [place]
        if Path(place).is_dir():
            found = [str(path) for path in sorted(Path(place).rglob("*")) if path.is_file() and _is_csv(path)]
        elif glob.has_magic(place) and not Path(place).exists():
            found = [path for path in sorted(glob.glob(place, recursive=True)) if Path(path).is_file()]
        if not found:
            names = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise SourceError(f"{place} has no CSV files ({names}, plain or compressed); name the files")
        paths += found
    sources = tuple(map(describe_source, paths))
    for path, count in Counter(source.path for source in sources).items():
        if count > 1:
            raise SourceError(f"{path} is named twice; its rows would come twice")
    return sources


def _is_csv(path: Path) -> bool:
    stem = path.stem if path.suffix.lower() in OPENERS else path.name
    return stem.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def describe_source(path: str) -> Source:
    """A source's size and time. Raises SourceError if it is not a readable file."""
    place = Path(path).absolute()
    try:
        status = place.stat()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}; check the path") from None
    if not status.st_size:
        raise SourceError(f"{path} is empty; a CSV file with a header and rows is needed")
    return Source(str(place), status.st_size, status.st_mtime_ns)


def split_source(task: SplitTask) -> Split:
    """Cut one source into pieces of about 8 MB.

    Raises SourceError for a file that is empty, has a header only, or whose compression is broken or cut short.
    """
    path = Path(task.source.path)
    opener = OPENERS.get(path.suffix.lower())
    try:
        if opener is None:
            with open(path, "rb") as stream:
                return _split_stream(path, stream, None)
        spill = Path(task.spill)
        spill.parent.mkdir(parents=True, exist_ok=True)
        with opener(path, "rb") as stream, open(spill, "wb") as store:
            split = _split_stream(path, stream, store)
        sync_directory(spill.parent)
        return split
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk: what is no stream of its kind has no number
            raise
        raise SourceError(f"{path} is not a whole {path.suffix} file ({error}); fetch or compress it again") from None


def read_piece(piece: Piece) -> bytes:
    """The text of a piece, decompressed."""
    with open(piece.path, "rb") as file:
        file.seek(piece.start)
        data = file.read(piece.stop - piece.start)
    if len(data) != piece.stop - piece.start:
        raise SourceError(f"{piece.path} became shorter while it was read; run the command again once it rests")
    return bytes(Zstd().decode(data)) if piece.packed else data


def _split_stream(path: Path, stream: IO[bytes], store: IO[bytes] | None) -> Split:
    """Read a stream of text to its end; its pieces go into `store` if there is one."""
    spans = _whole_rows(path, stream)
    try:
        first = next(spans)
    except StopIteration:
        raise SourceError(f"{path} is empty; a CSV file with a header and rows is needed") from None
    header, skipped = read_header(path, first)
    pieces: list[Piece] = []
    line = 1 + first.count(b"\n", 0, skipped)
    offset = skipped
    for data in _prepend(first[skipped:], spans):
        if not data:
            continue
        stored = bytes(Zstd(level=1).encode(data)) if store else data
        start = store.tell() if store else offset
        if store:
            store.write(stored)
        place = store.name if store else str(path)
        pieces.append(Piece(str(path), place, start, start + len(stored), line, store is not None))
        offset += len(data)
        line += data.count(b"\n")
    if not pieces:
        raise SourceError(f"{path} has a header and no rows; there is nothing to convert")
    return Split(header, tuple(pieces))


def _prepend(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _whole_rows(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    """Cut a stream at line ends that are not inside quotes. The spans joined are the stream."""
    carry = b""
    while True:
        data = stream.read(PIECE_BYTES)
        if not data:
            if carry:
                yield carry
            return
        carry += data
        end = _last_row_end(carry)
        if end:
            yield carry[:end]
            carry = carry[end:]
        elif len(carry) > LONGEST_ROW:
            raise SourceError(f"{path}: no line end in {LONGEST_ROW:,} bytes; is it a CSV file with a quote left open?")


def _last_row_end(data: bytes) -> int:
    """Position after the last line end outside quotes, 0 if there is none.

    `data` starts outside quotes, and a line end is outside where an even number of quotes stands before it. Going
    back past one more quote turns the parity.
    """
    end = data.rfind(b"\n")
    odd = data.count(b'"', 0, end + 1) % 2
    while end >= 0 and odd:
        quote = data.rfind(b'"', 0, end)
        earlier = data.rfind(b"\n", 0, quote)
        odd = (odd + data.count(b'"', earlier + 1, end)) % 2
        end = earlier
    return end + 1


def read_header(path: Path, text: bytes) -> tuple[tuple[str, ...], int]:
    """Column names from the first row that is not blank, and the bytes that they take with all before them.

    Raises SourceError for names that are missing or stand twice.
    """
    position = len(BYTE_ORDER_MARK) if text.startswith(BYTE_ORDER_MARK) else 0
    while position < len(text):
        end = position
        while (end := text.find(b"\n", end) + 1) and text.count(b'"', position, end) % 2:
            pass
        end = end or len(text)
        row = text[position:end].rstrip(b"\r\n")
        position = end
        if row:
            return _column_names(path, row), position
    raise SourceError(f"{path} has no header; its first row must name the columns")


def _column_names(path: Path, row: bytes) -> tuple[str, ...]:
    try:
        (names,) = csv.reader([row.decode()], strict=True)
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise SourceError(f"{path}, line 1: the header is not UTF-8 CSV ({error}); save the file as UTF-8") from None
    for position, name in enumerate(names):
        if not name.strip():
            raise SourceError(f"{path}, line 1: column {position + 1} has no name; name it in the header")
        if name in names[:position]:
            raise SourceError(f"{path}, line 1: two columns are named «{name}»; rename one")
    return tuple(names)
