"""The bytes of an image: a file, an object, or a section of an archive."""

import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, overload

import google_crc32c
import numpy as np

from ...storage.errors import SourceError
from ...storage.places.locate import locate

REMOTE_READS = 16  # concurrent reads from an object store
TARGET = "target_"  # before the names of the columns that say where an image's target is
STORED, DEFLATED = 0, 8  # compression methods of zip archives
ZIP_HEAD = struct.Struct("<4s22xHH")  # a local header: signature, lengths of the name and the extra field
ZIP_SIGNATURE = b"PK\x03\x04"


@dataclass(frozen=True)
class ImageFile:
    """`length` bytes of `place` starting at `offset`. `packed` is the compression method in a zip archive, where a
    local header precedes the data, and `crc` the checksum of the file; both are -1 elsewhere."""

    place: str
    offset: int
    length: int
    packed: int = -1
    crc: int = -1


def files_in(columns: Any, prefix: str = "") -> list[ImageFile]:
    """The files that columns of Arrow describe, by the names of the fields after a prefix."""
    values = (columns[f"{prefix}{field.name}"].to_pylist() for field in fields(ImageFile))
    return [ImageFile(*of_file) for of_file in zip(*values, strict=True)]


def hash_file(data: bytes) -> int:
    """A hash with 64 bits, to find equal files: two CRCs with different polynomials. They take a hundredth of the time
    of decoding, a cryptographic hash three times as long."""
    other: int = google_crc32c.value(data)
    return zlib.crc32(data) << 32 | other


def read_image(file: ImageFile) -> bytes:
    """The bytes of an image file. Raises OSError if the file has changed since it was listed, or is damaged."""
    place = locate(file.place)
    if file.packed < 0:
        data = place.read_range(file.offset, file.length + 1 if not file.offset else file.length)
        if len(data) != file.length and not file.offset:
            raise OSError("the file's size has changed since it was listed")
        return data
    signature, name, extra = ZIP_HEAD.unpack(place.read_range(file.offset, ZIP_HEAD.size))
    if signature != ZIP_SIGNATURE:
        raise OSError("the archive has changed since it was listed")
    data = place.read_range(file.offset + ZIP_HEAD.size + name + extra, file.length)
    try:
        data = data if file.packed == STORED else zlib.decompress(data, -zlib.MAX_WBITS)
    except zlib.error as error:
        raise OSError(f"the archive is damaged: {error}") from None
    if file.crc >= 0 and zlib.crc32(data) != file.crc:
        raise OSError("the archive is damaged: the bytes do not match their checksum")
    return data


def read_ahead(files: Sequence[ImageFile], threads: Executor) -> Iterator[Callable[[], bytes]]:
    """A function per file that returns its bytes. Objects of a store, where latency is high and reads are concurrent,
    are requested ahead of time."""
    ahead: deque[Callable[[], bytes]] = deque()
    for file in files:
        ahead.append(threads.submit(read_image, file).result if "://" in file.place else partial(read_image, file))
        if len(ahead) > REMOTE_READS:
            yield ahead.popleft()
    yield from ahead


@dataclass(frozen=True)
class KeptFiles(Sequence[bytes]):
    """The bytes of files whose hashes are known, (files,) uint64. A slice is read when it is asked for, so that only a
    block of them is in memory."""

    files: Sequence[ImageFile]
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        """Raises SourceError for a file that is not the one that was decoded."""
        if isinstance(at, int):
            return self[at : at + 1][0]
        found = list[bytes]()
        with ThreadPoolExecutor(REMOTE_READS) as threads:
            for file, known, read in zip(
                self.files[at], self.hashes[at].tolist(), read_ahead(self.files[at], threads), strict=True
            ):
                try:
                    found.append(read())
                except OSError:
                    raise _changed(file) from None
                if hash_file(found[-1]) != known:
                    raise _changed(file)
        return found


def _changed(file: ImageFile) -> SourceError:
    return SourceError(f"{file.place} has changed during the conversion; run the same command again")
