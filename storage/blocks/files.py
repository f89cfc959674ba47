"""Blocks of image files: Zarr's codec `vlen-bytes`, and their decoding into samples.

A block is the number of its rows, then for each row the length of its file and its bytes, and a checksum; numbers are
uint32, little endian. A short block is padded with empty files.
"""

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from ..format.images import ImageForm

NUMBER = struct.Struct("<I")


def pack_files(files: Sequence[bytes], rows: int) -> bytes:
    """A block of files, padded to a number of rows, without its checksum."""
    parts = [NUMBER.pack(rows)]
    for file in (*files, *(b"" for _ in range(rows - len(files)))):
        parts += (NUMBER.pack(len(file)), file)
    return b"".join(parts)


def files_of(block: bytes | np.ndarray) -> Iterator[bytes]:
    """The files of a block, in order."""
    data = block.data if isinstance(block, np.ndarray) else memoryview(block)
    (rows,), at = NUMBER.unpack_from(data), NUMBER.size
    for _ in range(rows):
        (length,) = NUMBER.unpack_from(data, at)
        at += NUMBER.size
        yield bytes(data[at : at + length])
        at += length


class UndecodedError(Exception):
    """The reason why the file of a `row` of a block cannot be decoded."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


def decode_files(block: bytes | np.ndarray, form: ImageForm, out: np.ndarray) -> np.ndarray:
    """Decode the files of a block, of which it is known that it is intact, into the rows of `out`, (rows, *sample), and
    return `out`. Raises UndecodedError."""
    from ..pictures.decode import ImageError, decode_image  # here: other datasets do without Pillow

    for row, file in enumerate(files_of(block)):
        if not file:
            break  # the padding
        try:
            decode_image(file, form, out[row])
        except ImageError as error:
            raise UndecodedError(row, str(error)) from None
    return out
