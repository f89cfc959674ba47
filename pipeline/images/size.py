"""The size of samples, if none is given, from the sizes of some of the images; and that of files that are stored."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from ...storage.errors import UsageError
from ...storage.machine import size_text
from ...storage.pictures.decode import ImageError, upright_size
from .files import read_image
from .listing.list import ImageList
from .spec import ImageConversionSpec

LOOKED_AT = 32  # images, evenly from the list
KEPT_AS_THEY_ARE = 128  # pixels: images that all have one size, and no longer side, keep it
LONGEST_SIDE = 64  # pixels of others: a network learns such samples in minutes without a GPU
LONGEST_BLOCK = 256 << 20  # bytes of image files, which a thread of the reader holds in memory
READERS = 8  # threads, which wait for a disk or a bucket


def fitting_size(images: ImageList) -> tuple[tuple[int, int], str]:
    """The (height, width) of samples in pixels that fits some images, and why.

    Small images that all have one size keep it. Others become squares, with the median of their shorter sides, and at
    most 64 pixels.
    """
    with ThreadPoolExecutor(READERS) as readers:
        sizes = list(filter(None, readers.map(lambda number: _size(images, number), _chosen(images))))
    if not sizes:
        return (LONGEST_SIDE, LONGEST_SIDE), "no image could be read"
    if len(set(sizes)) == 1 and max(sizes[0]) <= KEPT_AS_THEY_ARE:
        return sizes[0], "as the images"
    side = min(LONGEST_SIDE, int(np.median([min(size) for size in sizes])))
    height, width = (int(middle) for middle in np.median(sizes, axis=0))
    return (side, side), f"the images have about {height:,} x {width:,} pixels; --size keeps more of them"


def _chosen(images: ImageList) -> list[int]:
    """Numbers of images, evenly from those that can be read."""
    readable = np.setdiff1d(np.arange(len(images)), list(images.errors))
    places = np.linspace(0, len(readable) - 1, min(LOOKED_AT, len(readable))).astype(int)
    return [int(number) for number in readable[places]]


def _size(images: ImageList, number: int) -> tuple[int, int] | None:
    """The (height, width) of an image; None if it cannot be read, of which its conversion will tell."""
    with suppress(OSError, ImageError):
        height, width = upright_size(read_image(images.file(number)))
        return (height, width) if height and width else None
    return None


def check_encoded(spec: ImageConversionSpec) -> Iterator[str]:
    """Yield a warning if the image files take more space than their samples. Raises UsageError if those of a block
    would fill the memory."""
    lengths, layout = spec.images.table["length"].to_numpy()[spec.order], spec.layout
    rows = min(layout.rows, layout.block_rows)
    longest = int(np.add.reduceat(lengths, np.arange(0, layout.rows, layout.block_rows)).max())
    files, pixels = int(lengths.sum()), layout.rows * spec.schema.arrays()[0].row_bytes
    if longest > LONGEST_BLOCK:
        raise UsageError(
            f"--encoded: a block of {rows:,} image files, which is read at once, has up to {size_text(longest)}, more "
            f"than {size_text(LONGEST_BLOCK)}; make the files smaller, or store pixels without this option"
        )
    if files > pixels:
        yield (
            f"the image files have {size_text(files)}, and their pixels at the size of samples {size_text(pixels)}; "
            "without --encoded the dataset is smaller, and faster to read"
        )
