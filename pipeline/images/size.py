"""The size of samples, if none is given: from the sizes of some of the images."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from ...storage.pictures.decode import ImageError, upright_size
from .files import read_image
from .listing.list import ImageList

LOOKED_AT = 32  # images, evenly from the list
KEPT_AS_THEY_ARE = 128  # pixels: images that all have one size, and no longer side, keep it
LONGEST_SIDE = 64  # pixels of others: a network learns such samples in minutes without a GPU
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
