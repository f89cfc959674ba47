"""Where the bytes of an image are: a file, an object, or a stretch of an archive."""

import struct
import zlib
from dataclasses import dataclass

from ...storage.places.locate import locate

STORED, DEFLATED = 0, 8  # ways in which a zip archive keeps its files
ZIP_HEAD = struct.Struct("<4s22xHH")  # a zip file's local header: signature, lengths of the name and of what follows it
ZIP_SIGNATURE = b"PK\x03\x04"


@dataclass(frozen=True)
class ImageFile:
    """`length` bytes of `place` from `offset` on; `packed` as a zip archive has them, behind its local header."""

    place: str
    offset: int
    length: int
    packed: int = -1


def read_image(file: ImageFile) -> bytes:
    """The bytes of an image file. Raises OSError if they are not what they were when it was listed."""
    place = locate(file.place)
    if file.packed < 0:
        data = place.read_range(file.offset, file.length + 1 if not file.offset else file.length)
        if len(data) != file.length and not file.offset:
            raise OSError("its size has changed since it was listed")
        return data
    signature, name, extra = ZIP_HEAD.unpack(place.read_range(file.offset, ZIP_HEAD.size))
    if signature != ZIP_SIGNATURE:
        raise OSError("the archive has changed since it was listed")
    data = place.read_range(file.offset + ZIP_HEAD.size + name + extra, file.length)
    if file.packed == STORED:
        return data
    try:
        return zlib.decompress(data, -zlib.MAX_WBITS)
    except zlib.error as error:
        raise OSError(f"the archive is damaged there: {error}") from None
