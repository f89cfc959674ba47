"""Equal files among the images: they leak from the training rows of a fold into its held-out rows.

Their bytes are hashed where they are read to be decoded, so that no file is read twice.
"""

import csv
import io
from collections.abc import Iterator

import numpy as np

from ...storage.places.place import Place
from .spec import ImageConversionSpec

EQUAL_FILES = "equal_files.csv"
SHOWN = 3  # pairs that the warning names


def find_equal(hashes: np.ndarray) -> list[np.ndarray]:
    """The positions of values that occur more than once, (values) uint64: one ascending array for each such value."""
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=~hashes[order[:1]]))
    sizes = np.diff(starts, append=len(order))
    groups = (order[start : start + size] for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True))
    return sorted(groups, key=lambda group: int(group[0]))


def list_equal(spec: ImageConversionSpec, root: Place, hashes: np.ndarray) -> Iterator[str]:
    """List the images with equal files beside the dataset's arrays; `hashes` are those of the rows, (rows,) uint64.
    Yields a warning if there are any."""
    by_number = np.argsort(spec.order)
    numbers = spec.order[by_number]
    lines, names, differ, count = io.StringIO(), list[str](), 0, 0
    rows = csv.writer(lines, lineterminator="\n")
    for group in find_equal(hashes[by_number]):
        first, *others = numbers[group].tolist()
        count += len(others)
        differ += sum(not np.array_equal(spec.y[first], spec.y[other]) for other in others if len(spec.y))
        equal = [spec.images.name(number) for number in (first, *others)]
        names += [] if len(names) >= SHOWN else [" = ".join(equal[:2])]
        rows.writerows((other, equal[0]) for other in equal[1:])
    if count:
        (root / EQUAL_FILES).write(b"file,equal_to\n" + lines.getvalue().encode(errors="backslashreplace"))
        labels = f", {differ:,} of them with another label" if differ else ""
        yield (
            f"{count:,} files are equal to others{labels} ({', '.join(names)}{', …' * (count > len(names))}; all are "
            f"listed in {root / EQUAL_FILES}); equal images in different folds make the scores too good: keep one of "
            "each, or keep them together with --group"
        )
