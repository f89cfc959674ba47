"""Equal files among the images: they leak from the training rows of a fold into its held-out rows.

Only files of the same size are compared, by a hash of their ends first, with some tens of bytes of memory for each.
"""

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from ..files import ImageFile, read_image
from .list import ImageList

END_BYTES = 4096  # where images differ that begin with the same metadata
BATCH, MOST_KNOWN = 10_000, 100_000


def find_equal(images: ImageList) -> Iterator[list[int]]:
    """The indices of images whose files have equal bytes, each group in order. Files in buckets are not compared."""
    for group in _equal_by(images, _candidates(images), END_BYTES):
        yield from (sorted(one.tolist()) for one in _equal_by(images, group, None))


def _candidates(images: ImageList) -> np.ndarray:
    """The images whose size is that of another one."""
    lengths = images.table["length"].to_numpy()
    remote = np.array(["://" in place for place, _ in images.containers])
    local = np.flatnonzero(~remote[images.table["container"].to_numpy()] & (lengths > 0))
    _, inverse, counts = np.unique(lengths[local], return_inverse=True, return_counts=True)
    return local[counts[inverse] > 1]


def _equal_by(images: ImageList, numbers: np.ndarray, most: int | None) -> Iterator[np.ndarray]:
    """Groups of at least two images whose sizes and last `most` bytes, by default all, have the same hash."""
    if not len(numbers):
        return
    hashes = np.fromiter(_hashes(images, numbers, most), np.uint64, len(numbers))
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=hashes[order[0]] ^ np.uint64(1)))
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        if stop - start > 1:
            yield numbers[order[start:stop]]


def _hashes(images: ImageList, numbers: np.ndarray, most: int | None) -> Iterator[int]:
    """A hash for each image. A file with several names, through hard links, is read once."""
    known: dict[tuple[int, int], int] = {}
    for batch in np.array_split(numbers, -(-len(numbers) // BATCH)):
        rows = images.table.take(batch)
        columns = (rows[name].to_pylist() for name in ("container", "path", "offset", "length", "packed"))
        for container, path, offset, length, packed in zip(*columns, strict=True):
            place, archive = images.containers[container]
            try:
                if archive and (packed >= 0 or most is None):
                    yield _hash(read_image(ImageFile(place, offset, length, packed)), length)
                else:
                    yield _hash_part(place if archive else f"{place}/{path}", offset, length, most or length, known)
            except OSError:  # it is no longer as it was listed, so it equals none; decoding will say so
                yield hash((place, path, offset)) % 2**64


def _hash_part(path: str, offset: int, length: int, most: int, known: dict[tuple[int, int], int]) -> int:
    """A hash of the last `most` of some bytes of a local file. That of a file with several names is `known`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        linked = status.st_nlink > 1 and length == status.st_size
        identity = status.st_dev, status.st_ino
        if linked and identity in known:
            return known[identity]
        start = max(0, length - most)
        value = _hash(os.pread(descriptor, length - start, offset + start), length)
    finally:
        os.close(descriptor)
    if linked:
        if len(known) == MOST_KNOWN:
            known.clear()
        known[identity] = value
    return value


def _hash(data: bytes, length: int) -> int:
    """A hash of bytes, and of the size of their file."""
    digest = hashlib.blake2b(data, digest_size=8, key=length.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")
